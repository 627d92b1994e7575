//! The order in which things are shown: what needs attention first, then what is large.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

pub(crate) use crate::doctor::zone::{has_no_pool, is_own, NEARLY_FULL};
use crate::report::model::zones::SharedZone;
use crate::report::model::{Process, Server};

/// The number of allocations in the zone that failed: the exact count, or a lower bound.
pub(crate) fn failed(zone: &SharedZone) -> u64 {
    zone.failures.or(zone.failures_at_least).unwrap_or(0)
}

/// Whether the zone needs attention: allocations failed, or it is nearly full.
pub(crate) fn is_pressed(zone: &SharedZone) -> bool {
    let is_full = zone.fill_percent.is_some_and(|percent| percent >= NEARLY_FULL);
    !is_own(zone) && (failed(zone) > 0 || is_full)
}

/// The sort key of a zone: failures first, then nearly full, then size. Mappings that only old workers
/// have come after these, and last the module's own and those without a slab pool.
fn key<'a>(name: &'a str, zone: &SharedZone) -> impl Ord + use<'a> {
    let class = match zone {
        zone if is_own(zone) || has_no_pool(zone) => 3,
        zone if !zone.current => 2,
        zone if is_pressed(zone) => 0,
        _ => 1,
    };
    (class, Reverse((failed(zone), zone.resident, zone.size)), name)
}

/// All mappings of all zones, in this order.
pub(crate) fn mappings(server: &Server) -> Vec<(&str, &SharedZone)> {
    let zones = server.shared_zones.0.iter();
    let mut all: Vec<_> =
        zones.flat_map(|(name, zone)| zone.all().map(move |m| (name.as_str(), m))).collect();
    all.sort_by_cached_key(|(name, zone)| key(name, zone));
    all
}

/// The places of the zones in the server's list, in the order of their newest mappings.
pub(crate) fn zones(server: &Server) -> Vec<usize> {
    let zones = &server.shared_zones.0;
    let mut places: Vec<usize> = (0..zones.len()).collect();
    places
        .sort_by_cached_key(|place| zones.get(*place).map(|(name, zone)| key(name, &zone.newest)));
    places
}

/// The places of the processes in the server's list, the largest resident first.
pub(crate) fn processes(processes: &[Process]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..processes.len()).collect();
    places.sort_by_key(|place| Reverse(processes.get(*place).and_then(|p| p.system.resident)));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(owner: &str, failures: u64, percent: u64, resident: u64) -> SharedZone {
        SharedZone {
            owner: Some(owner.to_owned()),
            failures: Some(failures),
            fill_percent: Some(percent),
            resident: Some(resident),
            current: true,
            ..SharedZone::default()
        }
    }

    #[test]
    fn attention_then_size() {
        let old = SharedZone { current: false, ..zone("old", 900, 100, 90) };
        let bounded = SharedZone {
            failures: None,
            failures_at_least: Some(7),
            ..zone("at least seven", 0, 10, 1)
        };
        let wanted = [
            ("a", zone("fails most", 12, 72, 1)),
            ("b", bounded),
            ("c", zone("fails less, large", 3, 99, 80)),
            ("d", zone("full", 0, 90, 2)),
            ("e", zone("large", 0, 89, 70)),
            ("f", zone("small", 0, 0, 3)),
            ("g", old),
            ("h", zone("ngx_http_memstat_module", 0, 99, 60)),
        ];
        let mut shuffled: Vec<_> = wanted.iter().rev().collect();
        shuffled.swap(0, 4);
        shuffled.sort_by_key(|(name, zone)| key(name, zone));
        let names: String = shuffled.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, "abcdefgh");
    }

    #[test]
    fn the_module_presses_nobody() {
        assert!(!is_pressed(&zone("ngx_http_memstat_module", 0, 99, 1)));
        assert!(is_pressed(&zone("ngx_http_lua_module", 0, 90, 1)));
        assert!(is_pressed(&zone("ngx_http_lua_module", 1, 0, 1)));
        assert!(!is_pressed(&zone("ngx_http_lua_module", 0, 89, 1)));
    }
}

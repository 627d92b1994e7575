//! A zone is nearly full, and its owner does not remove old entries.
#![forbid(unsafe_code)]

use super::room::{failed, uses, WhenFull, LEAST_REFUSED};
use super::verdict::{suggested, verdict, Words};
use super::zone::{self, NEARLY_FULL};
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::zones::SharedZone;
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "zone-nearly-full";

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let mut found: Vec<_> =
        zone::current(server).filter_map(|(name, zone)| examine(server, name, zone)).collect();
    found.sort_by_key(|verdict| verdict.status);
    found
}

fn examine(server: &Server, name: &str, zone: &SharedZone) -> Option<Verdict> {
    let (fill, in_use) = (zone.fill_percent?, zone.in_use?);
    let failed = failed(server, name, zone)?;
    // With refused requests, zone-failing speaks. A full zone that evicts has another rule.
    if fill < NEARLY_FULL || failed.refused >= LEAST_REFUSED {
        return None;
    }
    let allocations = uses(server, name, zone).filter_map(|uses| uses.allocations);
    let is_filled_at_start = allocations.fold(0, u64::saturating_add) == 0;
    let (status, impact, is_known) = match WhenFull::of(zone) {
        WhenFull::Refuses => (VerdictStatus::Yellow, "Requests fail when it is full", true),
        // What was there before the workers does not grow.
        WhenFull::Unknown if !is_filled_at_start => {
            (VerdictStatus::Yellow, "Allocations may fail when it is full", false)
        }
        WhenFull::Evicts(tries) if tries > 1 && failed.failures == 0 => (
            VerdictStatus::Info,
            "When it is full, each new value removes the least recently used ones. That is harmless \
             in a cache; values that must stay are lost",
            true,
        ),
        _ => return None,
    };
    let words = Words {
        symptom: format!(
            "Zone {name} is nearly full: {} of {}, {fill}%",
            size(in_use),
            size(zone.size)
        ),
        impact: impact.to_owned(),
        cause: "Its entries need nearly all of its pages".to_owned(),
        action: "Make the zone larger, then reload".to_owned(),
    };
    let made = verdict(ID, status, words)
        .with("fill_percent", fill)
        .with("in_use", in_use)
        .with("size", zone.size)
        .with("largest_allocation", zone.largest_allocation)
        .about_zone(name)
        .change(zone::resized(name, zone, suggested(in_use)));
    Some(if is_known { made } else { made.estimated() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{class, full_zone, with_uses, with_zone};

    fn said(owner: &str, fill: u64) -> Vec<Verdict> {
        let mut zone = full_zone(owner, vec![class(64, 5000, 0)]);
        zone.fill_percent = Some(fill);
        zone.in_use = Some((8 << 20) / 100 * fill);
        rule(&with_uses(with_zone("one", zone), "one", &[(5000, 100, 0)]))
    }

    #[test]
    fn speaks() {
        let found = said("ngx_http_limit_conn_module", NEARLY_FULL);
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Yellow));
        assert_eq!(found[0].symptom, "Zone one is nearly full: 7.20 MiB of 8.00 MiB, 90%");
        assert_eq!(found[0].directive.clone().unwrap().suggest, "zone=one:12m");
        assert_eq!(said("ngx_http_other_module", 95)[0].status, VerdictStatus::Yellow);
        assert_eq!(said("ngx_http_lua_module", 95)[0].status, VerdictStatus::Info);
    }

    #[test]
    fn near_misses() {
        assert_eq!(said("ngx_http_limit_conn_module", NEARLY_FULL - 1), []);
        for owner in
            ["ngx_http_proxy_module", "ngx_http_ssl_module", "ngx_http_upstream_zone_module"]
        {
            assert_eq!(said(owner, 99), [], "{owner}");
        }
        // No worker has ever allocated in it.
        let zone = full_zone("ngx_http_other_module", vec![class(64, 5000, 0)]);
        assert_eq!(rule(&with_zone("one", zone)), []);
    }

    /// The alert has the same limit.
    #[test]
    fn as_in_the_alert() {
        let alerts = include_str!("../../monitoring/alerts.yml");
        let said = alerts.split_once("alert: NginxZoneNearlyFull").map(|(_, rest)| rest);
        let ratio = format!("nginx_memstat_zone_fill_ratio > 0.{}\n", NEARLY_FULL / 10);
        assert_eq!(NEARLY_FULL % 10, 0);
        assert!(said.is_some_and(|said| said[..200].contains(&ratio)), "{said:?}");
    }
}

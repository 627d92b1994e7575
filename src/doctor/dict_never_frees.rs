//! A lua_shared_dict in which entries are stored and none is freed.
#![forbid(unsafe_code)]

use super::room::uses;
use super::verdict::{is_share, verdict, Words};
use super::zone;
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::zones::SharedZone;
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "dict-never-frees";

/// The fewest bytes in use that are worth a word.
const LEAST: u64 = 8 << 20;

/// The fewest stored entries: a dict that is filled once at the start may have fewer.
const ENTRIES: u64 = 10_000;

/// Of a hundred stored entries, the most that are freed: where entries expire, about as many are freed
/// as are stored.
const FREED_PERCENT: u64 = 1;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    zone::current(server).filter_map(|(name, zone)| examine(server, name, zone)).collect()
}

fn examine(server: &Server, name: &str, zone: &SharedZone) -> Option<Verdict> {
    let owner = zone.owner.as_deref()?;
    let in_use = zone.in_use?;
    if !matches!(owner, "ngx_http_lua_module" | "ngx_stream_lua_module") || in_use < LEAST {
        return None;
    }
    let (mut stored, mut freed) = (0u64, 0u64);
    for uses in uses(server, name, zone) {
        stored = stored.saturating_add(uses.allocations?);
        freed = freed.saturating_add(uses.frees?);
    }
    // Where memory was refused, a full dict has other rules.
    if stored < ENTRIES || is_share(freed, stored, FREED_PERCENT) || zone.failures != Some(0) {
        return None;
    }
    let words = Words {
        symptom: format!(
            "Zone {name} frees nothing: of {stored} entries stored, {freed} were freed; {} of {} are in \
             use, {}%",
            size(in_use),
            size(zone.size),
            zone.fill_percent.unwrap_or(0),
        ),
        impact: format!(
            "The zone grows up to its {}, and its pages stay in RAM. It is harmless if the entries \
             shall stay",
            size(zone.size)
        ),
        cause: "Either the entries have no expiry time, or one of them never expires and is never read: \
                ngx_lua removes expired entries from the least recently used end of its list, and stops \
                at the first one that has not expired"
            .to_owned(),
        action: "If the entries expire, give those that never expire a lua_shared_dict of their own, or \
                 call flush_expired() in a timer"
            .to_owned(),
    };
    let verdict = verdict(ID, VerdictStatus::Info, words)
        .with("stored", stored)
        .with("freed", freed)
        .with("in_use", in_use)
        .with("size", zone.size)
        .about_zone(name)
        .estimated();
    Some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{class, full_zone, with_uses, with_zone};

    fn said(owner: &str, in_use: u64, stored: u64, freed: u64) -> Vec<Verdict> {
        let mut zone = full_zone(owner, vec![class(512, stored, 0)]);
        (zone.size, zone.in_use, zone.failures) = (32 << 20, Some(in_use), Some(0));
        rule(&with_uses(with_zone("dict", zone), "dict", &[(stored, freed, 0)]))
    }

    #[test]
    fn speaks() {
        let found = said("ngx_http_lua_module", LEAST, ENTRIES, 99);
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
    }

    #[test]
    fn near_misses() {
        let lua = "ngx_http_lua_module";
        assert_eq!(said(lua, LEAST - 1, ENTRIES, 99), [], "small");
        assert_eq!(said(lua, LEAST, ENTRIES - 1, 0), [], "few");
        assert_eq!(said(lua, LEAST, ENTRIES, 100), [], "some are freed");
        assert_eq!(said("ngx_http_proxy_module", LEAST, ENTRIES, 0), [], "no dict");
    }
}

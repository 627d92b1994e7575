//! A full zone that removes its oldest entries, as it is meant to.
#![forbid(unsafe_code)]

use super::room::{failed, WhenFull, LEAST_REFUSED};
use super::verdict::{is_share, suggested, verdict, Words};
use super::zone;
use super::zone_failing::FREE_PERCENT;
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::zones::SharedZone;
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "zone-evicts";

/// The fewest removed entries that are worth a word.
const LEAST: u64 = 100;

/// The percentage of the requests for memory from which removals are usual instead of rare.
const PERCENT: u64 = 1;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let mut found: Vec<_> =
        zone::current(server).filter_map(|(name, zone)| examine(server, name, zone)).collect();
    found.sort_by_key(|(failures, _)| std::cmp::Reverse(*failures));
    found.into_iter().map(|(_, verdict)| verdict).collect()
}

fn examine(server: &Server, name: &str, zone: &SharedZone) -> Option<(u64, Verdict)> {
    let failed = failed(server, name, zone)?;
    let pages = zone.pages?;
    let is_quiet = failed.failures < LEAST
        || !is_share(failed.failures, failed.requests, PERCENT)
        || failed.refused >= LEAST_REFUSED
        || is_share(pages.free, pages.total, FREE_PERCENT);
    if is_quiet || !matches!(WhenFull::of(zone), WhenFull::Evicts(_)) {
        return None;
    }
    let words = Words {
        symptom: format!(
            "Zone {name} removes its oldest entries to store new ones: {} of {} requests for memory \
             found its {} full",
            failed.failures,
            failed.requests,
            size(zone.size),
        ),
        impact: "It is harmless if the entries are a cache: each one is stored, and an old one is \
                 missing later"
            .to_owned(),
        cause: "The zone is full, and its module is made to remove old entries then".to_owned(),
        action: "Make it larger only if entries must live longer".to_owned(),
    };
    let verdict = verdict(ID, VerdictStatus::Info, words)
        .with("failures", failed.failures)
        .with("requests", failed.requests)
        .with("size", zone.size)
        .about_zone(name)
        .change(zone::resized(name, zone, suggested(zone.size)))
        .estimated();
    Some((failed.failures, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{class, full_zone, with_full_zone, with_zone};

    fn said(owner: &str, reqs: u64, fails: u64) -> Vec<Verdict> {
        rule(&with_full_zone(owner, reqs, fails))
    }

    #[test]
    fn speaks() {
        for owner in ["ngx_http_lua_module", "ngx_http_limit_req_module", "ngx_http_proxy_module"] {
            let said = said(owner, 20_000, 10_000);
            assert_eq!((said.len(), said[0].status), (1, VerdictStatus::Info), "{owner}");
        }
        assert_eq!(said("ngx_http_ssl_module", 10_000, LEAST).len(), 1);
    }

    #[test]
    fn near_misses() {
        assert_eq!(said("ngx_http_ssl_module", 10_000, LEAST - 1), []);
        assert_eq!(said("ngx_http_ssl_module", 10_001, LEAST), [], "rare");
        assert_eq!(said("ngx_http_limit_conn_module", 20_000, 10_000), [], "it refuses");
        let mut zone = full_zone("ngx_http_proxy_module", vec![class(64, 20_000, 10_000)]);
        let pages = zone.pages.as_mut().unwrap();
        pages.free = pages.total / 2;
        assert_eq!(rule(&with_zone("one", zone)), [], "it is half empty now");
    }
}

//! A zone has many free pages, and no room for what needs adjacent ones.
#![forbid(unsafe_code)]

use super::room::WhenFull;
use super::verdict::{is_share, percent, verdict, Words};
use super::zone::{self, has_no_pool, is_own};
use super::zone_failing::FREE_PERCENT;
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::zones::SharedZone;
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "zone-fragmented";

/// The fewest failed requests of whole pages that are worth a word: ngx_lua tries 31 times to store one
/// value.
const LEAST: u64 = 10;

/// The fewest free bytes that are worth a word: small zones have few pages to join.
const LEAST_FREE: u64 = 256 << 10;

/// The longest run of free pages, in percent of all free pages, up to which the pages are scattered.
const RUN_PERCENT: u64 = 10;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let mut found: Vec<_> =
        zone::current(server).filter_map(|(name, zone)| examine(name, zone)).collect();
    found.sort_by_key(|(fails, _)| std::cmp::Reverse(*fails));
    found.into_iter().map(|(_, verdict)| verdict).collect()
}

fn examine(name: &str, zone: &SharedZone) -> Option<(u64, Verdict)> {
    let pages = zone.pages?;
    let (run, fails, reqs) = (pages.largest_free_run?, pages.fails?, pages.reqs?);
    let free = pages.free.saturating_mul(zone.page_size);
    let is_joined = run.saturating_mul(100) > pages.free.saturating_mul(RUN_PERCENT);
    let is_full = !is_share(pages.free, pages.total, FREE_PERCENT);
    if fails < LEAST
        || free < LEAST_FREE
        || is_joined
        || is_full
        || is_own(zone)
        || has_no_pool(zone)
    {
        return None;
    }
    let (status, impact) = match WhenFull::of(zone) {
        WhenFull::Evicts(_) => (
            VerdictStatus::Yellow,
            "A value that needs more adjacent pages removes other values and is often not stored",
        ),
        _ => (VerdictStatus::Red, "Requests that need more adjacent pages fail"),
    };
    let largest = zone.largest_allocation.unwrap_or(run.saturating_mul(zone.page_size));
    let words = Words {
        symptom: format!(
            "Zone {name} is fragmented: {fails} of {reqs} requests of whole pages failed while {} of {} \
             are free, {}%; the largest allocation that would succeed is {}",
            size(free),
            size(zone.size),
            percent(pages.free, pages.total).unwrap_or(0),
            size(largest),
        ),
        impact: impact.to_owned(),
        cause: "Free pages lie between pages in use. The slab allocator does not move what is in use, \
                and a value of several pages needs adjacent ones"
            .to_owned(),
        action: "Give large values a zone of their own, where the room of a removed one fits the next. \
                 A larger zone is as fragmented once it has been full"
            .to_owned(),
    };
    let verdict = verdict(ID, status, words)
        .with("page_failures", fails)
        .with("page_requests", reqs)
        .with("free", free)
        .with("free_runs", pages.free_runs)
        .with("largest_allocation", largest)
        .with("size", zone.size)
        .about_zone(name)
        .estimated();
    Some((fails, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{full_zone, with_zone};

    fn said(free: u64, run: u64, fails: u64) -> Vec<Verdict> {
        let mut zone = full_zone("ngx_http_lua_module", Vec::new());
        let pages = zone.pages.as_mut().unwrap();
        (pages.free, pages.largest_free_run, pages.free_runs) = (free, Some(run), Some(400));
        (pages.reqs, pages.fails) = (Some(2344), Some(fails));
        zone.largest_allocation = Some(run * 4096);
        rule(&with_zone("cache", zone))
    }

    #[test]
    fn speaks() {
        let found = said(1316, 16, 311);
        let symptom = "Zone cache is fragmented: 311 of 2344 requests of whole pages failed while 5.14 \
                       MiB of 8.00 MiB are free, 64%; the largest allocation that would succeed is 64.0 \
                       KiB";
        assert_eq!((found[0].symptom.as_str(), found[0].status), (symptom, VerdictStatus::Yellow));
        assert_eq!(said(406, 40, LEAST).len(), 1);
    }

    #[test]
    fn near_misses() {
        assert_eq!(said(405, 40, LEAST), [], "less than a fifth is free");
        assert_eq!(said(406, 41, LEAST), [], "a long run is free");
        assert_eq!(said(1316, 16, LEAST - 1), [], "few failures");
    }
}

//! Zones for tests.
#![forbid(unsafe_code)]

use super::Random;
use crate::report::merge::zones::Reported;
use crate::report::model::zones::{SharedZone, SlotClass, ZonePages, ZoneUse, ZoneUses, NO_POOL};
use crate::report::model::{Named, Note};

const K: u64 = 1024;

impl Random {
    /// A few names, each once.
    pub(super) fn names(&mut self) -> Vec<String> {
        let mut names = self.many(Self::text);
        names.extend(["one", "two"].iter().filter(|_| self.below(2) == 0).map(|n| (*n).to_owned()));
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn zone_use(&mut self) -> ZoneUse {
        ZoneUse {
            generation: self.maybe(|r| r.below(3)),
            mapped: self.figure(),
            touched: self.maybe_figure(),
            touched_ms_ago: self.maybe_figure(),
            allocations: self.maybe_figure(),
            frees: self.maybe_figure(),
            failures: self.maybe_figure(),
            bytes_requested: self.maybe_figure(),
        }
    }

    /// Any zone, even an impossible one.
    pub(crate) fn shared_zone(&mut self) -> SharedZone {
        SharedZone {
            owner: self.maybe(Self::text),
            generation: self.maybe(|r| r.below(3)),
            current: self.below(2) == 0,
            size: self.figure(),
            resident: self.maybe_figure(),
            resident_ms_ago: self.maybe_figure(),
            page_size: 4096,
            largest_allocation: self.maybe_figure(),
            in_use: self.maybe_figure(),
            fill_percent: self.maybe(|r| r.below(101)),
            failures: self.maybe_figure(),
            failures_at_least: self.maybe_figure(),
            pages: self.maybe(|r| ZonePages {
                total: r.figure(),
                used: r.figure(),
                free: r.figure(),
                largest_free_run: r.maybe_figure(),
                free_runs: r.maybe_figure(),
                reqs: r.maybe_figure(),
                fails: r.maybe_figure(),
            }),
            slots: self.maybe(|r| {
                let slot = |r: &mut Self| SlotClass {
                    used: r.figure(),
                    free: r.figure(),
                    reqs: r.figure(),
                    fails: r.figure(),
                };
                Named((3..12).map(|shift| ((1u64 << shift).to_string(), slot(r))).collect())
            }),
            notes: self.many(Self::note),
        }
    }

    /// The zones that any process may report.
    pub(crate) fn reported(&mut self) -> Reported {
        let zones = self.names().into_iter().map(|name| (name, self.shared_zone())).collect();
        Reported { generation: self.maybe(|r| r.below(3)), zones }
    }
}

fn zone_use(generation: u64, mapped: u64, touched: u64) -> ZoneUse {
    ZoneUse {
        generation: Some(generation),
        mapped,
        touched: Some(touched),
        touched_ms_ago: Some(0),
        allocations: Some(70),
        frees: Some(20),
        failures: Some(2),
        bytes_requested: Some(9_000),
    }
}

/// A typical zone of a small server; every figure is known.
pub(crate) fn full_zone(generation: u64, size: u64) -> SharedZone {
    let sizes = (3..12).map(|shift| 1u64 << shift);
    let slot = |size: u64| SlotClass { used: 3, free: 4096 / size - 3, reqs: 30, fails: 1 };
    let slots = sizes.map(|size| (size.to_string(), slot(size.min(1024))));
    let total = size / 4096 - 2;
    SharedZone {
        owner: Some("ngx_http_limit_req_module".to_owned()),
        generation: Some(generation),
        current: true,
        size,
        resident: Some(112 * K),
        resident_ms_ago: Some(0),
        page_size: 4096,
        largest_allocation: Some((total - 20) * 4096),
        in_use: Some(60 * K),
        fill_percent: Some(1),
        failures: Some(9),
        failures_at_least: Some(9),
        pages: Some(ZonePages {
            total,
            used: 17,
            free: total - 17,
            largest_free_run: Some(total - 20),
            free_runs: Some(3),
            reqs: Some(8),
            fails: Some(0),
        }),
        slots: Some(Named(slots.collect())),
        notes: Vec::new(),
    }
}

/// The uses of these zones by a process.
pub(super) fn uses() -> ZoneUses {
    Named(vec![
        ("one".to_owned(), zone_use(3, 10 * K * K, 64 * K)),
        ("nginx_shared_zone".to_owned(), zone_use(1, 1280, 4 * K)),
    ])
}

/// A zone that a reload has changed, and the zone of nginx's counters.
pub(super) fn reported() -> Vec<Reported> {
    let counters = SharedZone {
        owner: None,
        generation: Some(1),
        current: true,
        size: 1280,
        resident: Some(4 * K),
        resident_ms_ago: Some(0),
        page_size: 4096,
        notes: vec![Note::of(&["pages", "slots"], NO_POOL)],
        ..SharedZone::default()
    };
    let new = vec![
        ("one".to_owned(), full_zone(3, 10 * K * K)),
        ("nginx_shared_zone".to_owned(), counters),
    ];
    let old = vec![("one".to_owned(), full_zone(2, 20 * K * K))];
    let reported = [(3, new), (2, old)]
        .map(|(generation, zones)| Reported { generation: Some(generation), zones });
    reported.into()
}

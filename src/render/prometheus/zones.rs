//! Metrics of the shared memory zones.
//!
//! All metrics except `zone_older_size` describe the newest mapping of a zone. Counters come from
//! the zone's own memory, so they continue when a process ends. Only the largest zones have metrics
//! of their slots.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use super::family::{Families, Label, Labels, MetricName};
use crate::report::model::zones::{SharedZone, SharedZones, SlotClass, ZonePages, ZoneVersions};

/// The number of zones with metrics of their slots. With a few hundred zones they would be
/// thousands of series.
const WITH_SLOTS: usize = 64;

pub(super) fn zones(families: &mut Families, zones: &SharedZones) {
    let all: Vec<&(String, ZoneVersions)> = zones.0.iter().collect();
    let mut each = Each { families, zones: &all };
    each.number(
        MetricName("zone_info", "The module that the zone belongs to; always 1."),
        |name, zone| {
            let owner = zone.newest.owner.clone()?;
            Some((Labels::from([("zone", name.to_owned()), ("owner", owner)]), Some(1)))
        },
    );
    each.bytes(MetricName("zone_size", "The size of the zone."), |z| Some(z.size));
    each.bytes(MetricName("zone_resident", "Memory of the zone in RAM."), |z| z.resident);
    each.bytes(MetricName("zone_in_use", "Pages in use without the free slots in them."), |z| {
        z.in_use
    });
    each.bytes(
        MetricName("zone_largest_allocation", "The largest allocation that would succeed now."),
        |z| z.largest_allocation,
    );
    let older = |figure: fn(&SharedZone) -> Option<u64>| {
        move |name: &str, zone: &ZoneVersions| {
            let figures = zone.older.iter().map(figure);
            let sum = figures.into_iter().try_fold(0u64, |sum, bytes| sum.checked_add(bytes?));
            (!zone.older.is_empty()).then(|| (label(name), sum))
        }
    };
    let sizes = older(|z| Some(z.size));
    let series: Vec<_> = all.iter().filter_map(|(name, zone)| sizes(name, zone)).collect();
    each.families.bytes(
        MetricName(
            "zone_older_size",
            "Earlier mappings of the zone, which old workers still have.",
        ),
        series,
    );
    each.families.ratio(
        MetricName("zone_fill_ratio", "The part of the zone's pages that is in use, from 0 to 1."),
        all.iter().map(|(name, zone)| (label(name), fill(&zone.newest))).collect::<Vec<_>>(),
    );
    each.pages();
}

/// Adds the slots of the largest zones.
pub(super) fn slots(families: &mut Families, zones: &SharedZones) {
    let all: Vec<&(String, ZoneVersions)> = zones.0.iter().collect();
    Each { families, zones: &all }.slots();
}

/// The share of all pages that is in use.
fn fill(zone: &SharedZone) -> Option<f64> {
    let all = zone.pages?.total.checked_mul(zone.page_size).filter(|all| *all > 0)?;
    Some(zone.in_use? as f64 / all as f64)
}

fn label(name: &str) -> Labels {
    Labels::from([("zone", name.to_owned())])
}

struct Each<'a> {
    families: &'a mut Families,
    zones: &'a [&'a (String, ZoneVersions)],
}

impl Each<'_> {
    fn number(
        &mut self,
        name: MetricName,
        series: impl Fn(&str, &ZoneVersions) -> Option<(Labels, Option<u64>)>,
    ) {
        self.families.number(name, self.zones.iter().filter_map(|(n, zone)| series(n, zone)));
    }

    fn bytes(&mut self, name: MetricName, figure: fn(&SharedZone) -> Option<u64>) {
        self.families.bytes(name, self.zones.iter().map(|(n, z)| (label(n), figure(&z.newest))));
    }

    fn pages(&mut self) {
        type PagesCount = fn(ZonePages) -> u64;
        let states: [(&str, PagesCount); 2] = [("used", |p| p.used), ("free", |p| p.free)];
        self.families.number(
            MetricName("zone_pages", "Pages of the zone."),
            self.zones.iter().flat_map(|(name, zone)| {
                states.iter().map(move |(state, figure)| {
                    let labels = [("zone", name.clone()), ("state", (*state).to_owned())];
                    (Labels::from(labels), zone.newest.pages.map(figure))
                })
            }),
        );
        let mut of_pages =
            |name: MetricName, figure: fn(ZonePages) -> Option<u64>, counts: bool| {
                let series =
                    self.zones.iter().map(|(n, z)| (label(n), z.newest.pages.and_then(figure)));
                match counts {
                    false => self.families.number(name, series),
                    true => self.families.counter(name, series),
                }
            };
        of_pages(
            MetricName("zone_largest_free_run_pages", "The longest run of free pages."),
            |p| p.largest_free_run,
            false,
        );
        of_pages(MetricName("zone_page_requests", "Requests of whole pages."), |p| p.reqs, true);
        of_pages(
            MetricName("zone_page_failures", "Requests of whole pages that failed."),
            |p| p.fails,
            true,
        );
        self.families.counter(
            MetricName("zone_failures", "Failed allocations of any process."),
            self.zones.iter().map(|(name, zone)| (label(name), zone.newest.failures)),
        );
        let bounds = self.zones.iter().filter(|(_, zone)| zone.newest.failures.is_none());
        self.families.counter(
            MetricName(
                "zone_failures_at_least",
                "Failed allocations of up to half a page, if others are not counted.",
            ),
            bounds.map(|(name, zone)| (label(name), zone.newest.failures_at_least)),
        );
    }

    fn slots(&mut self) {
        let mut largest = self.zones.to_vec();
        largest.sort_by_key(|(name, zone)| (Reverse(zone.newest.size), name));
        largest.truncate(WITH_SLOTS);
        let slots: Vec<(&str, &str, SlotClass)> = largest
            .iter()
            .filter_map(|(name, zone)| Some((name.as_str(), zone.newest.slots.as_ref()?)))
            .flat_map(|(name, slots)| {
                slots.0.iter().map(move |(size, s)| (name, size.as_str(), *s))
            })
            .collect();
        let of = |(zone, slot, _): &(&str, &str, SlotClass)| -> [Label; 2] {
            [("zone", (*zone).to_owned()), ("slot", (*slot).to_owned())]
        };
        let labels = |slot: &(&str, &str, SlotClass)| Labels::from(of(slot));
        type SlotCount = fn(SlotClass) -> u64;
        let states: [(&str, SlotCount); 2] = [("used", |s| s.used), ("free", |s| s.free)];
        self.families.number(
            MetricName("zone_slots", "Slots in the pages of the zone, by their size in bytes."),
            slots.iter().flat_map(|slot| {
                states.iter().map(move |(state, figure)| {
                    let [zone, size] = of(slot);
                    let labels = [zone, size, ("state", (*state).to_owned())];
                    (Labels::from(labels), Some(figure(slot.2)))
                })
            }),
        );
        self.families.counter(
            MetricName("zone_slot_requests", "Requests of slots."),
            slots.iter().map(|slot| (labels(slot), Some(slot.2.reqs))),
        );
        self.families.counter(
            MetricName("zone_slot_failures", "Requests of slots that failed."),
            slots.iter().map(|slot| (labels(slot), Some(slot.2.fails))),
        );
    }
}

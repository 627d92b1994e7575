//! Reads the shared mappings of nginx in this process: their contents, and how much of them is in
//! RAM.
//!
//! A reading examines the descriptors of pages and asks the kernel about every page of memory, so
//! it is a job in steps. One process per server is enough: the one that answers a request reads
//! them. Workers from before a reload also read the mappings that only they may have. The memory is
//! read through a [`Window`], so that pages that the process has not touched stay untouched.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ops::Range;

use super::shared::{Remembered, SharedResidency};
use crate::abi::slab::runs::Runs;
use crate::abi::slab::{SlabHeader, SlabLayout};
use crate::budget::{Budget, Progress};
use crate::hook::slab;
use crate::report::model::zones::{SharedZone, SlotClass, ZonePages, ZoneUse, NO_POOL};
use crate::report::model::{Named, Note};
use crate::sys::pagemap::page_size;
use crate::sys::window::Window;
use crate::tally::mappings::SharedMapping;
use crate::tally::zones::SlabCounts;

/// A shared mapping of nginx in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneMapping {
    /// The zone's name.
    pub name: String,
    /// The module that it belongs to, or the reason why there is none.
    pub owner: Result<String, String>,
    /// The addresses at which it is mapped.
    pub range: Range<usize>,
    /// Whether it is a zone of the configuration, with a slab pool at its start.
    pub is_zone: bool,
    /// The hook's record of the mapping, if the hook saw it.
    pub seen: Option<SharedMapping>,
}

impl ZoneMapping {
    /// Returns the pages that the mapping occupies.
    pub fn pages(&self) -> Range<usize> {
        self.range.start..self.range.end.next_multiple_of(page_size())
    }

    /// See [`SharedZone::generation`].
    pub fn generation(&self) -> Option<u64> {
        self.seen.as_ref()?.generation
    }

    /// Returns the zone before it has been read.
    pub fn unread(&self) -> SharedZone {
        blank(self, Some("it is still being read".into()))
    }

    /// Returns how this process uses the zone, without `touched`.
    pub fn uses(&self) -> ZoneUse {
        self.uses_by(|seen| slab::counts(seen.address))
    }

    /// Returns how the master uses the zone, without `touched`.
    pub fn uses_by_master(&self) -> ZoneUse {
        self.uses_by(slab::masters_counts)
    }

    fn uses_by(&self, counts: impl Fn(&SharedMapping) -> Option<SlabCounts>) -> ZoneUse {
        let counts = match &self.seen {
            Some(seen) => counts(seen),
            // A mapping without a slab pool has no allocations.
            None => (!self.is_zone).then(SlabCounts::default),
        };
        ZoneUse {
            generation: self.generation(),
            mapped: self.range.len() as u64,
            touched: None,
            touched_ms_ago: None,
            allocations: counts.map(|counts| counts.allocations),
            frees: counts.map(|counts| counts.frees),
            failures: counts.map(|counts| counts.failures),
            bytes_requested: counts.map(|counts| counts.bytes_requested),
        }
    }
}

/// A reading in progress.
#[derive(Debug)]
pub struct ZonesReading {
    mappings: Vec<ZoneMapping>,
    layout: SlabLayout,
    stage: ZoneStage,
    remembered: Remembered,
    done: Vec<(String, SharedZone)>,
}

#[derive(Debug)]
enum ZoneStage {
    /// The next mapping has not been started.
    Next,
    /// Searches for runs of free pages of a pool with this header; the last field is the attempt
    /// number.
    Runs(SlabHeader, Runs, u32),
    /// Everything about the zone is known except its resident pages.
    Known(Box<SharedZone>),
    /// The resident pages are being counted.
    Loaded(Box<SharedZone>, SharedResidency),
}

/// Pools of at most this many pages are read again if they changed during the reading.
const SMALL: usize = 16 * 1024;
/// The maximum number of attempts for such a pool.
const TRIES: u32 = 3;

impl ZonesReading {
    /// Starts to read mappings, whose slab pools have this layout. Earlier counts of pages in RAM
    /// are taken from `remembered`.
    pub fn begin(
        mappings: Vec<ZoneMapping>,
        layout: SlabLayout,
        mut remembered: Remembered,
    ) -> Self {
        remembered.retain(|range| mappings.iter().any(|mapping| mapping.pages() == *range));
        ZonesReading { mappings, layout, stage: ZoneStage::Next, remembered, done: Vec::new() }
    }

    /// Continues until the budget is spent or everything is read.
    pub fn step(&mut self, budget: &Budget) -> Progress {
        // Lives for one slice at most, so that nobody else sees the second mapping.
        let mut window: Option<Window> = None;
        while let Some(mapping) = self.mappings.get(self.done.len()) {
            match std::mem::replace(&mut self.stage, ZoneStage::Next) {
                ZoneStage::Next if !mapping.is_zone => {
                    self.stage = known(blank(mapping, Some(NO_POOL.into())));
                }
                ZoneStage::Next => {
                    self.stage = begin(mapping, open(&mut window, mapping), &self.layout)
                }
                ZoneStage::Runs(header, runs, tries) => {
                    self.stage = look(
                        mapping,
                        open(&mut window, mapping),
                        &self.layout,
                        header,
                        runs,
                        tries,
                    );
                }
                ZoneStage::Known(mut zone) => match self.remembered.of(&mapping.pages()) {
                    Some((bytes, age)) => {
                        zone.resident = Some(bytes);
                        zone.resident_ms_ago = u64::try_from(age.as_millis()).ok();
                        self.done.push((mapping.name.clone(), *zone));
                    }
                    None => {
                        let count = SharedResidency::begin(mapping.pages());
                        self.stage = ZoneStage::Loaded(zone, count);
                    }
                },
                ZoneStage::Loaded(mut zone, mut count) => match count.step(budget) {
                    Ok(Progress::More) => self.stage = ZoneStage::Loaded(zone, count),
                    Ok(Progress::Done) => {
                        zone.resident = Some(count.finish());
                        zone.resident_ms_ago = Some(0);
                        self.remembered.add(&count);
                        self.done.push((mapping.name.clone(), *zone));
                    }
                    Err(error) => {
                        let reason = format!("mincore: {error}");
                        zone.notes.push(Note::of(&["resident"], reason));
                        self.done.push((mapping.name.clone(), *zone));
                    }
                },
            }
            if !matches!(self.stage, ZoneStage::Runs(..)) {
                window = None;
            }
            if budget.spent() {
                break;
            }
        }
        if self.done.len() < self.mappings.len() {
            Progress::More
        } else {
            Progress::Done
        }
    }

    /// Returns the zones with their names, and the counts to keep for the next reading.
    pub fn finish(&mut self) -> (Vec<(String, SharedZone)>, Remembered) {
        (std::mem::take(&mut self.done), std::mem::take(&mut self.remembered))
    }
}

/// Returns the window on a mapping, and opens it first if necessary.
fn open<'a>(window: &'a mut Option<Window>, mapping: &ZoneMapping) -> &'a Window {
    window.get_or_insert_with(|| Window::open(mapping.pages()))
}

/// Starts to read a zone.
fn begin(mapping: &ZoneMapping, window: &Window, layout: &SlabLayout) -> ZoneStage {
    match header(mapping, window, layout) {
        Ok(header) => {
            let runs = Runs::begin(header.pages);
            ZoneStage::Runs(header, runs, 1)
        }
        Err(why) => known(blank(mapping, Some(why.into()))),
    }
}

fn known(zone: SharedZone) -> ZoneStage {
    ZoneStage::Known(Box::new(zone))
}

/// Examines the next descriptors.
fn look(
    mapping: &ZoneMapping,
    window: &Window,
    layout: &SlabLayout,
    header: SlabHeader,
    mut runs: Runs,
    tries: u32,
) -> ZoneStage {
    if let Some(wanted) = runs.wanted(header.descriptors, page_size()) {
        let mut copy = vec![0; wanted.len()];
        if let Err(error) = window.read(wanted.start, &mut copy) {
            return known(blank(mapping, Some(format!("it cannot be read: {error}").into())));
        }
        runs.look(&copy);
        return ZoneStage::Runs(header, runs, tries);
    }
    // If the header has not changed since, all figures are of the same moment.
    match self::header(mapping, window, layout) {
        Ok(now) if now.free != runs.free && now.pages <= SMALL && tries < TRIES => {
            let runs = Runs::begin(now.pages);
            ZoneStage::Runs(now, runs, tries + 1)
        }
        Ok(now) => known(filled(mapping, &now, &runs)),
        Err(why) => known(blank(mapping, Some(why.into()))),
    }
}

fn header(
    mapping: &ZoneMapping,
    window: &Window,
    layout: &SlabLayout,
) -> Result<SlabHeader, String> {
    let mut bytes = vec![0; layout.header_bytes().min(mapping.range.len())];
    window
        .read(mapping.range.start, &mut bytes)
        .map_err(|error| format!("it cannot be read: {error}"))?;
    SlabHeader::read(&bytes, &mapping.range, layout, page_size())
        .map_err(|defect| defect.to_string())
}

/// Returns a zone of which only the mapping is known, with the reason.
fn blank(mapping: &ZoneMapping, why: Option<Cow<'static, str>>) -> SharedZone {
    let mut notes = Vec::new();
    if let Err(why) = &mapping.owner {
        notes.push(Note::of(&["owner"], why.clone()));
    }
    notes.extend(why.map(|why| Note::of(&OF_POOL, why)));
    SharedZone {
        owner: mapping.owner.clone().ok(),
        generation: mapping.generation(),
        size: mapping.range.len() as u64,
        page_size: page_size() as u64,
        notes,
        ..SharedZone::default()
    }
}

/// The figures of a slab pool.
const OF_POOL: [&str; 7] = [
    "pages",
    "slots",
    "largest_allocation",
    "in_use",
    "fill_percent",
    "failures",
    "failures_at_least",
];

/// The reason why the number of failed requests for whole pages is unknown.
const NOT_COUNTED: &str = "the slab hook did not count requests of more than half a page; \
    failures_at_least has the others, which nginx counts";

/// Returns a zone with the figures of its slab pool.
fn filled(mapping: &ZoneMapping, header: &SlabHeader, runs: &Runs) -> SharedZone {
    let mut zone = blank(mapping, None);
    let (page, total) = (zone.page_size, header.pages as u64);
    // In a pool that keeps changing, the runs and the header are of different moments.
    let largest = runs.largest.min(header.free);
    let used = total - header.free;
    let in_use = used.saturating_mul(page).saturating_sub(header.free_in_slots());
    let whole_pages = mapping.seen.as_ref().and_then(slab::page_counts);
    if whole_pages.is_none() {
        zone.notes.push(Note::of(&["failures", "pages.reqs", "pages.fails"], NOT_COUNTED));
    }
    let slot_failures =
        header.classes.iter().fold(0u64, |sum, class| sum.saturating_add(class.fails));
    zone.largest_allocation =
        Some(if largest > 0 { largest.saturating_mul(page) } else { header.largest_slot() });
    zone.in_use = Some(in_use);
    zone.fill_percent = in_use.saturating_mul(100).checked_div(total.saturating_mul(page));
    zone.failures = whole_pages.map(|counts| counts.fails.saturating_add(slot_failures));
    zone.failures_at_least = zone.failures.or(Some(slot_failures));
    zone.pages = Some(ZonePages {
        total,
        used,
        free: header.free,
        largest_free_run: Some(largest),
        free_runs: Some(runs.count.min(header.free)),
        reqs: whole_pages.map(|counts| counts.reqs),
        fails: whole_pages.map(|counts| counts.fails),
    });
    let slots = header.classes.iter().map(|class| {
        let slot =
            SlotClass { used: class.used, free: class.free, reqs: class.reqs, fails: class.fails };
        (class.size.to_string(), slot)
    });
    zone.slots = Some(Named(slots.collect()));
    zone
}

#[cfg(test)]
mod tests;

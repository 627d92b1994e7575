//! The shared mappings of nginx in this process: what is in them, and what of them is in RAM.
//!
//! A reading goes through the descriptors of pages and asks the kernel about every page of memory,
//! so it is a job in steps. One process is enough for the server: who answers takes it, and the
//! workers of before a reload, of the mappings that only they may have. It reads through a
//! [`Window`]: a zone's pages that the process has not touched stay untouched.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::shared::{Remembered, SharedResidency};
use crate::abi::slab::runs::Runs;
use crate::abi::slab::{Header, Layout};
use crate::budget::{Budget, Progress};
use crate::hook::slab;
use crate::report::model::zones::{Pages, SharedZone, Slot, ZoneUse};
use crate::report::model::Named;
use crate::sys::pagemap::page_size;
use crate::sys::window::Window;
use crate::tally::mappings::Mapping;
use crate::tally::zones::Counts;

/// A shared mapping of nginx in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneMapping {
    /// The zone's name.
    pub name: String,
    /// The module it belongs to; without one, why.
    pub owner: Result<String, String>,
    /// Where it is mapped.
    pub range: Range<usize>,
    /// Whether it is a zone of the configuration, with a slab pool at its start.
    pub is_zone: bool,
    /// What the hook knows of it, if that saw it.
    pub seen: Option<Mapping>,
}

impl ZoneMapping {
    /// The pages it takes.
    pub fn pages(&self) -> Range<usize> {
        self.range.start..self.range.end.next_multiple_of(page_size())
    }

    /// See [`SharedZone::generation`].
    pub fn generation(&self) -> Option<u64> {
        self.seen.as_ref()?.generation
    }

    /// The zone, as long as it is not read.
    pub fn unread(&self) -> SharedZone {
        blank(self, Some("it is still being read".to_owned()))
    }

    /// What this process has to do with it, `touched` apart.
    pub fn uses(&self) -> ZoneUse {
        self.uses_by(|seen| slab::counts(seen.address))
    }

    /// The same of the master.
    pub fn uses_by_master(&self) -> ZoneUse {
        self.uses_by(slab::masters_counts)
    }

    fn uses_by(&self, counts: impl Fn(&Mapping) -> Option<Counts>) -> ZoneUse {
        let counts = match &self.seen {
            Some(seen) => counts(seen),
            // With no slab pool there is nothing to allocate.
            None => (!self.is_zone).then(Counts::default),
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

/// A reading under way.
#[derive(Debug)]
pub struct ZonesReading {
    mappings: Vec<ZoneMapping>,
    layout: Layout,
    stage: Stage,
    remembered: Remembered,
    done: Vec<(String, SharedZone)>,
}

#[derive(Debug)]
enum Stage {
    /// The next mapping is to begin.
    Next,
    /// Runs of free pages of a pool with this header; it is the so manieth try.
    Runs(Header, Runs, u32),
    /// A zone of which all but the resident pages is known.
    Known(Box<SharedZone>),
    /// Counting those.
    Loaded(Box<SharedZone>, SharedResidency),
}

/// Pools of so many pages are gone through again, if they changed meanwhile.
const SMALL: usize = 16 * 1024;
/// So often.
const TRIES: u32 = 3;

impl ZonesReading {
    /// Begins to read mappings, in which slab pools have this layout. What of them is in RAM may be
    /// remembered.
    pub fn begin(mappings: Vec<ZoneMapping>, layout: Layout, mut remembered: Remembered) -> Self {
        remembered.retain(|range| mappings.iter().any(|mapping| mapping.pages() == *range));
        ZonesReading { mappings, layout, stage: Stage::Next, remembered, done: Vec::new() }
    }

    /// Goes on until the budget is spent or all is read.
    pub fn step(&mut self, budget: &Budget) -> Progress {
        // For no longer than a slice: nobody else sees the second mapping.
        let mut window: Option<Window> = None;
        while let Some(mapping) = self.mappings.get(self.done.len()) {
            match std::mem::replace(&mut self.stage, Stage::Next) {
                Stage::Next if !mapping.is_zone => {
                    let why = "it is no zone of the configuration, so it has no slab pool";
                    self.stage = known(blank(mapping, Some(why.to_owned())));
                }
                Stage::Next => {
                    self.stage = begin(mapping, open(&mut window, mapping), &self.layout)
                }
                Stage::Runs(header, runs, tries) => {
                    self.stage = look(
                        mapping,
                        open(&mut window, mapping),
                        &self.layout,
                        header,
                        runs,
                        tries,
                    );
                }
                Stage::Known(mut zone) => match self.remembered.of(&mapping.pages()) {
                    Some((bytes, age)) => {
                        zone.resident = Some(bytes);
                        zone.resident_ms_ago = u64::try_from(age.as_millis()).ok();
                        self.done.push((mapping.name.clone(), *zone));
                    }
                    None => {
                        let count = SharedResidency::begin(mapping.pages());
                        self.stage = Stage::Loaded(zone, count);
                    }
                },
                Stage::Loaded(mut zone, mut count) => match count.step(budget) {
                    Ok(Progress::More) => self.stage = Stage::Loaded(zone, count),
                    Ok(Progress::Done) => {
                        zone.resident = Some(count.finish());
                        zone.resident_ms_ago = Some(0);
                        self.remembered.add(&count);
                        self.done.push((mapping.name.clone(), *zone));
                    }
                    Err(error) => {
                        zone.notes.push(format!("resident: mincore: {error}"));
                        self.done.push((mapping.name.clone(), *zone));
                    }
                },
            }
            if !matches!(self.stage, Stage::Runs(..)) {
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

    /// The zones, with their names, and what is to be remembered for the next reading.
    pub fn finish(&mut self) -> (Vec<(String, SharedZone)>, Remembered) {
        (std::mem::take(&mut self.done), std::mem::take(&mut self.remembered))
    }
}

/// The window on a mapping, opened if it is not.
fn open<'a>(window: &'a mut Option<Window>, mapping: &ZoneMapping) -> &'a Window {
    window.get_or_insert_with(|| Window::open(mapping.pages()))
}

/// Begins with a zone.
fn begin(mapping: &ZoneMapping, window: &Window, layout: &Layout) -> Stage {
    match header(mapping, window, layout) {
        Ok(header) => {
            let runs = Runs::begin(header.pages);
            Stage::Runs(header, runs, 1)
        }
        Err(why) => known(blank(mapping, Some(why))),
    }
}

fn known(zone: SharedZone) -> Stage {
    Stage::Known(Box::new(zone))
}

/// Looks at the next descriptors.
fn look(
    mapping: &ZoneMapping,
    window: &Window,
    layout: &Layout,
    header: Header,
    mut runs: Runs,
    tries: u32,
) -> Stage {
    if let Some(wanted) = runs.wanted(header.descriptors, page_size()) {
        let mut copy = vec![0; wanted.len()];
        if let Err(error) = window.read(wanted.start, &mut copy) {
            return known(blank(mapping, Some(format!("it cannot be read: {error}"))));
        }
        runs.look(&copy);
        return Stage::Runs(header, runs, tries);
    }
    // All of one moment, if nothing has changed since.
    match self::header(mapping, window, layout) {
        Ok(now) if now.free != runs.free && now.pages <= SMALL && tries < TRIES => {
            let runs = Runs::begin(now.pages);
            Stage::Runs(now, runs, tries + 1)
        }
        Ok(now) => known(filled(mapping, &now, &runs)),
        Err(why) => known(blank(mapping, Some(why))),
    }
}

fn header(mapping: &ZoneMapping, window: &Window, layout: &Layout) -> Result<Header, String> {
    let mut bytes = vec![0; layout.header_bytes().min(mapping.range.len())];
    window
        .read(mapping.range.start, &mut bytes)
        .map_err(|error| format!("it cannot be read: {error}"))?;
    Header::read(&bytes, &mapping.range, layout, page_size()).map_err(|defect| defect.to_string())
}

/// A zone of which only the mapping is known, and why there is no more.
fn blank(mapping: &ZoneMapping, why: Option<String>) -> SharedZone {
    let mut notes = Vec::new();
    if let Err(why) = &mapping.owner {
        notes.push(format!("owner: {why}"));
    }
    notes.extend(why.map(|why| {
        format!(
            "pages, slots, largest_allocation, in_use, fill_percent, failures, \
             failures_at_least: {why}"
        )
    }));
    SharedZone {
        owner: mapping.owner.clone().ok(),
        generation: mapping.generation(),
        size: mapping.range.len() as u64,
        page_size: page_size() as u64,
        notes,
        ..SharedZone::default()
    }
}

/// Why it is not known how often a request of whole pages failed.
const NOT_COUNTED: &str =
    "failures, pages.reqs, pages.fails: the slab hook did not count requests of \
    more than half a page; failures_at_least has the others, which nginx counts";

/// A zone with a slab pool.
fn filled(mapping: &ZoneMapping, header: &Header, runs: &Runs) -> SharedZone {
    let mut zone = blank(mapping, None);
    let (page, total) = (zone.page_size, header.pages as u64);
    // The runs are those of another moment, if the pool changes all the time.
    let largest = runs.largest.min(header.free);
    let used = total - header.free;
    let in_use = used.saturating_mul(page).saturating_sub(header.free_in_slots());
    let whole_pages = mapping.seen.as_ref().and_then(slab::page_counts);
    if whole_pages.is_none() {
        zone.notes.push(NOT_COUNTED.to_owned());
    }
    let slot_failures =
        header.classes.iter().fold(0u64, |sum, class| sum.saturating_add(class.fails));
    zone.largest_allocation =
        Some(if largest > 0 { largest.saturating_mul(page) } else { header.largest_slot() });
    zone.in_use = Some(in_use);
    zone.fill_percent = in_use.saturating_mul(100).checked_div(total.saturating_mul(page));
    zone.failures = whole_pages.map(|counts| counts.fails.saturating_add(slot_failures));
    zone.failures_at_least = zone.failures.or(Some(slot_failures));
    zone.pages = Some(Pages {
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
            Slot { used: class.used, free: class.free, reqs: class.reqs, fails: class.fails };
        (class.size.to_string(), slot)
    });
    zone.slots = Some(Named(slots.collect()));
    zone
}

#[cfg(test)]
mod tests;

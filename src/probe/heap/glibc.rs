//! Measures glibc's malloc.
//!
//! `mallinfo2` walks every free chunk with the arenas locked, which takes 181 ms for a million
//! chunks and so blocks an event loop for too long. It is called only once, at the start, to check
//! that malloc's private structures are where they were expected and have the expected contents.
//! Afterwards this probe reads them itself, in steps: [`count`] counts the free memory, the other
//! files find what malloc holds and where.
#![deny(unsafe_code)]

mod arenas;
mod count;
mod counting;
mod ffi;
mod mapped;
mod sweep;
mod walk;

mod calibrate;
mod direct;

use std::convert::Infallible;
use std::ops::Range;
use std::time::Duration;

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use super::pace::cpu_time;
use super::symbols::AllocatorObject;
use super::HeapReading;
use crate::budget::{Budget, Job, Progress};
use crate::report::model::{Allocator, Category, Note};
use crate::sys::maps;
use crate::sys::memory::OwnMemory;
use crate::sys::pagemap::PageMap;
use crate::sys::ranges::{normalize, subtract};
use arenas::{ArenaSums, MallocState, Reader};
#[cfg(test)]
pub use ffi::mallinfo;
pub use ffi::version;
#[cfg(test)]
pub use ffi::MallInfo;

use crate::abi::glibc::{Mmapped, ANYWHERE};
use counting::ArenaCounting;
use ffi::MallocFunctions;
use mapped::Finder;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeapStage {
    Arenas,
    Mapped,
    Done,
}

/// The probe of glibc's malloc.
pub struct Glibc {
    version: String,
    functions: MallocFunctions,
    /// Where malloc's state is and how to read it, or the reason why that is unknown.
    state: Result<(MallocState, Reader), &'static str>,
    /// The start of the `brk` heap, if there is one.
    heap_start: Option<usize>,
    /// Whether the mappings of the heap had no gap when they were last read.
    heap_is_whole: bool,
    /// The schedule of counts of free chunks, and the last totals.
    pub(super) counting: ArenaCounting,
    finder: Finder,
    stage: HeapStage,
    now: Now,
}

/// The data of the current measurement.
#[derive(Default)]
struct Now {
    /// The mappings of `[heap]`.
    heap: Vec<Range<usize>>,
    /// Private anonymous mappings, and the readable and writable ones among them.
    anonymous: Vec<Range<usize>>,
    writable: Vec<Range<usize>>,
    claimed: Vec<Range<usize>>,
    /// The ranges of the arenas.
    arenas: Vec<Range<usize>>,
    held: Option<ArenaSums>,
    mmapped: Option<Mmapped>,
    /// See [`HeapReading::unlocated`].
    unlocated: Vec<Note>,
}

impl Glibc {
    /// Finds malloc's state and compares it with `mallinfo2`.
    pub fn new(object: AllocatorObject, version: String) -> Glibc {
        let functions = MallocFunctions::of(object);
        let calibration = calibrate::calibrate(object, &version, &functions);
        Glibc {
            version,
            functions,
            state: calibration.state,
            heap_start: calibration.heap_start,
            heap_is_whole: false,
            counting: ArenaCounting::new(calibration.info.as_ref()),
            finder: Finder::default(),
            stage: HeapStage::Done,
            now: Now::default(),
        }
    }

    /// Returns whether a count is in progress in this process.
    pub fn is_counting(&self) -> bool {
        self.counting.is_under_way()
    }

    /// Returns whether the last figures are recent enough to be used while a new count is in
    /// progress.
    pub fn is_fresh(&self) -> bool {
        self.counting.is_fresh()
    }

    /// Counts the free memory if the last figures are old enough, or continues a count in progress.
    pub fn count(&mut self, budget: &Budget) -> Progress {
        let heap = heap_from(self.heap_start);
        let alone = self.functions.single_threaded() && self.heap_is_whole;
        let Ok((state, reader)) = &mut self.state else { return Progress::Done };
        self.counting.step(state, reader, heap, alone, budget)
    }

    /// Starts a measurement.
    pub fn begin(&mut self, maps: &[MemoryMap], claimed: &[Range<usize>]) {
        let private = || maps.iter().filter(|map| !maps::has_file(map));
        let anonymous = || private().filter(|map| is_anonymous(map));
        let both = MMPermissions::READ | MMPermissions::WRITE;
        let is_heap = |map: &&MemoryMap| map.pathname == MMapPath::Heap;
        self.now = Now {
            heap: private().filter(is_heap).map(maps::range).collect(),
            anonymous: normalize(anonymous().map(maps::range).collect()),
            // Adjacent mappings are merged: a block may extend over mappings that the kernel keeps
            // apart for its own reasons, for example after a fork.
            writable: normalize(
                anonymous().filter(|map| map.perms.contains(both)).map(maps::range).collect(),
            ),
            claimed: normalize(claimed.to_vec()),
            ..Now::default()
        };
        self.heap_is_whole = readable(&self.now.heap, &heap_from(self.heap_start));
        self.stage = HeapStage::Arenas;
    }

    /// Reads all arenas at once.
    fn arenas(&mut self) {
        let now = &mut self.now;
        let mut regions = Vec::with_capacity(64);
        match &mut self.state {
            Err(_) => {}
            Ok((state, reader)) => {
                now.mmapped = state.counters.and_then(|at| arenas::mmapped(&OwnMemory, at));
                match reader.held(&OwnMemory, state, &mut regions) {
                    Ok(held) => {
                        now.held = Some(held);
                        now.unlocated.extend(held.scattered.then(|| Note::new(SCATTERED)));
                    }
                    Err(_) => {
                        regions.clear();
                        now.unlocated.push(Note::new(ARENAS_UNREADABLE));
                    }
                }
            }
        }
        let inside = |region: &Range<usize>| clip(&now.anonymous, region);
        let mut arenas: Vec<_> = regions.iter().flat_map(inside).collect();
        arenas.extend(now.heap.iter().cloned());
        let without = |range: &Range<usize>| subtract(range, &now.claimed);
        now.arenas = normalize(normalize(arenas).iter().flat_map(without).collect());
        let mut taken = now.claimed.clone();
        taken.extend(regions);
        taken.extend(now.heap.iter().cloned());
        let taken = normalize(taken);
        self.finder.begin(now.writable.iter().flat_map(|r| subtract(r, &taken)).collect());
    }

    /// Returns the result of the measurement.
    pub fn finish(&mut self) -> HeapReading {
        let now = std::mem::take(&mut self.now);
        let (mut unlocated, mut notes) = (now.unlocated, Vec::new());
        let mut ranges = now.arenas;
        match &self.state {
            Err(reason) => notes.push(Note::new(*reason)),
            Ok((state, _)) => match state.counters.map(|at| arenas::mmapped(&OwnMemory, at)) {
                None => unlocated.push(Note::new(NO_COUNTERS)),
                Some(None) => unlocated.push(Note::new(NO_COUNTS)),
                Some(Some(wanted)) => {
                    unlocated.extend(blocks_note(&mut self.finder, wanted));
                    notes.extend(self.finder.failed().then(|| Note::new(NO_PAGES)));
                    ranges.extend_from_slice(self.finder.blocks());
                }
            },
        }
        let last = self.counting.last();
        if self.state.is_ok() {
            notes.extend(self.counting.doubt());
        }
        let millis = |time: Duration| time.as_millis() as u64;
        let size = |size: usize| size as u64;
        let reserved =
            || now.held.zip(now.mmapped).and_then(|(h, m)| h.system.checked_add(m.bytes));
        let mmapped = now.mmapped.map(|mmapped| mmapped.bytes);
        HeapReading {
            allocator: Allocator {
                name: "glibc".to_owned(),
                version: Some(self.version.clone()),
                reserved: last.map_or_else(reserved, |last| last.reserved).map(size),
                in_use: last.and_then(|last| last.in_use).map(size),
                free: last.map(|last| size(last.free)),
                mmapped: last.map_or(mmapped, |last| last.mmapped).map(size),
                pools: None,
                nginx: Default::default(),
                arenas: now.held.map(|held| size(held.arenas)),
                measured_ms_ago: last.map(|last| millis(last.at.elapsed())).or(now.held.map(|_| 0)),
                measured_over_ms: last.map(|last| millis(last.over)),
            },
            category: Some(Category::GlibcHeap),
            ranges: normalize(ranges),
            resident: None,
            reserved: None,
            unlocated,
            notes,
        }
    }

    /// Queries malloc itself, however long that takes. For an explicit query only.
    pub fn refresh_full(&mut self) {
        let counters = self.state.as_ref().ok().and_then(|(state, _)| state.counters);
        let mmapped = || counters.and_then(|counters| arenas::mmapped(&OwnMemory, counters));
        let before = mmapped();
        let begun = cpu_time();
        let info = self.functions.mallinfo().filter(|_| self.functions.wide());
        let Some(info) = info else { return };
        self.counting.replace(&info, cpu_time().saturating_sub(begun));
        let says = Mmapped { count: info.hblks, bytes: info.hblkhd };
        if let (true, Ok((state, _))) = (before == mmapped(), &mut self.state) {
            // The counters were found by their contents; this verifies them a second time.
            state.counters = state.counters.filter(|_| before == Some(says));
        }
    }
}

impl Job<PageMap> for Glibc {
    type Error = Infallible;

    fn step(&mut self, pages: &PageMap, budget: &Budget) -> Result<Progress, Infallible> {
        if self.stage == HeapStage::Arenas {
            self.arenas();
            self.stage = HeapStage::Mapped;
            if budget.spent() {
                return Ok(Progress::More);
            }
        }
        if self.stage == HeapStage::Mapped {
            let counters = self.state.as_ref().ok().and_then(|(state, _)| state.counters);
            let expected = || counters.and_then(|counters| arenas::mmapped(&OwnMemory, counters));
            if self.finder.step(&OwnMemory, pages, &expected, budget) == Progress::More {
                return Ok(Progress::More);
            }
            self.stage = HeapStage::Done;
        }
        Ok(Progress::Done)
    }
}

const NO_COUNTERS: &str =
    "glibc: blocks with a mapping of their own are not counted: malloc's counters of them were not \
     recognised; they are part of anon_other";
const NO_COUNTS: &str =
    "glibc: blocks with a mapping of their own are not counted: memory could not be read; they are \
     part of anon_other";
const NO_PAGES: &str = "glibc: not all pages could be searched: pagemap or memory was not readable";
const SCATTERED: &str =
    "glibc: the brk heap could not grow, and malloc has put pieces of it elsewhere; they are part \
     of anon_other";
const ARENAS_UNREADABLE: &str =
    "glibc: the arenas could not be read; their memory outside the brk heap is part of anon_other";

/// Drops a surplus block so that the blocks match the counters, or returns a note about the
/// blocks that were not located.
fn blocks_note(finder: &mut Finder, wanted: Mmapped) -> Option<Note> {
    let found = finder.found();
    if found == wanted || finder.drop_excess(wanted) {
        return None;
    }
    if found.count > wanted.count || found.bytes > wanted.bytes {
        finder.forget();
        return Some(Note::new(format!(
            "glibc: {} bytes with mappings of their own could not be distinguished from other memory; they \
             are part of anon_other",
            wanted.bytes
        )));
    }
    Some(Note::new(format!(
        "glibc: {} bytes with mappings of their own, of {}, could not be located; they are part of \
         anon_other",
        wanted.bytes.saturating_sub(found.bytes),
        wanted.bytes
    )))
}

/// Returns whether `mmap` made the mapping, with or without a name.
fn is_anonymous(map: &MemoryMap) -> bool {
    match &map.pathname {
        MMapPath::Anonymous => true,
        MMapPath::Other(name) => name.starts_with("anon:"),
        _ => false,
    }
}

/// Returns whether the mappings of the heap had no gap when the measurement started.
fn readable(mappings: &[Range<usize>], heap: &Range<usize>) -> bool {
    let mappings = normalize(mappings.to_vec());
    mappings.len() == 1 && mappings.first().is_some_and(|map| map.start <= heap.start)
}

/// Returns the range in which chunks of the first arena can be.
fn heap_from(start: Option<usize>) -> Range<usize> {
    start.map_or(ANYWHERE, |start| start..ffi::heap_end().max(start))
}

/// Returns the parts of `region` that lie in the `mappings`, which are normalized.
fn clip(mappings: &[Range<usize>], region: &Range<usize>) -> Vec<Range<usize>> {
    let first = mappings.partition_point(|map| map.end <= region.start);
    let inside = mappings.iter().skip(first).take_while(|map| map.start < region.end);
    inside.map(|map| map.start.max(region.start)..map.end.min(region.end)).collect()
}

#[cfg(test)]
mod tests;

//! Reads mimalloc's figures through `mi_process_info` and `mi_version`.
//!
//! mimalloc has only one figure that is cheap enough for an event loop: the bytes that it has
//! committed, which is `reserved` here. Finding how much of them is in use would need a walk over
//! all its pages. Its mappings are found by address: `mi_is_in_heap_region` returns whether an
//! address is in one of its segments, which start at multiples of [`SEGMENT`].
//!
//! Invariants of the unsafe code:
//!
//! 1. The functions have the types in `mimalloc.h`, 1.7 and later.
//! 2. `mi_is_in_heap_region` accepts any address: it looks it up in a map of segments.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ops::Range;

use procfs::process::MemoryMap;

use super::pace::Pace;
use super::symbols::AllocatorObject;
use super::HeapReading;
use crate::report::model::{Allocator, Category, Note};
use crate::sys::maps;
use crate::sys::ranges::{normalize, subtract};

type ProcessInfo = extern "C" fn(
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
);

type IsInHeapRegion = extern "C" fn(*const c_void) -> bool;

/// The largest alignment of segments in any version, in bytes.
const SEGMENT: usize = 32 << 20;
/// The maximum number of addresses to query in one mapping; they cover 128 GiB.
const MOST_ASKED: usize = 4096;

/// The probe of mimalloc.
pub struct Mimalloc {
    is_in_heap_region: Option<IsInHeapRegion>,
    ranges: Vec<Range<usize>>,
    process_info: Option<ProcessInfo>,
    version: Option<String>,
    pace: Pace<usize>,
}

impl Mimalloc {
    /// Returns the probe if `object` is mimalloc.
    pub fn of(object: AllocatorObject) -> Option<Mimalloc> {
        // SAFETY: this is the type in the header (1).
        let version: extern "C" fn() -> c_int = unsafe { object.function(c"mi_version") }?;
        Some(Mimalloc {
            // SAFETY: this is the type in the header (1).
            is_in_heap_region: unsafe { object.function(c"mi_is_in_heap_region") },
            ranges: Vec::new(),
            // SAFETY: this is the type in the header (1).
            process_info: unsafe { object.function(c"mi_process_info") },
            version: name_of(version()),
            pace: Pace::default(),
        })
    }

    /// Finds the mappings that belong to mimalloc.
    pub fn begin(&mut self, maps: &[MemoryMap], claimed: &[Range<usize>]) {
        let Some(is_in_heap_region) = self.is_in_heap_region else { return };
        // Adjacent mappings are merged, and a mapping may contain segments next to other memory. So
        // each piece between two possible starts of a segment is queried.
        let pieces = |range: Range<usize>| {
            let first = range.start / SEGMENT * SEGMENT;
            (first..range.end).step_by(SEGMENT).take(MOST_ASKED).map(move |start| {
                start.max(range.start)..start.saturating_add(SEGMENT).min(range.end)
            })
        };
        let anonymous = maps.iter().filter(|map| !maps::has_file(map)).map(maps::range);
        let own = anonymous
            .flat_map(pieces)
            // Not the first byte: some versions assign it to the previous segment.
            .filter(|piece| is_in_heap_region((piece.start + 8) as *const c_void))
            .flat_map(|piece| subtract(&piece, claimed));
        self.ranges = normalize(own.collect());
    }

    fn committed(&self) -> Option<usize> {
        let [mut elapsed, mut user, mut system, mut rss, mut peak_rss] = [0; 5];
        let [mut commit, mut peak_commit, mut faults] = [0; 3];
        (self.process_info?)(
            &mut elapsed,
            &mut user,
            &mut system,
            &mut rss,
            &mut peak_rss,
            &mut commit,
            &mut peak_commit,
            &mut faults,
        );
        // The counter is signed and has been observed below 0.
        (commit <= isize::MAX as usize && commit != 0).then_some(commit)
    }

    /// Returns the figures; `forced` queries them at any cost.
    pub fn read_all(&mut self, forced: bool) -> HeapReading {
        let mut pace = std::mem::take(&mut self.pace);
        let last = pace.ask(forced, || self.committed());
        let mut notes = Vec::new();
        notes.extend(pace.note("mimalloc"));
        self.pace = pace;
        notes.push(Note::new(
            "mimalloc: in_use and free are unknown: it reports only its committed bytes",
        ));
        if self.ranges.is_empty() {
            notes.push(Note::new(
                "mimalloc: its address ranges were not found; its pages are part of anon_other",
            ));
        }
        let committed = last.map(|(committed, _)| committed as u64);
        HeapReading {
            allocator: Allocator {
                name: "mimalloc".to_owned(),
                version: self.version.clone(),
                reserved: committed,
                in_use: None,
                free: None,
                mmapped: None,
                pools: None,
                nginx: Default::default(),
                arenas: None,
                measured_ms_ago: last.map(|(_, age)| age),
                measured_over_ms: last.map(|_| 0),
            },
            category: Some(Category::Mimalloc),
            ranges: std::mem::take(&mut self.ranges),
            resident: None,
            reserved: None,
            unlocated: Vec::new(),
            notes,
        }
    }
}

/// Formats `MI_MALLOC_VERSION`: one digit per part, or since 3.2 two digits per part except the
/// first.
fn name_of(version: c_int) -> Option<String> {
    let by = match version {
        100..=999 => 10,
        10_000..=99_999 => 100,
        _ => return None,
    };
    Some(format!("{}.{}.{}", version / (by * by), version / by % by, version % by))
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn names_versions() {
        assert_eq!(name_of(209).as_deref(), Some("2.0.9"));
        assert_eq!(name_of(30_201).as_deref(), Some("3.2.1"));
        assert_eq!(name_of(7), None);
    }
}

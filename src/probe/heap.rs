//! Measures the system allocator that is in use: which one it is, what it holds, and where.
#![deny(unsafe_code)]

mod glibc;
mod huge;
mod jemalloc;
mod mimalloc;
mod pace;
mod symbols;
mod tcmalloc;

use std::convert::Infallible;
use std::ops::Range;

use procfs::process::MemoryMap;

use crate::budget::{Budget, Job, Progress};
use crate::report::model::{Allocator, Category, Note};
use crate::sys::pagemap::PageMap;
use glibc::Glibc;
pub use huge::in_huge_pages;
use jemalloc::Jemalloc;
use mimalloc::Mimalloc;
use symbols::AllocatorObject;
use tcmalloc::Tcmalloc;

/// The result of a measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct HeapReading {
    /// The allocator's statistics.
    pub allocator: Allocator,
    /// The category of the allocator's memory in the breakdown; `None` for an unknown allocator.
    pub category: Option<Category>,
    /// The allocator's address ranges: whole pages, disjoint, in ascending order, without claimed
    /// ranges.
    pub ranges: Vec<Range<usize>>,
    /// The allocator's own figure of its bytes in RAM, if its ranges are unknown.
    pub resident: Option<u64>,
    /// The allocator's own figure of its virtual bytes, if its ranges are unknown.
    pub reserved: Option<u64>,
    /// Notes about memory of the allocator that was not located and is therefore part of
    /// `anon_other`.
    pub unlocated: Vec<Note>,
    /// The other reasons why figures are missing or inexact.
    pub notes: Vec<Note>,
}

enum AllocatorProbe {
    Glibc(Box<Glibc>),
    Jemalloc(Box<Jemalloc>),
    Tcmalloc(Box<Tcmalloc>),
    Mimalloc(Box<Mimalloc>),
    Musl,
    Unknown,
}

/// The probe. There is one per process, made before the first fork and inherited.
pub struct HeapProbe {
    kind: AllocatorProbe,
    /// Whether an explicit query requests new figures at any cost.
    forced: bool,
}

impl Default for HeapProbe {
    fn default() -> Self {
        Self::new()
    }
}

impl HeapProbe {
    /// Detects the allocator.
    ///
    /// Call it once at the start, while the heap is small and only the main thread exists. It may
    /// take a few milliseconds.
    pub fn new() -> HeapProbe {
        HeapProbe { kind: detect(), forced: false }
    }

    /// Counts the allocator's free memory if its last figures are old enough. Call it before a
    /// measurement, which uses the last figures.
    pub fn count(&mut self, budget: &Budget) -> Progress {
        match &mut self.kind {
            AllocatorProbe::Glibc(glibc) => glibc.count(budget),
            _ => Progress::Done,
        }
    }

    /// Returns whether the last figures are recent enough to be used while a new count is in
    /// progress.
    pub fn is_fresh(&self) -> bool {
        matches!(&self.kind, AllocatorProbe::Glibc(glibc) if glibc.is_fresh())
    }

    /// Returns whether a count is in progress.
    pub fn is_counting(&self) -> bool {
        matches!(&self.kind, AllocatorProbe::Glibc(glibc) if glibc.is_counting())
    }

    /// Starts a measurement. `claimed` are the ranges that belong to something else, sorted.
    pub fn begin(&mut self, maps: &[MemoryMap], claimed: &[Range<usize>]) {
        match &mut self.kind {
            AllocatorProbe::Glibc(glibc) => glibc.begin(maps, claimed),
            AllocatorProbe::Mimalloc(mimalloc) => mimalloc.begin(maps, claimed),
            _ => {}
        }
    }

    /// Returns the result of the measurement.
    pub fn finish(&mut self) -> HeapReading {
        let forced = std::mem::take(&mut self.forced);
        match &mut self.kind {
            AllocatorProbe::Glibc(glibc) => glibc.finish(),
            AllocatorProbe::Jemalloc(jemalloc) => jemalloc.read_all(forced),
            AllocatorProbe::Tcmalloc(tcmalloc) => tcmalloc.read_all(forced),
            AllocatorProbe::Mimalloc(mimalloc) => mimalloc.read_all(forced),
            AllocatorProbe::Musl => nothing(
                "musl",
                Some(Category::MuslHeap),
                "musl: its malloc has no statistics; its memory is part of anon_other",
            ),
            AllocatorProbe::Unknown => nothing(
                "unknown",
                None,
                "the allocator is not a known one; its memory is part of anon_other",
            ),
        }
    }

    /// Requests new figures from the allocator, however long that takes. Call it before
    /// [`HeapProbe::finish`], for an explicit query only.
    pub fn refresh_full(&mut self) {
        self.forced = true;
        if let AllocatorProbe::Glibc(glibc) = &mut self.kind {
            glibc.refresh_full();
        }
    }
}

impl Job<PageMap> for HeapProbe {
    type Error = Infallible;

    fn step(&mut self, pages: &PageMap, budget: &Budget) -> Result<Progress, Infallible> {
        match &mut self.kind {
            AllocatorProbe::Glibc(glibc) => glibc.step(pages, budget),
            _ => Ok(Progress::Done),
        }
    }
}

fn nothing(name: &str, category: Option<Category>, note: &'static str) -> HeapReading {
    HeapReading {
        allocator: Allocator {
            name: name.to_owned(),
            version: None,
            reserved: None,
            in_use: None,
            free: None,
            mmapped: None,
            pools: None,
            nginx: Default::default(),
            arenas: None,
            measured_ms_ago: None,
            measured_over_ms: None,
        },
        category,
        ranges: Vec::new(),
        resident: None,
        reserved: None,
        unlocated: Vec::new(),
        notes: vec![Note::new(note)],
    }
}

/// Detects the allocator from the object that defines the `malloc` in use.
fn detect() -> AllocatorProbe {
    let Some(object) = AllocatorObject::of_malloc() else {
        return AllocatorProbe::Unknown;
    };
    if let Some(version) = glibc::version(object) {
        return AllocatorProbe::Glibc(Box::new(Glibc::new(object, version)));
    }
    if let Some(jemalloc) = Jemalloc::of(object) {
        return AllocatorProbe::Jemalloc(Box::new(jemalloc));
    }
    if let Some(tcmalloc) = Tcmalloc::of(object) {
        return AllocatorProbe::Tcmalloc(Box::new(tcmalloc));
    }
    if let Some(mimalloc) = Mimalloc::of(object) {
        return AllocatorProbe::Mimalloc(Box::new(mimalloc));
    }
    if symbols::symbol(c"gnu_get_libc_version").is_none() {
        return AllocatorProbe::Musl;
    }
    AllocatorProbe::Unknown
}

#[cfg(test)]
mod tests;

//! Finds the runs of free pages in a slab pool from its page descriptors.
//!
//! A descriptor is `slab`, `next`, `prev`. The first descriptor of a run, free or allocated, has
//! the length of the run, so the others are skipped. A large zone that is hardly used needs a
//! single descriptor, and reading it brings no new page into memory.
//!
//! The free list itself is not followed: it leads through the whole zone, needs a copy for each
//! run, and changes meanwhile. If the runs in front change during the search, a descriptor may be
//! read in the middle of a run; its words show this, and it counts as one page.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::DESCRIPTOR;
use crate::sys::memory::word;

/// The bits of `prev` that distinguish a page with slots from other pages.
const KIND: usize = 3;
/// In `slab`: marks the first page of an allocation; the other bits are its length.
const START: usize = 1 << (usize::BITS - 1);
/// In `slab`: marks a further page of an allocation.
const BUSY: usize = usize::MAX;

/// The maximum number of descriptors in one read: 64 KiB.
const MOST: usize = 64 * 1024 / DESCRIPTOR;

/// The progress of a search and its results so far.
#[derive(Debug, Clone)]
pub struct Runs {
    pages: usize,
    /// The next page to examine.
    next: usize,
    /// The number of descriptors to read at once if many must be examined one by one.
    ahead: usize,
    /// Free pages in runs.
    pub free: u64,
    /// The largest run, in pages.
    pub largest: u64,
    /// The number of runs.
    pub count: u64,
}

impl Runs {
    /// Starts a search of a pool that has this number of pages.
    pub fn begin(pages: usize) -> Self {
        Runs { pages, next: 0, ahead: 0, free: 0, largest: 0, count: 0 }
    }

    /// Returns the addresses to copy next, for descriptors that start at `descriptors`; `None` at
    /// the end.
    ///
    /// A copy ends with the page of memory that it starts in, or further if every descriptor of the
    /// previous copy had to be examined.
    pub fn wanted(&self, descriptors: usize, page_size: usize) -> Option<Range<usize>> {
        let left = self.pages.checked_sub(self.next).filter(|left| *left > 0)?;
        let from = descriptors.checked_add(self.next.checked_mul(DESCRIPTOR)?)?;
        let in_page = (page_size - from % page_size) / DESCRIPTOR;
        let count = in_page.max(self.ahead).clamp(1, left);
        Some(from..from.checked_add(count * DESCRIPTOR)?)
    }

    /// Examines a copy of the addresses that [`Runs::wanted`] returned.
    pub fn look(&mut self, copy: &[u8]) {
        let (first, count) = (self.next, copy.len() / DESCRIPTOR);
        while let Some(index) = self.next.checked_sub(first).filter(|index| *index < count) {
            let at = index * DESCRIPTOR;
            let (slab, next, prev) = (word(copy, at), word(copy, at + 8), word(copy, at + 16));
            let left = self.pages - self.next;
            let fits = |length: usize| (1..=left).contains(&length).then_some(length);
            self.next += match slab {
                _ if prev & KIND != 0 => 1,
                BUSY => 1,
                length if length & START != 0 => fits(length & !START).unwrap_or(1),
                length if next != 0 => match fits(length) {
                    Some(length) => {
                        self.free += length as u64;
                        self.largest = self.largest.max(length as u64);
                        self.count += 1;
                        length
                    }
                    None => 1,
                },
                _ => 1,
            };
        }
        let in_full = self.next == first + count;
        self.ahead = if in_full { (2 * count).min(MOST) } else { 0 };
    }
}

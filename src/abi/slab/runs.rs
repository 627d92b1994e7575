//! The runs of free pages of a slab pool, by the descriptors of its pages.
//!
//! A descriptor is `slab`, `next`, `prev`. The first one of a run tells the length of the run, free
//! or allocated, so the others are not looked at: in a large zone that is hardly used that is one
//! descriptor, and reading it loads no page of memory that was not.
//!
//! The free list itself is not followed: it leads through the whole zone, a copy for each run,
//! while it changes. A descriptor that is looked at in the middle of a run, because the runs before
//! it have just changed, is told as such.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::DESCRIPTOR;
use crate::sys::memory::word;

/// The bits of `prev` that tell a page with slots from others.
const KIND: usize = 3;
/// In `slab`: the first page of an allocation, with its length.
const START: usize = 1 << (usize::BITS - 1);
/// In `slab`: a further page of an allocation.
const BUSY: usize = usize::MAX;

/// Descriptors that are read at once, at most: 64 KiB.
const MOST: usize = 64 * 1024 / DESCRIPTOR;

/// What is found so far.
#[derive(Debug, Clone)]
pub struct Runs {
    pages: usize,
    /// The next page to look at.
    next: usize,
    /// Descriptors to read at once if many have to be looked at in turn.
    ahead: usize,
    /// Free pages in runs.
    pub free: u64,
    /// The largest run, in pages.
    pub largest: u64,
    /// The number of runs.
    pub count: u64,
}

impl Runs {
    /// Begins with a pool of so many pages.
    pub fn begin(pages: usize) -> Self {
        Runs { pages, next: 0, ahead: 0, free: 0, largest: 0, count: 0 }
    }

    /// The addresses to copy next, for descriptors that begin at an address. Up to the end of the
    /// page of memory it begins in, further if the last copies were looked at in full; `None` at
    /// the end.
    pub fn wanted(&self, descriptors: usize, page_size: usize) -> Option<Range<usize>> {
        let left = self.pages.checked_sub(self.next).filter(|left| *left > 0)?;
        let from = descriptors.checked_add(self.next.checked_mul(DESCRIPTOR)?)?;
        let in_page = (page_size - from % page_size) / DESCRIPTOR;
        let count = in_page.max(self.ahead).clamp(1, left);
        Some(from..from.checked_add(count * DESCRIPTOR)?)
    }

    /// Looks at the copy of what was wanted.
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

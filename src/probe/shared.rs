//! How much of nginx's shared memory is loaded in RAM, by any process, counted once.
//!
//! Invariant for `unsafe`: **M1** `mincore` only asks about addresses and writes one byte a page
//! into a vector that is as long; an address that is not mapped is an error, not a crash.

use std::io;
use std::ops::Range;

use super::budget::{Budget, Progress};
use super::pagemap::page_size;

/// Pages asked about with one system call: 16 MiB of address space, about 8 us.
const PAGES_A_PIECE: usize = 4096;

/// A count under way.
#[derive(Debug)]
pub struct SharedResidency {
    ranges: Vec<Range<usize>>,
    at: (usize, usize),
    resident: u64,
}

impl SharedResidency {
    /// Begins to count in ranges that start at a page.
    pub fn begin(ranges: Vec<Range<usize>>) -> Self {
        SharedResidency { ranges, at: (0, 0), resident: 0 }
    }

    /// Goes on until the budget is spent or all is counted.
    pub fn step(&mut self, budget: &Budget) -> io::Result<Progress> {
        let mut vector = [0u8; PAGES_A_PIECE];
        while let Some(range) = self.ranges.get(self.at.0) {
            let from = range.start.max(self.at.1);
            let pages = range.end.saturating_sub(from).div_ceil(page_size()).min(PAGES_A_PIECE);
            let bytes = pages * page_size();
            // SAFETY: M1.
            let code = unsafe { libc::mincore(from as *mut _, bytes, vector.as_mut_ptr()) };
            if code != 0 {
                return Err(io::Error::last_os_error());
            }
            let loaded = vector.iter().take(pages).filter(|byte| **byte & 1 != 0).count();
            self.resident += (loaded * page_size()) as u64;
            let next = from + bytes;
            self.at = if next >= range.end { (self.at.0 + 1, 0) } else { (self.at.0, next) };
            if budget.spent() {
                break;
            }
        }
        Ok(if self.at.0 < self.ranges.len() { Progress::More } else { Progress::Done })
    }

    /// Bytes in RAM.
    pub fn finish(&self) -> u64 {
        self.resident
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_touched_pages_of_shared_memory_in_steps() {
        let pages = 3 * PAGES_A_PIECE / 2;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, used within its bounds.
        let start = unsafe {
            let start = libc::mmap(std::ptr::null_mut(), pages * page_size(), access, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            for page in (0..pages).step_by(7) {
                start.cast::<u8>().add(page * page_size()).write(1);
            }
            start as usize
        };
        let mapped = start..start + pages * page_size();
        let mut count = SharedResidency::begin(vec![mapped]);
        let spent = Budget::new(std::time::Duration::ZERO);
        assert_eq!(count.step(&spent).unwrap(), Progress::More);
        assert_eq!(count.step(&spent).unwrap(), Progress::Done);
        assert_eq!(count.finish(), (pages.div_ceil(7) * page_size()) as u64);
        let unmapped = 4096..8192;
        assert!(SharedResidency::begin(vec![unmapped]).step(&spent).is_err());
        // SAFETY: the mapping of above, not used any more.
        assert_eq!(unsafe { libc::munmap(start as *mut _, pages * page_size()) }, 0);
    }
}

//! Counts how much of a shared mapping is in RAM, no matter which process loaded it.
//!
//! The kernel takes 20 ms for a gigabyte that this process has not touched. A count is therefore
//! reused until twenty times its duration has passed.
//!
//! Invariant of the unsafe code: **M1** `mincore` only examines addresses, and writes one byte per
//! page into a vector of that length; an address that is not mapped is an error, not a crash. In
//! the tests: **T1** a mapping from `shared` is new and stays mapped, and only its test writes to
//! it.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::budget::{Budget, Progress};
use crate::sys::pagemap::page_size;

/// Pages examined with one system call: 4 MiB of address space, 2 to 90 us.
const PAGES_A_PIECE: usize = 1024;

/// A figure is reused for this multiple of the time that it took to count.
const REST: u32 = 20;

/// Earlier counts of mappings.
#[derive(Debug, Default)]
pub struct Remembered(Vec<Counted>);

#[derive(Debug)]
struct Counted {
    range: Range<usize>,
    bytes: u64,
    since: Instant,
    took: Duration,
}

impl Remembered {
    /// Drops the counts of ranges that are no longer mapped.
    pub fn retain(&mut self, is_mapped: impl Fn(&Range<usize>) -> bool) {
        self.0.retain(|counted| is_mapped(&counted.range));
    }

    /// Returns the bytes of a range in RAM and their age; `None` if the range must be counted
    /// (again).
    pub fn of(&self, range: &Range<usize>) -> Option<(u64, Duration)> {
        let counted = self.0.iter().find(|counted| counted.range == *range)?;
        let age = counted.since.elapsed();
        (age < counted.took.saturating_mul(REST)).then_some((counted.bytes, age))
    }

    /// Stores a finished count.
    pub fn add(&mut self, count: &SharedResidency) {
        let range = count.whole.clone();
        self.0.retain(|counted| counted.range != range);
        let SharedResidency { resident: bytes, begun: since, took, .. } = *count;
        self.0.push(Counted { range, bytes, since, took });
    }
}

/// A count in progress.
#[derive(Debug)]
pub struct SharedResidency {
    whole: Range<usize>,
    /// The part of the range that is still to be counted.
    range: Range<usize>,
    resident: u64,
    begun: Instant,
    took: Duration,
}

impl SharedResidency {
    /// Starts to count a range of whole pages.
    pub fn begin(range: Range<usize>) -> Self {
        let (begun, took) = (Instant::now(), Duration::ZERO);
        SharedResidency { whole: range.clone(), range, resident: 0, begun, took }
    }

    /// Continues until the budget is spent or everything is counted.
    pub fn step(&mut self, budget: &Budget) -> io::Result<Progress> {
        let mut vector = [0u8; PAGES_A_PIECE];
        let slice = Instant::now();
        while !self.range.is_empty() {
            let pages = self.range.len().div_ceil(page_size()).min(PAGES_A_PIECE);
            let bytes = pages * page_size();
            let from = self.range.start as *mut _;
            // SAFETY: the vector has a byte for each of the pages (M1).
            if unsafe { libc::mincore(from, bytes, vector.as_mut_ptr()) } != 0 {
                return Err(io::Error::last_os_error());
            }
            let loaded = vector.iter().take(pages).filter(|byte| **byte & 1 != 0).count();
            self.resident += (loaded * page_size()) as u64;
            self.range.start += bytes;
            if budget.spent() {
                break;
            }
        }
        self.took += slice.elapsed();
        Ok(if self.range.is_empty() { Progress::Done } else { Progress::More })
    }

    /// Returns the bytes in RAM.
    pub fn finish(&self) -> u64 {
        self.resident
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Maps shared memory for the rest of the process. Returns its address.
    pub(crate) fn shared(pages: usize, access: i32) -> usize {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: the kernel chooses the address, so no existing mapping changes (T1).
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), pages * page_size(), access, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        start as usize
    }

    /// Writes to the first pages of a range from [`shared`].
    pub(crate) fn touch(range: &Range<usize>, pages: usize) {
        assert!(pages * page_size() <= range.len());
        for page in 0..pages {
            // SAFETY: the page lies within the mapping (T1).
            unsafe { (range.start as *mut u8).add(page * page_size()).write(1) };
        }
    }

    /// Writes to the start of a range from [`shared`].
    pub(crate) fn fill(range: &Range<usize>, bytes: &[u8]) {
        assert!(bytes.len() <= range.len());
        // SAFETY: the bytes lie within the mapping (T1).
        unsafe { (range.start as *mut u8).copy_from(bytes.as_ptr(), bytes.len()) };
    }

    #[test]
    fn counts_touched_pages_of_shared_memory_in_steps() {
        let pages = 3 * PAGES_A_PIECE / 2;
        let start = shared(pages, libc::PROT_READ | libc::PROT_WRITE);
        let at = |page: usize| start + page * page_size();
        for page in (0..pages).step_by(7) {
            touch(&(at(page)..at(page + 1)), 1);
        }
        let mapped = start..at(pages);
        let mut count = SharedResidency::begin(mapped);
        let spent = Budget::new(std::time::Duration::ZERO);
        assert_eq!(count.step(&spent).unwrap(), Progress::More);
        assert_eq!(count.step(&spent).unwrap(), Progress::Done);
        assert_eq!(count.finish(), (pages.div_ceil(7) * page_size()) as u64);
        let unmapped = 4096..8192;
        let mut remembered = Remembered::default();
        let range = start..at(pages);
        count.took = Duration::from_secs(3600);
        remembered.add(&count);
        assert_eq!(remembered.of(&range).map(|(bytes, _)| bytes), Some(count.finish()));
        assert_eq!(remembered.of(&(start..at(1))), None, "another mapping");
        count.took = Duration::ZERO;
        remembered.add(&count);
        assert_eq!(remembered.of(&range), None, "it is time to count again");
        remembered.retain(|_| false);
        assert!(remembered.0.is_empty());
        assert!(SharedResidency::begin(unmapped).step(&spent).is_err());
    }
}

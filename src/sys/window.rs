//! Reads shared memory without touching its pages at their own addresses.
//!
//! A process that reads a page of a shared mapping has touched it: from then on the page counts in
//! its resident size, and the kernel maps the 15 pages around it as well. So a reader makes a
//! second mapping of the same memory and unmaps it afterwards. The set of pages that the process
//! has touched does not change.
//!
//! Invariants of the unsafe code:
//!
//! 1. `mremap` with an old size of 0 makes another mapping of shared memory, at an address that the
//!    kernel chooses, and changes nothing at the old one. An address without a shared mapping is an
//!    error.
//! 2. A [`Window`] owns its mapping: nobody else knows the address, and it is unmapped once.

use std::io;
use std::ops::Range;

use super::memory::{Memory, OwnMemory};

/// A second mapping of shared memory. It exists as long as the value.
#[derive(Debug)]
pub struct Window {
    /// The range of the memory at its own addresses, in whole pages.
    of: Range<usize>,
    /// The address of the second mapping; `None` if the kernel refused it.
    at: Option<usize>,
}

impl Window {
    /// Opens a window on a range of whole pages. If the kernel refuses it, the memory is read at
    /// its own addresses.
    pub fn open(of: Range<usize>) -> Self {
        let none = std::ptr::null_mut::<libc::c_void>();
        let from = of.start as *mut libc::c_void;
        // SAFETY: the call changes no existing mapping (1).
        let at = unsafe { libc::mremap(from, 0, of.len(), libc::MREMAP_MAYMOVE, none) };
        let at = (at != libc::MAP_FAILED).then_some(at as usize);
        Window { of, at }
    }

    /// Fills `into` from address `from` of the memory, completely or not at all.
    pub fn read(&self, from: usize, into: &mut [u8]) -> io::Result<()> {
        let end = from.checked_add(into.len());
        let inside = from >= self.of.start && end.is_some_and(|end| end <= self.of.end);
        match self.at {
            _ if !inside => Err(io::Error::from_raw_os_error(libc::EFAULT)),
            Some(at) => OwnMemory.read(at + (from - self.of.start), into),
            None => OwnMemory.read(from, into),
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            // SAFETY: this value owns the mapping, and nobody uses it any more (2).
            unsafe { libc::munmap(at as *mut libc::c_void, self.of.len()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::shared::tests::{fill, shared};
    use crate::sys::pagemap::{page_size, PageMap};

    fn present(range: &Range<usize>) -> u64 {
        let (map, mut bytes) = (PageMap::open().unwrap(), 0);
        assert_eq!(map.count_alike(range, &mut bytes).unwrap(), range.end);
        bytes
    }

    #[test]
    fn reads_and_touches_nothing() {
        let pages = 64;
        let range = shared(pages, libc::PROT_READ | libc::PROT_WRITE);
        let range = range..range + pages * page_size();
        fill(&range, &vec![7; range.len()]);
        // SAFETY: the mapping was just made by this test. The call drops the pages from this
        // process only; shared memory keeps its contents (1).
        unsafe { libc::madvise(range.start as *mut _, range.len(), libc::MADV_DONTNEED) };
        assert_eq!(present(&range), 0);
        let mut copy = vec![0; 3 * page_size()];
        {
            let window = Window::open(range.clone());
            let at = window.at.unwrap();
            window.read(range.start + 5, &mut copy).unwrap();
            assert!(copy.iter().all(|byte| *byte == 7));
            assert!(window.read(range.end - 1, &mut copy).is_err(), "beyond the end");
            assert_eq!(present(&range), 0);
            assert!(present(&(at..at + range.len())) > 0);
            drop(window);
            assert!(OwnMemory.read(at, &mut [0]).is_err(), "unmapped again");
        }
        OwnMemory.read(range.start, &mut copy).unwrap();
        assert!(present(&range) > 0, "without a window it would have been");
        let nowhere = Window::open(0..page_size());
        assert!(nowhere.at.is_none() && nowhere.read(8, &mut [0; 8]).is_err());
        let private = vec![7u8; 4 * page_size()];
        let at = (private.as_ptr() as usize).next_multiple_of(page_size());
        let window = Window::open(at..at + page_size());
        assert!(window.at.is_none(), "private memory has no second mapping");
        window.read(at, &mut copy[..9]).unwrap();
        assert_eq!(copy[..9], [7; 9]);
    }
}

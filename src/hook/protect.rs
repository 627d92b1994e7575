//! Writing a pointer to a page that may be read-only.
//!
//! What the unsafe code below relies on:
//!
//! 1. The slot is an aligned pointer in memory that stays mapped during the call, and is only ever
//!    read and written atomically or by calling through it. [`Protections::swap`] demands it.
//! 2. `mprotect` with write access added to a readable page takes nothing away from anybody, and
//!    the protection put back is what the kernel said it was. Protections change with nobody else
//!    at it: the process has one thread, or no other one changes them.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_int, PROT_EXEC, PROT_READ, PROT_WRITE};
use procfs::process::{MMPermissions, Process};

use super::refusal::Refusal;
use crate::sys::pagemap::page_size;

/// The protections of this process's mappings, as the kernel states them.
#[derive(Debug)]
pub struct Protections(Vec<(Range<usize>, c_int)>);

/// The kernel lets nobody map a page below (`vm.mmap_min_addr`, at most).
const LOWEST: usize = 0x1_0000;

/// Why a slot was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It does not hold what it should.
    Changed,
    /// Its page is executable, or not readable.
    Page,
    /// `mprotect` failed with this errno.
    Protect(i32),
}

impl Protections {
    /// Reads them from `/proc/self/maps`.
    pub fn read() -> Result<Self, Refusal> {
        let maps =
            Process::myself().and_then(|process| process.maps()).map_err(|_| Refusal::Maps)?;
        let maps = maps.0.iter().map(|map| {
            let protection = [
                (MMPermissions::READ, PROT_READ),
                (MMPermissions::WRITE, PROT_WRITE),
                (MMPermissions::EXECUTE, PROT_EXEC),
            ]
            .into_iter()
            .filter(|(permission, _)| map.perms.contains(*permission))
            .fold(0, |all, (_, bit)| all | bit);
            (map.address.0 as usize..map.address.1 as usize, protection)
        });
        Ok(Protections(maps.collect()))
    }

    /// The address of a page where nothing is mapped, within `reach` of all of `around`: below it if
    /// it can be, where nothing grows to.
    pub fn gap_near(&self, around: Range<usize>, reach: usize) -> Option<usize> {
        let page = page_size();
        let (low, high) = (around.end.saturating_sub(reach), around.start.saturating_add(reach));
        // Between two mappings, the page below the upper one, which is not the heap's to grow to.
        let gaps = self.0.windows(2).filter_map(|pair| {
            let [below, above] = pair else { return None };
            let at = above.0.start.checked_sub(page)?;
            (at >= below.0.end).then_some(at)
        });
        let first = self.0.first().and_then(|first| first.0.start.checked_sub(page));
        first
            .into_iter()
            .chain(gaps)
            .filter(|at| (low.max(LOWEST)..high).contains(at))
            .min_by_key(|at| (*at > around.start, at.abs_diff(around.start)))
    }

    fn of(&self, address: usize) -> Option<c_int> {
        self.0.iter().find(|(range, _)| range.contains(&address)).map(|(_, bits)| *bits)
    }

    /// Writes `to` to a slot that holds `from`. A read-only page is writable meanwhile, and has its
    /// protection back afterwards, whatever comes of it. An executable page is left alone.
    ///
    /// # Safety
    ///
    /// `slot` is the address of an aligned pointer in mapped memory that calls go through, `to` a
    /// function that may be called in place of `from`, and no other thread changes the protections
    /// of the page meanwhile or has since they were read.
    pub unsafe fn swap(&self, slot: usize, from: usize, to: usize) -> Result<(), Failure> {
        let protection = self.of(slot).ok_or(Failure::Page)?;
        if protection & PROT_READ == 0 || protection & PROT_EXEC != 0 {
            return Err(Failure::Page);
        }
        let page = slot & !(page_size() - 1);
        let read_only = protection & PROT_WRITE == 0;
        if read_only {
            // SAFETY: 2.
            unsafe { protect(page, protection | PROT_WRITE) }?;
        }
        // SAFETY: 1; the page is writable now.
        let pointer = unsafe { AtomicUsize::from_ptr(slot as *mut usize) };
        let swapped = pointer.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        if read_only {
            // SAFETY: 2.
            unsafe { protect(page, protection) }?;
        }
        swapped.map(drop).map_err(|_| Failure::Changed)
    }
}

/// Sets the protection of one page.
///
/// # Safety
///
/// Nobody relies on the page having another protection.
unsafe fn protect(page: usize, protection: c_int) -> Result<(), Failure> {
    // SAFETY: the caller's contract.
    if unsafe { libc::mprotect(page as *mut _, page_size(), protection) } == 0 {
        return Ok(());
    }
    Err(Failure::Protect(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of its own.
    struct Page(usize);

    impl Page {
        fn new(protection: c_int, first: usize) -> Self {
            let (rw, private) = (PROT_READ | PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping.
            let page = unsafe { libc::mmap(std::ptr::null_mut(), page_size(), rw, private, -1, 0) };
            assert_ne!(page, libc::MAP_FAILED);
            // SAFETY: the mapping is this function's, one page long and writable.
            unsafe { page.cast::<usize>().write(first) };
            // SAFETY: nobody else knows the page.
            unsafe { protect(page as usize, protection) }.unwrap();
            Page(page as usize)
        }

        fn swap(&self, from: usize, to: usize) -> Result<(), Failure> {
            // SAFETY: the page is this object's, and nothing calls through it.
            unsafe { Protections::read().unwrap().swap(self.0, from, to) }
        }

        fn first(&self) -> usize {
            // SAFETY: as in `swap`; used with readable pages.
            unsafe { (self.0 as *const usize).read() }
        }

        fn protection(&self) -> c_int {
            Protections::read().unwrap().of(self.0).unwrap()
        }
    }

    impl Drop for Page {
        fn drop(&mut self) {
            // SAFETY: the page is this object's.
            unsafe { libc::munmap(self.0 as *mut _, page_size()) };
        }
    }

    #[test]
    fn writes_and_puts_the_protection_back() {
        for protection in [PROT_READ, PROT_READ | PROT_WRITE] {
            let page = Page::new(protection, 1);
            assert_eq!(page.swap(1, 2), Ok(()));
            assert_eq!((page.first(), page.protection()), (2, protection));
            assert_eq!(page.swap(1, 3), Err(Failure::Changed));
            assert_eq!((page.first(), page.protection()), (2, protection));
        }
    }

    #[test]
    fn leaves_other_pages_alone() {
        for protection in [0, PROT_READ | PROT_EXEC, PROT_READ | PROT_WRITE | PROT_EXEC] {
            let page = Page::new(protection, 1);
            assert_eq!(page.swap(1, 2), Err(Failure::Page));
            assert_eq!(page.protection(), protection);
        }
        // SAFETY: nothing is mapped there, which is found out first.
        let missing = unsafe { Protections::read().unwrap().swap(0, 1, 2) };
        assert_eq!(missing, Err(Failure::Page));
    }
}

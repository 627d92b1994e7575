//! Writes a pointer to a page that may be read-only.
//!
//! What the unsafe code below relies on:
//!
//! 1. The slot is an aligned pointer in memory that stays mapped during the call. It is only read
//!    and written atomically, or used by calls through it. [`Protections::swap`] requires this.
//! 2. Adding write access to a readable page with `mprotect` takes nothing away from anybody, and
//!    the protection that is restored is the one that the kernel reported. Nobody else changes the
//!    protections meanwhile: the process has one thread, or no other thread changes them.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_int, PROT_EXEC, PROT_READ, PROT_WRITE};
use procfs::process::MMPermissions;

use super::refusal::Refusal;
use crate::sys::maps;
use crate::sys::pagemap::page_size;

/// The protections of this process's mappings, as the kernel reports them.
#[derive(Debug)]
pub struct Protections(Vec<(Range<usize>, c_int)>);

/// The kernel lets nobody map a page below this address (the usual maximum of `vm.mmap_min_addr`).
const LOWEST: usize = 0x1_0000;

/// The reason why a slot was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The slot does not hold the expected value.
    Changed,
    /// Its page is executable, or not readable.
    Page,
    /// `mprotect` failed with this errno.
    Protect(i32),
}

impl Protections {
    /// Reads the protections from `/proc/self/maps`.
    pub fn read() -> Result<Self, Refusal> {
        let maps = maps::all().map_err(|_| Refusal::Maps)?;
        let maps = maps.iter().map(|map| {
            let protection = [
                (MMPermissions::READ, PROT_READ),
                (MMPermissions::WRITE, PROT_WRITE),
                (MMPermissions::EXECUTE, PROT_EXEC),
            ]
            .into_iter()
            .filter(|(permission, _)| map.perms.contains(*permission))
            .fold(0, |all, (_, bit)| all | bit);
            (maps::range(map), protection)
        });
        Ok(Protections(maps.collect()))
    }

    /// Returns the address of an unmapped page within `reach` bytes of all of `around`. Prefers
    /// pages below `around`, into which no mapping grows.
    pub fn gap_near(&self, around: Range<usize>, reach: usize) -> Option<usize> {
        let page = page_size();
        let (low, high) = (around.end.saturating_sub(reach), around.start.saturating_add(reach));
        // Of a gap between two mappings, take the page just below the upper mapping: the heap grows
        // upwards from the lower one.
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

    /// Replaces the value `from` of a slot by `to`. A read-only page is made writable meanwhile and
    /// gets its protection back afterwards, whether or not the slot was written. A slot on an
    /// executable page is left alone.
    ///
    /// # Safety
    ///
    /// `slot` is the address of an aligned pointer in mapped memory that calls go through. `to` is
    /// a function that may be called in place of `from`. No other thread changes the protections of
    /// the page during the call, and none has changed them since they were read.
    pub unsafe fn swap(&self, slot: usize, from: usize, to: usize) -> Result<(), Failure> {
        let protection = self.of(slot).ok_or(Failure::Page)?;
        if protection & PROT_READ == 0 || protection & PROT_EXEC != 0 {
            return Err(Failure::Page);
        }
        let page = slot & !(page_size() - 1);
        let read_only = protection & PROT_WRITE == 0;
        if read_only {
            // SAFETY: write access is added to a readable page (2).
            unsafe { protect(page, protection | PROT_WRITE) }?;
        }
        // SAFETY: the slot is an aligned, mapped pointer, on a page that is writable now (1).
        let pointer = unsafe { AtomicUsize::from_ptr(slot as *mut usize) };
        let swapped = pointer.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        if read_only {
            // SAFETY: this is the protection that the kernel reported for the page (2).
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
    // SAFETY: nobody relies on another protection, by contract (2).
    if unsafe { libc::mprotect(page as *mut _, page_size(), protection) } == 0 {
        return Ok(());
    }
    Err(Failure::Protect(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page that only this test uses.
    struct Page(usize);

    impl Page {
        fn new(protection: c_int, first: usize) -> Self {
            let (rw, private) = (PROT_READ | PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: this is a new mapping, which replaces none (2).
            let page = unsafe { libc::mmap(std::ptr::null_mut(), page_size(), rw, private, -1, 0) };
            assert_ne!(page, libc::MAP_FAILED);
            // SAFETY: the mapping is this function's, one page long and writable (1).
            unsafe { page.cast::<usize>().write(first) };
            // SAFETY: nobody else knows the page (2).
            unsafe { protect(page as usize, protection) }.unwrap();
            Page(page as usize)
        }

        fn swap(&self, from: usize, to: usize) -> Result<(), Failure> {
            // SAFETY: the page is this object's, and nothing calls through it (1).
            unsafe { Protections::read().unwrap().swap(self.0, from, to) }
        }

        fn first(&self) -> usize {
            // SAFETY: the page is this object's, and readable where this is called (1).
            unsafe { (self.0 as *const usize).read() }
        }

        fn protection(&self) -> c_int {
            Protections::read().unwrap().of(self.0).unwrap()
        }
    }

    impl Drop for Page {
        fn drop(&mut self) {
            // SAFETY: the page is this object's, and nothing uses it afterwards (1).
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
        // SAFETY: nothing is mapped at the address, which `swap` finds out before it writes (1).
        let missing = unsafe { Protections::read().unwrap().swap(0, 1, 2) };
        assert_eq!(missing, Err(Failure::Page));
    }
}

//! Reading and writing code.
//!
//! What the unsafe code below relies on:
//!
//! 1. The addresses handed in are those of code of this process that stays mapped and readable.
//! 2. While code is written it is not executable, and no other thread and no signal handler runs:
//!    [`write`] blocks all signals, and its caller knows that there is one thread.
//! 3. A page of blocks is this module's alone. It is writable until [`Page::seal`], executable from
//!    then on, and never both.

use std::mem::MaybeUninit;

use libc::{c_int, PROT_EXEC, PROT_READ, PROT_WRITE};

use crate::hook::arch::{flush, BLOCK};
use crate::hook::refusal::Refusal;
use crate::sys::pagemap::page_size;

/// Whether the code at an address is this.
pub fn holds(address: usize, bytes: &[u8]) -> bool {
    // SAFETY: 1.
    unsafe { std::slice::from_raw_parts(address as *const u8, bytes.len()) == bytes }
}

/// Replaces code. Its pages are writable meanwhile instead of executable.
///
/// # Safety
///
/// The new code may be run in place of the old one; the process has one thread, and neither this
/// module nor the C library is on the pages.
pub unsafe fn write(address: usize, bytes: &[u8]) -> Result<(), Refusal> {
    let start = address & !(page_size() - 1);
    let length = address.wrapping_add(bytes.len()).wrapping_sub(start);
    let _blocked = BlockedSignals::new();
    // SAFETY: 2, by contract.
    unsafe { protect(start, length, PROT_READ | PROT_WRITE)? };
    // SAFETY: 1, 2; writable now.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    // SAFETY: 1.
    unsafe { flush(address, bytes.len()) };
    // SAFETY: the protection that code has.
    unsafe { protect(start, length, PROT_READ | PROT_EXEC) }
}

/// The address of a block in a page; `None` behind the last.
pub fn block(page: usize, index: usize) -> Option<usize> {
    (index < page_size() / BLOCK).then(|| page.wrapping_add(index * BLOCK))
}

/// A new page for blocks.
pub struct Page(usize);

impl Page {
    /// Maps a page at an address where nothing is.
    pub fn at(address: usize) -> Result<Self, Refusal> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let wanted = address as *mut _;
        // SAFETY: a new mapping that replaces none.
        let page = unsafe { libc::mmap(wanted, page_size(), PROT_READ | PROT_WRITE, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(Refusal::Room);
        }
        if page != wanted {
            // A kernel older than the flag takes the address as a hint.
            // SAFETY: the mapping from above.
            unsafe { libc::munmap(page, page_size()) };
            return Err(Refusal::Room);
        }
        Ok(Page(address))
    }

    /// Writes a block at its address; what is not in the page is left out.
    pub fn fill(&self, address: usize, bytes: &[u8]) {
        let end = address.wrapping_add(bytes.len());
        if (self.0..=self.0.wrapping_add(page_size())).contains(&end) && self.0 <= address {
            // SAFETY: 3; in the page.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len())
            };
        }
    }

    /// Makes it executable.
    pub fn seal(self) -> Result<(), Refusal> {
        // SAFETY: 3.
        unsafe { flush(self.0, page_size()) };
        // SAFETY: 3.
        let sealed = unsafe { protect(self.0, page_size(), PROT_READ | PROT_EXEC) };
        if sealed.is_err() {
            // SAFETY: 3; nothing leads to it yet.
            unsafe { libc::munmap(self.0 as *mut _, page_size()) };
        }
        sealed
    }
}

/// Unmaps a page of blocks.
///
/// # Safety
///
/// It was made by [`Page::at`], and nothing leads to it any more.
pub unsafe fn unmap(page: usize) {
    // SAFETY: 3, by contract.
    unsafe { libc::munmap(page as *mut _, page_size()) };
}

/// All signals that can be, blocked in this thread.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: both are room for a set, and all zero is one.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
            BlockedSignals(before.assume_init())
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set that was in force.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// # Safety
///
/// Nobody needs the pages to have another protection.
unsafe fn protect(start: usize, length: usize, protection: c_int) -> Result<(), Refusal> {
    // SAFETY: by contract.
    if unsafe { libc::mprotect(start as *mut _, length, protection) } == 0 {
        return Ok(());
    }
    Err(Refusal::Protect(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)))
}

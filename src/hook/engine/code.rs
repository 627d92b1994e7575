//! Reads and writes machine code.
//!
//! What the unsafe code below relies on:
//!
//! 1. The addresses passed in belong to code of this process that stays mapped and readable.
//! 2. While code is written it is not executable, and no other thread and no signal handler runs:
//!    [`write`] blocks all signals, and its caller knows that the process has one thread.
//! 3. Only this module uses a page of blocks. The page is writable until [`CodePage::seal`] and
//!    executable from then on, and never both.
//! 4. The calls of libc that handle signal sets have no preconditions but valid pointers, and a set
//!    of zeroes is valid.

use std::mem::MaybeUninit;

use libc::{c_int, PROT_EXEC, PROT_READ, PROT_WRITE};

use crate::hook::arch::{flush, BLOCK};
use crate::hook::refusal::Refusal;
use crate::sys::pagemap::page_size;

/// Returns whether the code at an address equals `bytes`.
pub fn holds(address: usize, bytes: &[u8]) -> bool {
    // SAFETY: the address belongs to code that is mapped and readable (1).
    unsafe { std::slice::from_raw_parts(address as *const u8, bytes.len()) == bytes }
}

/// Replaces code. Meanwhile its pages are writable instead of executable.
///
/// # Safety
///
/// The new code may run in place of the old code. The process has one thread, and neither this
/// module nor the C library has code on the pages.
pub unsafe fn write(address: usize, bytes: &[u8]) -> Result<(), Refusal> {
    let start = address & !(page_size() - 1);
    let length = address.wrapping_add(bytes.len()).wrapping_sub(start);
    let _blocked = BlockedSignals::new();
    // SAFETY: nobody runs the code on the pages meanwhile, by contract (2).
    unsafe { protect(start, length, PROT_READ | PROT_WRITE)? };
    // SAFETY: the code is mapped (1), and its pages are writable now (2).
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    // SAFETY: the range was just written, so it is mapped (1).
    unsafe { flush(address, bytes.len()) };
    // SAFETY: this is the protection that code has, and nobody runs it yet (2).
    unsafe { protect(start, length, PROT_READ | PROT_EXEC) }
}

/// Returns the address of a block in a page; `None` if `index` is beyond the last block.
pub fn block(page: usize, index: usize) -> Option<usize> {
    (index < page_size() / BLOCK).then(|| page.wrapping_add(index * BLOCK))
}

/// A new page for blocks.
pub struct CodePage(usize);

impl CodePage {
    /// Maps a page at an address where nothing is mapped.
    pub fn at(address: usize) -> Result<Self, Refusal> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let wanted = address as *mut _;
        // SAFETY: the new mapping replaces none (3).
        let page = unsafe { libc::mmap(wanted, page_size(), PROT_READ | PROT_WRITE, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(Refusal::Room);
        }
        if page != wanted {
            // Kernels that do not know the flag take the address as a hint.
            // SAFETY: the mapping was made above, and nothing uses it (3).
            unsafe { libc::munmap(page, page_size()) };
            return Err(Refusal::Room);
        }
        Ok(CodePage(address))
    }

    /// Writes a block at its address. Does nothing if the block would not lie in the page.
    pub fn fill(&self, address: usize, bytes: &[u8]) {
        let end = address.wrapping_add(bytes.len());
        if (self.0..=self.0.wrapping_add(page_size())).contains(&end) && self.0 <= address {
            // SAFETY: the block lies in the page, which is still writable (3).
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len())
            };
        }
    }

    /// Makes the page executable, and no longer writable.
    pub fn seal(self) -> Result<(), Refusal> {
        // SAFETY: the page is ours and mapped (3).
        unsafe { flush(self.0, page_size()) };
        // SAFETY: nobody else uses the page (3).
        let sealed = unsafe { protect(self.0, page_size(), PROT_READ | PROT_EXEC) };
        if sealed.is_err() {
            // SAFETY: the page is ours, and nothing leads to it yet (3).
            unsafe { libc::munmap(self.0 as *mut _, page_size()) };
        }
        sealed
    }
}

/// Unmaps a page of blocks.
///
/// # Safety
///
/// The page was made by [`CodePage::at`], and nothing leads to it any more.
pub unsafe fn unmap(page: usize) {
    // SAFETY: the page is ours, and nothing leads to it, by contract (3).
    unsafe { libc::munmap(page as *mut _, page_size()) };
}

/// Blocks all signals that can be blocked in this thread, until it is dropped.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: both pointers lead to room for a set, and a set of zeroes is valid (4).
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
            BlockedSignals(before.assume_init())
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the pointer leads to the set that was in force before (4).
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// Sets the protection of the pages of a range.
///
/// # Safety
///
/// Nobody needs the pages to have another protection.
unsafe fn protect(start: usize, length: usize, protection: c_int) -> Result<(), Refusal> {
    // SAFETY: nobody needs another protection, by contract (2, 3).
    if unsafe { libc::mprotect(start as *mut _, length, protection) } == 0 {
        return Ok(());
    }
    Err(Refusal::Protect(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)))
}

//! Calls `PAGEMAP_SCAN`: the kernel walks a range of pages itself and returns runs of similar
//! pages.
//!
//! It exists in Linux 6.7 and later. It is faster than reading the words of the pagemap, and it
//! recognises the shared zero page: in the words that page is present, but no resident figure
//! includes it.
//!
//! Source: `Documentation/admin-guide/mm/pagemap.rst` and `include/uapi/linux/fs.h` of the kernel.
//!
//! Invariant of the unsafe code: **S1** the call reads one `Argument`, writes its `walk_end`, and
//! writes at most `vec_len` runs to `vec`; it reads page tables and touches no page.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
const PAGE_IS_HUGE: u64 = 1 << 6;

/// The maximum number of runs returned by one call.
const RUNS: usize = 128;

#[repr(C)]
struct Argument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u64 =
    (3 << 30) | ((std::mem::size_of::<Argument>() as u64) << 16) | ((b'f' as u64) << 8) | 16;

/// A run of pages with equal categories.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Run {
    start: u64,
    end: u64,
    categories: u64,
}

/// Passes the address ranges of present pages in `range` (page-aligned) to `each`, with a flag that
/// is true for pages of a file or of shared memory. The zero page is left out. Returns where to
/// continue.
pub fn present(
    pagemap: BorrowedFd,
    range: &Range<usize>,
    mut each: impl FnMut(Range<usize>, bool),
) -> io::Result<usize> {
    scan(pagemap, range, 0, PAGE_IS_PRESENT | PAGE_IS_PFNZERO, PAGE_IS_FILE, |run| {
        each(run.start as usize..run.end as usize, run.categories & PAGE_IS_FILE != 0)
    })
}

/// Like [`present`], but for pages that are all of one type. The kernel need not look at each
/// page's own descriptor to distinguish them, which would take six times as long.
pub fn present_alike(
    pagemap: BorrowedFd,
    range: &Range<usize>,
    each: impl FnMut(Range<usize>),
) -> io::Result<usize> {
    present_pages(pagemap, range, 0, each)
}

/// Like [`present_alike`], but ends after this number of pages; 0 means no limit.
pub fn present_pages(
    pagemap: BorrowedFd,
    range: &Range<usize>,
    pages: usize,
    mut each: impl FnMut(Range<usize>),
) -> io::Result<usize> {
    scan(pagemap, range, pages, PAGE_IS_PRESENT | PAGE_IS_PFNZERO, PAGE_IS_PRESENT, |run| {
        each(run.start as usize..run.end as usize)
    })
}

/// Like [`present_alike`], with a flag that is true for pages mapped as a huge page. The kernel
/// needs no page descriptors for it.
pub fn present_huge(
    pagemap: BorrowedFd,
    range: &Range<usize>,
    mut each: impl FnMut(Range<usize>, bool),
) -> io::Result<usize> {
    scan(pagemap, range, 0, PAGE_IS_PRESENT | PAGE_IS_PFNZERO, PAGE_IS_HUGE, |run| {
        each(run.start as usize..run.end as usize, run.categories & PAGE_IS_HUGE != 0)
    })
}

/// Scans for present pages, at most `pages` of them (0 means no limit). With [`PAGE_IS_PFNZERO`] in
/// the mask, the zero page is left out. `returned` selects the categories of the runs.
fn scan(
    pagemap: BorrowedFd,
    range: &Range<usize>,
    pages: usize,
    mask: u64,
    returned: u64,
    mut each: impl FnMut(&Run),
) -> io::Result<usize> {
    let mut runs = [Run::default(); RUNS];
    let mut argument = Argument {
        size: std::mem::size_of::<Argument>() as u64,
        flags: 0,
        start: range.start as u64,
        end: range.end as u64,
        walk_end: 0,
        vec: runs.as_mut_ptr() as u64,
        vec_len: RUNS as u64,
        max_pages: pages as u64,
        category_inverted: mask & PAGE_IS_PFNZERO,
        category_mask: mask,
        category_anyof_mask: 0,
        return_mask: returned,
    };
    // SAFETY: the argument and the array of runs live through the call, and the length is that of
    // the array (S1).
    let count =
        unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN as _, &mut argument as *mut _) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    runs.iter().take(count).for_each(&mut each);
    Ok((argument.walk_end as usize).max(range.start))
}

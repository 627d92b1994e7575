//! `PAGEMAP_SCAN`: the kernel goes over a range of pages itself and returns runs of the same kind.
//!
//! Linux 6.7 and later. Beside being faster than reading words, it tells the shared zero page apart,
//! which the words show as present but which is in no resident figure.
//!
//! Source: `Documentation/admin-guide/mm/pagemap.rst` and `include/uapi/linux/fs.h` of the kernel.
//!
//! Invariant for `unsafe`: **S1** the call reads one `Argument` and writes its `walk_end`, and at
//! most `vec_len` runs to `vec`; it reads page tables and touches no page.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
const PAGE_IS_HUGE: u64 = 1 << 6;

/// Runs returned by one call at most.
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

/// A run of pages.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Run {
    start: u64,
    end: u64,
    categories: u64,
}

/// Hands the address ranges of present pages in `range` (page aligned) to `each`, and whether they
/// are pages of a file or of shared memory. The zero page is left out. Returns where to continue.
pub fn present(
    pagemap: BorrowedFd,
    range: &Range<usize>,
    mut each: impl FnMut(Range<usize>, bool),
) -> io::Result<usize> {
    scan(pagemap, range, 0, PAGE_IS_PRESENT | PAGE_IS_PFNZERO, PAGE_IS_FILE, |run| {
        each(run.start as usize..run.end as usize, run.categories & PAGE_IS_FILE != 0)
    })
}

/// The same of pages that are all of one kind: they need not be told apart, for which the kernel looks
/// at each page's own descriptor, and takes six times as long.
pub fn present_alike(
    pagemap: BorrowedFd,
    range: &Range<usize>,
    each: impl FnMut(Range<usize>),
) -> io::Result<usize> {
    present_pages(pagemap, range, 0, each)
}

/// The same, but it ends after that many pages; 0 for no limit.
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

/// The same, and whether they are mapped as a huge page, for which the kernel looks at no descriptor.
pub fn present_huge(
    pagemap: BorrowedFd,
    range: &Range<usize>,
    mut each: impl FnMut(Range<usize>, bool),
) -> io::Result<usize> {
    scan(pagemap, range, 0, PAGE_IS_PRESENT | PAGE_IS_PFNZERO, PAGE_IS_HUGE, |run| {
        each(run.start as usize..run.end as usize, run.categories & PAGE_IS_HUGE != 0)
    })
}

/// At most that many pages that are present and, with that in the mask, not the zero page; the
/// categories to return.
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
    // SAFETY: S1; both live through the call, and the length is that of the array.
    let count =
        unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN as _, &mut argument as *mut _) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    runs.iter().take(count).for_each(&mut each);
    Ok((argument.walk_end as usize).max(range.start))
}

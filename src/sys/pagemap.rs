//! Reports which pages of this process are in RAM, from `/proc/self/pagemap`.
//!
//! Source: `Documentation/admin-guide/mm/pagemap.rst` of the kernel: one 64-bit word per page.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::near::NearRanges;
use super::scan;

/// Returns the size of a page in bytes.
pub fn page_size() -> usize {
    static SIZE: once_cell::sync::Lazy<usize> =
        once_cell::sync::Lazy::new(|| procfs::page_size().try_into().unwrap_or(4096));
    *SIZE
}

/// The word of one page in the pagemap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageEntry(u64);

impl PageEntry {
    /// Returns whether the page is in RAM and in this process's page table. The shared zero page
    /// counts as present here, but not in the kernel's resident figures.
    pub fn present(self) -> bool {
        self.0 & (1 << 63) != 0
    }

    /// Returns whether the page is swapped out.
    pub fn swapped(self) -> bool {
        self.0 & (1 << 62) != 0
    }

    /// Returns whether it is a page of a file or of shared memory, not a private anonymous one.
    pub fn file_or_shared(self) -> bool {
        self.0 & (1 << 61) != 0
    }

    /// Returns whether only this process maps the page, and only once.
    pub fn exclusive(self) -> bool {
        self.0 & (1 << 56) != 0
    }
}

/// Bytes of a range that are in RAM, by type of page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// Private anonymous pages, including written copies of file pages.
    pub anon: u64,
    /// Pages of files or of shared memory.
    pub file: u64,
}

/// An open `/proc/self/pagemap`.
#[derive(Debug)]
pub struct PageMap {
    file: File,
    /// Whether the kernel supports `PAGEMAP_SCAN`; true until a call fails.
    scans: Cell<bool>,
}

/// Pages whose words are read with one system call: 8 KiB of words, 4 MiB of address space, about
/// 10 us.
pub const PAGES_A_PIECE: usize = 1024;

/// The address space of one scan that tells pages of files from others: 4 MiB take about 100 us if
/// every page is present and small.
const BYTES_A_SCAN: usize = 4 << 20;

/// The address space of one scan of pages of one type: 16 MiB take about 50 us if every page is
/// present.
const BYTES_A_SCAN_ALIKE: usize = 16 << 20;

impl PageMap {
    /// Opens the pagemap of this process.
    ///
    /// Each process must open its own and close it soon: the descriptor stays bound to the process
    /// that opened it.
    pub fn open() -> io::Result<Self> {
        Ok(PageMap { file: File::open("/proc/self/pagemap")?, scans: Cell::new(true) })
    }

    /// Counts the pages in RAM in the first piece of a page-aligned range. Returns where to
    /// continue; this is `range.end` when the range is done.
    pub fn count(&self, range: &Range<usize>, resident: &mut Resident) -> io::Result<usize> {
        let end = range.end.min(range.start.saturating_add(BYTES_A_SCAN));
        let mut add = |bytes: usize, file: bool| {
            *if file { &mut resident.file } else { &mut resident.anon } += bytes as u64;
        };
        if self.scans.get() {
            match scan::present(self.file.as_fd(), &(range.start..end), |run, file| {
                add(run.len(), file)
            }) {
                Ok(next) => return Ok(next),
                // The kernel is older, or refuses the call: read the words instead.
                Err(_) => self.scans.set(false),
            }
        }
        let next = self.piece(range, |_, page| {
            if page.present() {
                add(page_size(), page.file_or_shared());
            }
        })?;
        Ok(next.min(range.end))
    }

    /// Counts the pages in RAM and in this process's page table in the first piece of a range whose
    /// pages are all of one type: shared memory, or private memory without a file. Returns where to
    /// continue, as [`PageMap::count`] does.
    pub fn count_alike(&self, range: &Range<usize>, bytes: &mut u64) -> io::Result<usize> {
        let end = range.end.min(range.start.saturating_add(BYTES_A_SCAN_ALIKE));
        if self.scans.get() {
            let scanned = scan::present_alike(self.file.as_fd(), &(range.start..end), |run| {
                *bytes += run.len() as u64;
            });
            match scanned {
                Ok(next) => return Ok(next),
                Err(_) => self.scans.set(false),
            }
        }
        let next = self.piece(range, |_, page| {
            if page.present() {
                *bytes += page_size() as u64;
            }
        })?;
        Ok(next.min(range.end))
    }

    /// Like [`PageMap::count_alike`], and also counts the bytes in huge pages if the kernel
    /// supports scans.
    pub fn count_huge(
        &self,
        range: &Range<usize>,
        bytes: &mut u64,
        huge: &mut u64,
    ) -> io::Result<usize> {
        if self.scans.get() {
            let end = range.end.min(range.start.saturating_add(BYTES_A_SCAN_ALIKE));
            let scanned =
                scan::present_huge(self.file.as_fd(), &(range.start..end), |run, is_huge| {
                    *bytes += run.len() as u64;
                    *huge += if is_huge { run.len() as u64 } else { 0 };
                });
            match scanned {
                Ok(next) => return Ok(next),
                Err(_) => self.scans.set(false),
            }
        }
        self.count_alike(range, bytes)
    }

    /// Like [`PageMap::count`] for one of the ranges in `near`, which are scanned together.
    pub fn count_near(
        &self,
        near: &mut NearRanges,
        range: &Range<usize>,
        resident: &mut Resident,
    ) -> io::Result<usize> {
        if self.scans.get() {
            let add = |bytes: usize, file: bool| {
                *if file { &mut resident.file } else { &mut resident.anon } += bytes as u64;
            };
            let scan = |wanted: &Range<usize>, each: &mut dyn FnMut(Range<usize>, bool)| {
                scan::present(self.file.as_fd(), wanted, each)
            };
            match near.count(range, BYTES_A_SCAN, scan, add) {
                Ok(next) => return Ok(next),
                Err(_) => self.scans.set(false),
            }
        }
        self.count(range, resident)
    }

    /// Like [`PageMap::count_huge`] for one of the ranges in `near`, which are scanned together.
    pub fn count_huge_near(
        &self,
        near: &mut NearRanges,
        range: &Range<usize>,
        bytes: &mut u64,
        huge: &mut u64,
    ) -> io::Result<usize> {
        if self.scans.get() {
            let add = |run: usize, is_huge: bool| {
                *bytes += run as u64;
                *huge += if is_huge { run as u64 } else { 0 };
            };
            let scan = |wanted: &Range<usize>, each: &mut dyn FnMut(Range<usize>, bool)| {
                scan::present_huge(self.file.as_fd(), wanted, each)
            };
            match near.count(range, BYTES_A_SCAN_ALIKE, scan, add) {
                Ok(next) => return Ok(next),
                Err(_) => self.scans.set(false),
            }
        }
        self.count_alike(range, bytes)
    }

    /// Returns whether the kernel supports scans, which distinguish huge pages from others.
    pub fn scans(&self) -> bool {
        self.scans.get()
    }

    /// Passes the pages of a range that are in RAM to `each` with their words, at most
    /// [`PAGES_A_PIECE`] of them. The zero page is left out if the kernel supports scans. Returns
    /// where to continue, as [`PageMap::count`] does.
    pub fn resident(
        &self,
        range: &Range<usize>,
        mut each: impl FnMut(usize, PageEntry),
    ) -> io::Result<usize> {
        /// Bounds a scan, because scanning empty address space takes time, too.
        const BYTES_A_SCAN: usize = 1 << 30;
        /// The gap between two runs, in pages, up to which one system call is cheaper than two.
        const NEAR: usize = 64;
        if self.scans.get() {
            let end = range.end.min(range.start.saturating_add(BYTES_A_SCAN));
            let mut runs: Vec<Range<usize>> = Vec::new();
            let scanned =
                scan::present_pages(self.file.as_fd(), &(range.start..end), PAGES_A_PIECE, |run| {
                    runs.push(run)
                });
            match scanned {
                Ok(next) => {
                    let near = NEAR.saturating_mul(page_size());
                    let mut runs = runs.as_slice();
                    while let Some(first) = runs.first() {
                        let ends = |pair: &[Range<usize>]| match pair {
                            [a, b] => b.start.saturating_sub(a.end) > near,
                            _ => true,
                        };
                        let count = runs.windows(2).position(ends).map_or(runs.len(), |n| n + 1);
                        let (group, rest) = runs.split_at(count);
                        let last = group.last().unwrap_or(first);
                        let mut inside = group.iter().peekable();
                        let mut at = first.start;
                        while at < last.end {
                            at = self.piece(&(at..last.end), |address, page| {
                                while inside.next_if(|run| run.end <= address).is_some() {}
                                if inside.peek().is_some_and(|run| run.start <= address) {
                                    each(address, page);
                                }
                            })?;
                        }
                        runs = rest;
                    }
                    return Ok(next);
                }
                Err(_) => self.scans.set(false),
            }
        }
        let next = self.piece(range, |address, page| {
            if page.present() {
                each(address, page);
            }
        })?;
        Ok(next.min(range.end))
    }

    /// Reads the words of up to [`PAGES_A_PIECE`] pages from the page of `range.start` on, and
    /// passes the address and word of each page to `each`. Returns where to continue; this is
    /// `range.end` or more when the range is done.
    pub fn piece(
        &self,
        range: &Range<usize>,
        mut each: impl FnMut(usize, PageEntry),
    ) -> io::Result<usize> {
        let page_size = page_size();
        let start = range.start / page_size * page_size;
        let pages = range.end.saturating_sub(start).div_ceil(page_size).min(PAGES_A_PIECE);
        let mut words = [0u8; PAGES_A_PIECE * 8];
        let words = &mut words[..pages * 8];
        self.file.read_exact_at(words, (start / page_size * 8) as u64)?;
        for (i, word) in words.chunks_exact(8).enumerate() {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(word);
            each(start + i * page_size, PageEntry(u64::from_ne_bytes(bytes)));
        }
        Ok(start + pages * page_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_which_pages_were_touched() {
        let pages = 3 * PAGES_A_PIECE;
        let mut memory = vec![0u8; (pages + 1) * page_size()];
        let start = (memory.as_ptr() as usize).next_multiple_of(page_size());
        let offset = start - memory.as_ptr() as usize;
        let touched = |page: usize| page % 3 == 0;
        for page in (0..pages).filter(|page| touched(*page)) {
            memory[offset + page * page_size()] = 1;
        }
        let map = PageMap::open().unwrap();
        let range = start..start + pages * page_size();
        let mut present = Vec::new();
        let mut at = range.start;
        while at < range.end {
            at = map
                .piece(&(at..range.end), |address, page| {
                    assert_eq!(address, start + present.len() * page_size());
                    present.push(page.present() && !page.file_or_shared() && !page.swapped());
                })
                .unwrap();
        }
        assert_eq!(present.len(), pages);
        // With huge pages, pages that were not touched may be present, too.
        assert!((0..pages).filter(|page| touched(*page)).all(|page| present[page]));
    }

    #[test]
    fn scan_and_words_agree_but_for_the_zero_page() {
        let pages = 600;
        let mut memory = vec![0u8; (pages + 1) * page_size()];
        let start = (memory.as_ptr() as usize).next_multiple_of(page_size());
        let offset = start - memory.as_ptr() as usize;
        let range = start..start + pages * page_size();
        let mut read = 0;
        for page in 0..pages {
            match page % 5 {
                0 => memory[offset + page * page_size()] = 1,
                // Reading a page that was never written maps the zero page.
                1 => {
                    read += usize::from(std::hint::black_box(&memory)[offset + page * page_size()])
                }
                _ => {}
            }
        }
        assert_eq!(read, 0);
        let count = |map: &PageMap| {
            let mut resident = Resident::default();
            let mut at = range.start;
            while at < range.end {
                at = map.count(&(at..range.end), &mut resident).unwrap();
            }
            resident
        };
        let map = PageMap::open().unwrap();
        let scanned = count(&map);
        let scans = map.scans.replace(false);
        let words = count(&map);
        let page = page_size() as u64;
        let mut alike = 0;
        map.scans.set(scans);
        let mut at = range.start;
        while at < range.end {
            at = map.count_alike(&(at..range.end), &mut alike).unwrap();
        }
        assert_eq!(alike, scanned.anon);
        if words.anon != pages as u64 * page {
            assert_eq!(words, Resident { anon: 2 * pages as u64 / 5 * page, file: 0 });
        }
        if scans && words != scanned {
            assert_eq!(scanned, Resident { anon: pages as u64 / 5 * page, file: 0 });
        }
    }

    #[test]
    fn shared_pages() {
        use crate::probe::shared::tests::{shared, touch};
        let pages = 3 * PAGES_A_PIECE;
        let start = shared(pages, libc::PROT_READ | libc::PROT_WRITE);
        let at = |page: usize| start + page * page_size();
        (0..pages).step_by(5).for_each(|page| touch(&(at(page)..at(page + 1)), 1));
        let map = PageMap::open().unwrap();
        for scans in [true, false] {
            map.scans.set(scans);
            let (mut from, mut bytes) = (start, 0);
            while from < at(pages) {
                from = map.count_alike(&(from..at(pages)), &mut bytes).unwrap();
            }
            assert_eq!(bytes, (pages.div_ceil(5) * page_size()) as u64);
        }
    }

    #[test]
    fn file_pages_are_told_apart() {
        let map = PageMap::open().unwrap();
        let code = file_pages_are_told_apart as *const () as usize / page_size() * page_size();
        for scans in [true, false] {
            map.scans.set(scans);
            let mut resident = Resident::default();
            map.count(&(code..code + page_size()), &mut resident).unwrap();
            assert_eq!(resident, Resident { anon: 0, file: page_size() as u64 });
        }
    }
}

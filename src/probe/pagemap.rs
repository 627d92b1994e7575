//! Which pages of this process are in RAM, from `/proc/self/pagemap`.
//!
//! Source: `Documentation/admin-guide/mm/pagemap.rst` of the kernel: one 64-bit word a page.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The size of a page in bytes.
pub fn page_size() -> usize {
    static SIZE: once_cell::sync::Lazy<usize> = once_cell::sync::Lazy::new(|| {
        procfs::page_size().try_into().unwrap_or(4096)
    });
    *SIZE
}

/// One word of the pagemap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page(u64);

impl Page {
    /// In RAM and in this process's page table. The shared zero page counts as present here but
    /// not in the kernel's resident figures.
    pub fn present(self) -> bool {
        self.0 & (1 << 63) != 0
    }

    /// Swapped out.
    pub fn swapped(self) -> bool {
        self.0 & (1 << 62) != 0
    }

    /// A page of a file or of shared memory, not a private anonymous one.
    pub fn file_or_shared(self) -> bool {
        self.0 & (1 << 61) != 0
    }
}

/// Bytes of a range that are in RAM, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// Private anonymous pages, written copies of file pages included.
    pub anon: u64,
    /// Pages of files or of shared memory.
    pub file: u64,
}

/// An open `/proc/self/pagemap`.
#[derive(Debug)]
pub struct PageMap {
    file: File,
}

/// Pages read with one system call: 8 KiB of words, 4 MiB of address space, about 10 us.
pub const PAGES_A_PIECE: usize = 1024;

impl PageMap {
    /// Opens the pagemap of this process. Open it anew in each process and close it soon: the
    /// descriptor stays bound to the process that opened it.
    pub fn open() -> io::Result<Self> {
        Ok(PageMap { file: File::open("/proc/self/pagemap")? })
    }

    /// Reads the words of up to [`PAGES_A_PIECE`] pages from the page of `range.start` on, and hands
    /// each page's address and word to `each`. Returns where to continue, `range.end` or more when
    /// the range is done.
    pub fn piece(
        &self,
        range: &Range<usize>,
        mut each: impl FnMut(usize, Page),
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
            each(start + i * page_size, Page(u64::from_ne_bytes(bytes)));
        }
        Ok(start + pages * page_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_pages_that_were_touched() {
        let pages = 3000;
        let mut memory = vec![0u8; (pages + 1) * page_size()];
        let start = (memory.as_ptr() as usize).div_ceil(page_size()) * page_size();
        let offset = start - memory.as_ptr() as usize;
        for page in (0..pages).step_by(3) {
            memory[offset + page * page_size()] = 1;
        }
        let map = PageMap::open().unwrap();
        let range = start..start + pages * page_size();
        let (mut at, mut anon) = (range.start, 0);
        while at < range.end {
            at = map
                .piece(&(at..range.end), |_, page| {
                    if page.present() && !page.file_or_shared() {
                        anon += 1;
                    }
                })
                .unwrap();
        }
        assert_eq!(anon, pages / 3);
    }
}

//! Finds malloc's memory in huge pages.
//!
//! With `glibc.malloc.hugetlb=2`, glibc makes `MAP_HUGETLB` mappings for large blocks and wherever
//! it would otherwise call `brk`. Each mapping begins with the header of a chunk.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::sys::memory::{word, Memory, OwnMemory};
use crate::sys::pagemap::PageMap;

/// Flags of a chunk: the chunk in front is in use; the chunk has a mapping of its own.
const PREVIOUS_IN_USE: usize = 1;
const MAPPED: usize = 2;
const FLAGS: usize = 7;

/// Returns the mappings that malloc has made, up to `missing` bytes, which is the memory of malloc
/// that was not found elsewhere.
pub fn in_huge_pages(
    candidates: impl Iterator<Item = Range<usize>>,
    pages: &PageMap,
    missing: u64,
) -> Vec<Range<usize>> {
    let mut left = missing;
    let mut found = Vec::new();
    for range in candidates {
        let bytes = range.len() as u64;
        if bytes <= left && begins_with_chunk(&range, pages) {
            left = left.saturating_sub(bytes);
            found.push(range);
        }
    }
    found
}

/// The maximum number of chunks to follow.
const CHUNKS: usize = 64;

/// Returns whether the memory begins with chunks of malloc: a single chunk with a mapping of its
/// own, or several in a row. A page that is not in RAM is not read, because reading it would
/// allocate it.
fn begins_with_chunk(range: &Range<usize>, pages: &PageMap) -> bool {
    let mut at = range.start;
    for place in 0..CHUNKS {
        let Some((before, size)) = header(at, pages) else { return place > 0 };
        let (flags, size) = (size & FLAGS, size & !FLAGS);
        if place == 0 && flags == MAPPED {
            return before == 0 && size == range.len();
        }
        let left = range.end.saturating_sub(at);
        let is_chunk =
            flags & !PREVIOUS_IN_USE == 0 && size % 16 == 0 && (32..=left).contains(&size);
        if !is_chunk || (place == 0 && flags != PREVIOUS_IN_USE) {
            return false;
        }
        if size >= left.saturating_sub(2 * 16) {
            // The last chunk, except for the two headers that end an arena that could not grow.
            return true;
        }
        at = at.saturating_add(size);
    }
    true
}

/// Reads two words at an address if its page is in RAM.
fn header(at: usize, pages: &PageMap) -> Option<(usize, usize)> {
    let mut present = false;
    let looked = pages.piece(&(at..at.saturating_add(16)), |_, page| present |= page.present());
    let mut header = [0; 16];
    let read = looked.is_ok() && present && OwnMemory.read(at, &mut header).is_ok();
    read.then(|| (word(&header, 0), word(&header, 8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_malloc_and_other_memory() {
        let pages = PageMap::open().unwrap();
        let mut words = vec![0usize; 8192];
        let start = words.as_ptr() as usize;
        let range = start..start + words.len() * 8;
        let found = |bytes: u64| in_huge_pages(std::iter::once(range.clone()), &pages, bytes).len();
        assert_eq!(found(u64::MAX), 0, "nothing there");
        // A chunk of 64 bytes, one of 4096 bytes, and the top chunk.
        (words[1], words[9], words[521]) = (65, 4097, (8192 - 520) * 8 + 1);
        assert_eq!(std::hint::black_box(&words)[9], 4097);
        assert_eq!((found(u64::MAX), found(range.len() as u64), found(4096)), (1, 1, 0));
        words[521] = 17;
        assert_eq!(std::hint::black_box(&words)[521], 17);
        assert_eq!(found(u64::MAX), 0, "a chunk that is too small");
        words[1] = range.len() + 2;
        assert_eq!(std::hint::black_box(&words)[1], range.len() + 2);
        assert_eq!(found(u64::MAX), 1, "a mapping of its own");
    }
}

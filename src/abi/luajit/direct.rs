//! Finds blocks with a mapping of their own by the words that `lj_alloc.c` writes at their start
//! and end.
//!
//! The allocator keeps no list of them. For a VM that is observed from its creation, each of these
//! blocks is counted when it is allocated; this file finds the blocks that a VM allocated earlier.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;

use procfs::process::{MMPermissions, MMapPath};

use super::HEADER;
use crate::budget::{Budget, Progress};
use crate::sys::maps;
use crate::sys::maps::MapsReader;
use crate::sys::memory::{word, Memory, OwnMemory, Record, BATCH, RECORD};
use crate::sys::pagemap::page_size;
use crate::sys::ranges;

/// `IS_DIRECT_BIT`, in the first word of a direct mapping.
pub const DIRECT: usize = 1;
/// `DEFAULT_MMAP_THRESHOLD`: the minimum size of a new direct mapping, in bytes.
pub const THRESHOLD: usize = 128 << 10;
/// Bytes behind the chunk in its mapping.
pub const FOOT: usize = 32;
/// `FENCEPOST_HEAD`, in the head of the record behind the chunk.
const FENCE: usize = 11;
const IN_USE: usize = 2;

/// Returns the direct mappings of this process, except those in `known` ranges. Reads the first
/// bytes of each page of anonymous memory, which takes some milliseconds for 100 MB.
pub fn find_all(known: &[Range<usize>]) -> io::Result<Vec<Range<usize>>> {
    let known = ranges::normalize(known.to_vec());
    let mut reader = MapsReader::open()?;
    while reader.step(&Budget::unlimited())? == Progress::More {}
    let rights = MMPermissions::READ | MMPermissions::WRITE | MMPermissions::PRIVATE;
    let maps = reader.finish();
    let anonymous = maps
        .iter()
        .filter(|map| map.pathname == MMapPath::Anonymous && map.perms == rights)
        .flat_map(|map| ranges::subtract(&maps::range(map), &known));
    Ok(find(&OwnMemory, &anonymous.collect::<Vec<_>>()))
}

/// Returns the direct mappings that start on a page of `ranges`.
fn find(memory: &impl Memory, ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let pages: Vec<usize> = (at..range.end).step_by(page_size()).take(BATCH).collect();
            let mut records = [[0; RECORD]; BATCH];
            let read = memory.read_each(&pages, &mut records).unwrap_or(0);
            let hit = pages.iter().zip(&records).take(read).find_map(|(page, record)| {
                let mapping = mapping(*page, record, range.end)?;
                is_fenced(memory, &mapping).then_some(mapping)
            });
            at = match hit {
                Some(mapping) => {
                    let end = mapping.end;
                    found.push(mapping);
                    end
                }
                // Skips a page that cannot be read.
                None => at + page_size() * read.max(1),
            };
        }
    }
    found
}

/// Decodes a mapping from the header of its chunk.
fn mapping(start: usize, record: &Record, end: usize) -> Option<Range<usize>> {
    let head = word(record, 8);
    if word(record, 0) != DIRECT || head & 7 != IN_USE {
        return None;
    }
    let mapping = start..start.checked_add(head & !7)?.checked_add(FOOT)?;
    (mapping.len() % page_size() == 0 && mapping.len() > HEADER + FOOT && mapping.end <= end)
        .then_some(mapping)
}

fn is_fenced(memory: &impl Memory, mapping: &Range<usize>) -> bool {
    let mut foot = [0; FOOT];
    let at = mapping.end - FOOT;
    memory.read(at, &mut foot).is_ok() && word(&foot, 8) == FENCE && word(&foot, 16) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::luajit::tests::Fake;

    #[test]
    fn among_other_pages() {
        let page = page_size();
        let mut fake = Fake::new(16 * page);
        let direct = |fake: &mut Fake, at: usize, size: usize| {
            fake.set(at, 1);
            fake.set(at + 8, (size - 32) | 2);
            fake.set(at + size - 24, 11);
        };
        direct(&mut fake, page, 3 * page);
        direct(&mut fake, 4 * page, page);
        // A block of glibc, a mapping without a fence, and a mapping that is too long.
        fake.set(6 * page + 8, page | 2);
        direct(&mut fake, 8 * page, page);
        fake.set(9 * page - 24, 0);
        direct(&mut fake, 15 * page, page);
        fake.set(15 * page + 8, (2 * page - 32) | 2);
        let base = fake.base();
        let all = base..base + 16 * page;
        let found = find(&fake, std::slice::from_ref(&all));
        assert_eq!(found, [base + page..base + 4 * page, base + 4 * page..base + 5 * page]);
    }
}

//! Finds the machine code of LuaJIT's compiler: areas in anonymous executable mappings.
//!
//! Each area begins with a link, as in `lj_mcode.c`: the address of the VM's previous area or 0,
//! and the area's own size. The link distinguishes the areas from other generated code (PCRE's,
//! trampolines), and from each other if the kernel shows several as one mapping.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;

use procfs::process::MemoryMap;

use crate::budget::{Budget, Job, Progress};
use crate::sys::maps;
use crate::sys::memory::{word, Memory};
use crate::sys::pagemap::page_size;

/// The number of pages of other code in front of an area that are skipped in a mapping.
const STRAY: usize = 16;

/// Searches for the areas. Call [`CodeReader::step`] until it returns [`Progress::Done`].
#[derive(Debug)]
pub struct CodeReader {
    mappings: Vec<Range<usize>>,
    /// Addresses at which an area may begin, each with the number of pages before it without an
    /// area.
    pending: Vec<(usize, usize)>,
    areas: BTreeMap<usize, usize>,
}

impl CodeReader {
    /// Starts a search in the mappings of generated code.
    pub fn new(maps: &[MemoryMap]) -> Self {
        let code = maps.iter().filter(|map| maps::is_generated_code(map));
        Self::of(code.map(maps::range).collect())
    }

    fn of(mappings: Vec<Range<usize>>) -> Self {
        let pending = mappings.iter().map(|range| (range.start, 0)).collect();
        CodeReader { mappings, pending, areas: BTreeMap::new() }
    }

    fn look(&mut self, memory: &impl Memory, at: usize, strays: usize) {
        let Some(end) = self.mapping_end(at).filter(|_| !self.areas.contains_key(&at)) else {
            return;
        };
        let mut link = [0; 16];
        let read = memory.read(at, &mut link).is_ok();
        let (before, size) = (word(&link, 0), word(&link, 8));
        let is_page = |address: usize| address % page_size() == 0;
        let is_area = read
            && is_page(size)
            && size > 0
            && at.checked_add(size).is_some_and(|area_end| area_end <= end)
            && (before == 0 || (is_page(before) && self.mapping_end(before).is_some()));
        if is_area {
            self.areas.insert(at, size);
            self.pending.push((at + size, 0));
            self.pending.push((before, STRAY));
        } else if strays < STRAY {
            self.pending.push((at + page_size(), strays + 1));
        }
    }

    fn mapping_end(&self, at: usize) -> Option<usize> {
        self.mappings.iter().find(|range| range.contains(&at)).map(|range| range.end)
    }

    /// Returns the areas in ascending order of addresses.
    pub fn finish(&self) -> Vec<Range<usize>> {
        self.areas.iter().map(|(at, size)| *at..at + size).collect()
    }
}

impl<M: Memory> Job<M> for CodeReader {
    type Error = Infallible;

    fn step(&mut self, memory: &M, budget: &Budget) -> Result<Progress, Infallible> {
        let mut looks = 0;
        while let Some((at, strays)) = self.pending.pop() {
            self.look(memory, at, strays);
            looks += 1;
            if looks % 16 == 0 && budget.spent() {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::luajit::tests::Fake;

    #[test]
    fn areas_and_other_code() {
        let page = page_size();
        let mut fake = Fake::new(64 * page);
        let base = fake.base();
        let mut area = |at: usize, size: usize, before: usize| {
            fake.set(at * page, if before == 0 { 0 } else { base + before * page });
            fake.set(at * page + 8, size * page);
        };
        // One mapping with two areas; the second one links to the first.
        area(0, 2, 0);
        area(2, 2, 0);
        area(2, 2, 10);
        // An area behind a page of other code, and one behind 20 such pages, which is linked to
        // above.
        area(10, 1, 0);
        area(41, 2, 0);
        fake.set(8 * page, 0xc3);
        // A size beyond the mapping, and a link to an address outside all mappings.
        fake.set(50 * page + 8, 8 * page);
        fake.set(52 * page, 0x1000);
        fake.set(52 * page + 8, page);
        let range = |from: usize, to: usize| base + from * page..base + to * page;
        let all = [range(0, 4), range(8, 11), range(20, 43), range(50, 51), range(52, 53)];
        let read = |budget: Budget| {
            let mut reader = CodeReader::of(all.to_vec());
            let mut steps = 1;
            while reader.step(&fake, &budget) == Ok(Progress::More) {
                steps += 1;
            }
            (reader.finish(), steps)
        };
        let (found, steps) = read(Budget::unlimited());
        assert_eq!(found, [range(0, 2), range(2, 4), range(10, 11)]);
        assert_eq!(steps, 1);
        let (again, steps) = read(Budget::new(std::time::Duration::ZERO));
        assert_eq!(again, found);
        assert!(steps > 1);
    }
}

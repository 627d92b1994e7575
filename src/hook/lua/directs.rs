//! The direct mappings of one VM.
#![forbid(unsafe_code)]

use std::collections::hash_map::DefaultHasher;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::ops::Range;

use crate::abi::luajit::direct::THRESHOLD;

/// The list of a VM's direct mappings.
#[derive(Debug, Default)]
pub struct Directs {
    /// Their sizes in bytes, by address.
    sizes: HashMap<usize, usize, BuildHasherDefault<DefaultHasher>>,
    /// The number of mappings that became shorter than any new mapping, as when a buffer shrinks.
    short: usize,
}

impl Directs {
    /// Adds a mapping. Returns false if there is no memory for it.
    pub fn insert(&mut self, range: Range<usize>) -> bool {
        if self.sizes.try_reserve(1).is_err() {
            return false;
        }
        self.short += usize::from(range.len() < THRESHOLD);
        self.sizes.insert(range.start, range.len());
        true
    }

    /// Removes a mapping.
    pub fn remove(&mut self, start: usize) {
        if let Some(size) = self.sizes.remove(&start) {
            self.short -= usize::from(size < THRESHOLD);
        }
    }

    /// Returns whether a block in one of the mappings may be small. LuaJIT keeps a mapping
    /// unchanged when its block shrinks by at most 64 KiB.
    pub fn any_short(&self) -> bool {
        self.short > 0
    }

    /// Returns the address ranges of the mappings.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.sizes.iter().map(|(at, size)| *at..at.saturating_add(*size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ones() {
        let mut directs = Directs::default();
        let at = 0x10000;
        assert!(directs.insert(at..at + THRESHOLD) && !directs.any_short());
        directs.remove(at);
        assert!(directs.insert(at..at + 0x11000) && directs.any_short());
        assert!(directs.insert(0x90000..0x90000 + 2 * THRESHOLD) && directs.any_short());
        directs.remove(0x1000);
        directs.remove(at);
        assert!(!directs.any_short());
        assert_eq!(directs.ranges().map(|range| range.start).collect::<Vec<_>>(), [0x90000]);
    }
}

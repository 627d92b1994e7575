//! The arenas of glibc's malloc: where they are, what they hold, what of it is free.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::sweep::{Extent, Sweep};
use super::walk::{Limit, Stop, Walker};
use crate::abi::glibc::{Arena, Counters, Layout, Mmapped, ALIGNMENT, COUNTERS};
use crate::sys::memory::{word, Memory};

/// The size and alignment of the heaps of all arenas but the first.
pub const HEAP_MAX: usize = 64 << 20;
/// More arenas, or heaps of one, than these are taken for an error.
const MOST_ARENAS: usize = 4096;
const MOST_HEAPS: usize = 4096;
/// `ar_ptr` and `prev` of `struct heap_info`; `size` follows.
const HEAP_INFO: usize = 16;
/// How often an arena is walked that another thread changes meanwhile.
const TRIES: usize = 3;

/// Where malloc keeps its state; found once, the same in every forked process.
#[derive(Debug, Clone, Copy)]
pub struct State {
    /// The layout of an arena.
    pub layout: Layout,
    /// The address of `main_arena`.
    pub main: usize,
    /// The first chunk of the `brk` heap, if a walk from there has proved right.
    pub first: Option<usize>,
    /// Where the blocks with a mapping of their own are counted.
    pub counters: Option<Counters>,
}

/// What the arenas hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Arenas.
    pub arenas: usize,
    /// Bytes from the system.
    pub system: usize,
    /// The first arena has pieces outside the `brk` heap.
    pub scattered: bool,
}

/// Reads the arenas. Its buffers are made once: reading must not allocate.
pub struct Reader {
    pub(super) walker: Walker,
    pub(super) sweep: Sweep,
    /// The arena at hand.
    pub(super) arena: Arena,
    again: Arena,
    /// Its heaps, the newest first.
    regions: Vec<Range<usize>>,
    /// Where its chunks are.
    pub(super) extent: Extent,
}

impl Reader {
    /// A reader for arenas of this layout.
    pub fn new(layout: Layout) -> Reader {
        Reader {
            walker: Walker::default(),
            sweep: Sweep::default(),
            arena: Arena::new(layout),
            again: Arena::new(layout),
            regions: Vec::with_capacity(64),
            extent: Extent { parts: Vec::with_capacity(64), top: 0 },
        }
    }

    /// Counts the arenas and their memory, and adds the regions of all but the first to `heaps`.
    pub fn held(
        &mut self,
        memory: &impl Memory,
        state: &State,
        heaps: &mut Vec<Range<usize>>,
    ) -> Result<Held, Stop> {
        let mut held = Held::default();
        let mut at = state.main;
        for _ in 0..MOST_ARENAS {
            read(memory, at, self.arena.image(at))?;
            held.arenas += 1;
            held.system = held.system.checked_add(self.arena.system_mem()).ok_or(Stop::Broken)?;
            if at == state.main {
                held.scattered = !self.arena.contiguous();
            } else {
                self.read_heaps(memory)?;
                heaps.extend_from_slice(&self.regions);
            }
            at = self.arena.next();
            if at == state.main {
                return Ok(held);
            }
        }
        Err(Stop::Broken)
    }

    /// Free bytes of all arenas and what they hold, by malloc's lists. `heap` is where the first
    /// arena can be.
    pub fn free(
        &mut self,
        memory: &impl Memory,
        state: &State,
        heap: &[Range<usize>],
        limit: &mut Limit,
    ) -> Result<(usize, Held), Stop> {
        let mut held = Held::default();
        let mut free = 0usize;
        let mut at = state.main;
        for _ in 0..MOST_ARENAS {
            let bytes = self.free_of(memory, at, state, heap, limit)?;
            free = free.checked_add(bytes).ok_or(Stop::Broken)?;
            held.arenas += 1;
            held.system = held.system.checked_add(self.arena.system_mem()).ok_or(Stop::Broken)?;
            at = self.arena.next();
            if at == state.main {
                return Ok((free, held));
            }
        }
        Err(Stop::Broken)
    }

    /// Free bytes of the arena at `at`, which must be the same before and after its walk.
    pub(super) fn free_of(
        &mut self,
        memory: &impl Memory,
        at: usize,
        state: &State,
        heap: &[Range<usize>],
        limit: &mut Limit,
    ) -> Result<usize, Stop> {
        let mut last = Stop::Broken;
        for _ in 0..TRIES {
            read(memory, at, self.arena.image(at))?;
            if self.arena.locked() {
                continue;
            }
            let regions = if at == state.main {
                heap
            } else {
                match self.read_heaps(memory) {
                    Ok(()) => &self.regions,
                    Err(stop) => {
                        last = stop;
                        continue;
                    }
                }
            };
            match self.walker.free(memory, &self.arena, state.layout, regions, limit) {
                Err(stop @ (Stop::TooMany | Stop::Unreadable)) => return Err(stop),
                Err(stop) => last = stop,
                Ok(bytes) => {
                    read(memory, at, self.again.image(at))?;
                    if self.arena.same(&self.again) {
                        return Ok(bytes);
                    }
                }
            }
        }
        Err(last)
    }

    /// Finds out where the chunks of the arena at `at` are.
    pub(super) fn read_extent(
        &mut self,
        memory: &impl Memory,
        at: usize,
        state: &State,
        heap: &Range<usize>,
    ) -> Result<(), Stop> {
        read(memory, at, self.arena.image(at))?;
        self.extent.top = self.arena.top();
        self.extent.parts.clear();
        if at == state.main {
            self.extent.parts.push(state.first.ok_or(Stop::TooMany)?..heap.end);
            return Ok(());
        }
        self.read_heaps(memory)?;
        // The arena lies in its first heap, behind what all heaps begin with.
        let info = at % HEAP_MAX;
        for region in self.regions.iter().rev() {
            let mut size = [0u8; 8];
            read(memory, region.start + HEAP_INFO, &mut size)?;
            let end = region.start.checked_add(word(&size, 0)).ok_or(Stop::Broken)?;
            let mut start = region.start + info;
            if region.contains(&at) {
                start = (at + state.layout.image_size()).next_multiple_of(ALIGNMENT);
            }
            if !region.contains(&start) || end > region.end {
                return Err(Stop::Broken);
            }
            self.extent.parts.push(start..end);
        }
        Ok(())
    }

    /// Follows the heaps of the arena at hand, which is not the first one.
    fn read_heaps(&mut self, memory: &impl Memory) -> Result<(), Stop> {
        self.regions.clear();
        let mut at = self.arena.top() & !(HEAP_MAX - 1);
        for _ in 0..MOST_HEAPS {
            let mut info = [0u8; HEAP_INFO];
            read(memory, at, &mut info)?;
            let region = at..at.checked_add(HEAP_MAX).ok_or(Stop::Broken)?;
            if word(&info, 0) != self.arena.at() || self.regions.contains(&region) {
                return Err(Stop::Broken);
            }
            let first = region.contains(&self.arena.at());
            self.regions.push(region);
            at = word(&info, 8);
            if at == 0 {
                return if first { Ok(()) } else { Err(Stop::Broken) };
            }
            if at % HEAP_MAX != 0 {
                return Err(Stop::Broken);
            }
        }
        Err(Stop::Broken)
    }
}

/// The counts of blocks with a mapping of their own.
pub fn mmapped(memory: &impl Memory, counters: Counters) -> Option<Mmapped> {
    let mut bytes = [0u8; COUNTERS];
    memory.read(counters.at, &mut bytes).ok()?;
    Some(counters.decode(&bytes))
}

fn read(memory: &impl Memory, at: usize, into: &mut [u8]) -> Result<(), Stop> {
    memory.read(at, into).map_err(Stop::of)
}

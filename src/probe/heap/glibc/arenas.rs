//! Reads the arenas of glibc's malloc: where they are, what they hold, and how much of it is free.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::sweep::{Extent, Sweep};
use super::walk::{Limit, Stop, Walker};
use crate::abi::glibc::{Arena, Counters, MallocLayout, Mmapped, ALIGNMENT, COUNTERS};
use crate::sys::memory::{word, Memory};

/// The size and alignment of the heaps of all arenas except the first, in bytes.
pub const HEAP_MAX: usize = 64 << 20;
/// A larger number of arenas, or of heaps of one arena, is treated as an error.
const MOST_ARENAS: usize = 4096;
const MOST_HEAPS: usize = 4096;
/// The fields `ar_ptr` and `prev` of `struct heap_info`, in bytes; `size` follows.
const HEAP_INFO: usize = 16;
/// The maximum number of walks over an arena that another thread changes meanwhile.
const TRIES: usize = 3;

/// The location of malloc's state. It is found once, and is the same in every forked process.
#[derive(Debug, Clone, Copy)]
pub struct MallocState {
    /// The layout of an arena.
    pub layout: MallocLayout,
    /// The address of `main_arena`.
    pub main: usize,
    /// The first chunk of the `brk` heap; `None` unless a walk from there gave the right sum.
    pub first: Option<usize>,
    /// The location of the counters of blocks with a mapping of their own.
    pub counters: Option<Counters>,
}

/// The number of arenas and their memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArenaSums {
    /// The number of arenas.
    pub arenas: usize,
    /// Bytes from the system.
    pub system: usize,
    /// Whether the first arena has parts outside the `brk` heap.
    pub scattered: bool,
}

/// Reads the arenas. Its buffers are allocated once, because reading must not allocate.
pub struct Reader {
    pub(super) walker: Walker,
    pub(super) sweep: Sweep,
    /// A copy of the current arena.
    pub(super) arena: Arena,
    again: Arena,
    /// The heaps of the current arena, the newest first.
    regions: Vec<Range<usize>>,
    /// The ranges of the current arena's chunks.
    pub(super) extent: Extent,
}

impl Reader {
    /// Makes a reader for arenas of this layout.
    pub fn new(layout: MallocLayout) -> Reader {
        Reader {
            walker: Walker::default(),
            sweep: Sweep::default(),
            arena: Arena::new(layout),
            again: Arena::new(layout),
            regions: Vec::with_capacity(64),
            extent: Extent { parts: Vec::with_capacity(64), top: 0 },
        }
    }

    /// Counts the arenas and their memory. Adds the heaps of all arenas but the first to `heaps`.
    pub fn held(
        &mut self,
        memory: &impl Memory,
        state: &MallocState,
        heaps: &mut Vec<Range<usize>>,
    ) -> Result<ArenaSums, Stop> {
        let mut held = ArenaSums::default();
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

    /// Returns the free bytes of all arenas, from malloc's lists, and what the arenas hold. `heap`
    /// has the ranges that can contain the first arena.
    pub fn free(
        &mut self,
        memory: &impl Memory,
        state: &MallocState,
        heap: &[Range<usize>],
        limit: &mut Limit,
    ) -> Result<(usize, ArenaSums), Stop> {
        let mut held = ArenaSums::default();
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

    /// Returns the free bytes of the arena at `at`, which must not change during its walk.
    pub(super) fn free_of(
        &mut self,
        memory: &impl Memory,
        at: usize,
        state: &MallocState,
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

    /// Finds the ranges of the chunks of the arena at `at`.
    pub(super) fn read_extent(
        &mut self,
        memory: &impl Memory,
        at: usize,
        state: &MallocState,
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
        // The arena structure lies in its first heap, behind the header with which all heaps begin.
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

    /// Follows the list of heaps of the current arena, which is not the first one.
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

/// Reads the counters of blocks with a mapping of their own.
pub fn mmapped(memory: &impl Memory, counters: Counters) -> Option<Mmapped> {
    let mut bytes = [0u8; COUNTERS];
    memory.read(counters.at, &mut bytes).ok()?;
    Some(counters.decode(&bytes))
}

fn read(memory: &impl Memory, at: usize, into: &mut [u8]) -> Result<(), Stop> {
    memory.read(at, into).map_err(Stop::of)
}

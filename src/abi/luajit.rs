//! Measures LuaJIT's own allocator: one dlmalloc heap for each VM (`lj_alloc.c`).
//!
//! The allocator gets segments from the kernel and divides them into chunks. A block of 128 KiB or
//! more gets a mapping of its own, of which the allocator keeps no list. Its state lies in a chunk
//! of its first segment. On 64 bits the layout is the same in LuaJIT 2.0, 2.1 and OpenResty's
//! branch:
//!
//! ```text
//! malloc_state:  4 treemap, 8 dvsize, 16 topsize, 24 dv, 32 top, 40 trim_check,
//!                56 smallbins (33 pairs), 584 treebins (32), 840 seg {base, size, next}
//! chunk:         0 prev_foot, 8 head (size; 1: the one before is in use, 2: in use), 16 the block
//! free chunk:    16 fd, 24 bk, in trees also 32 and 40 the children
//! ```
//!
//! [`Footprint::verify`] checks a whole heap before any of these figures are trusted.
#![forbid(unsafe_code)]

pub mod direct;

use std::io;
use std::ops::Range;

use crate::sys::memory::{half, word, Memory};
use crate::sys::pagemap::page_size;

const STATE: usize = 864;
const TREEMAP: usize = 4;
const DVSIZE: usize = 8;
const TOPSIZE: usize = 16;
const TOP: usize = 32;
const TRIM_CHECK: usize = 40;
const TREEBINS: usize = 584;
const SEGMENT: usize = 840;

/// The distance from the start of a chunk to its block, in bytes.
pub const HEADER: usize = 16;
/// A chunk exceeds the requested size of its block by less than this many bytes: its header, its
/// alignment, and a rest that is too small for a chunk of its own.
pub const SLACK: usize = 40;
const IN_USE: usize = 2;
const BITS: usize = 7;
/// Bytes that the allocator reserves at the end of the segment in which it grows.
const TOP_FOOT: usize = 64;
/// `DEFAULT_TRIM_THRESHOLD`: the value of `trim_check` after each change of the top chunk.
const TRIM_THRESHOLD: usize = 2 << 20;

/// The reason why the figures of a heap are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Its memory cannot be read.
    #[error("its memory cannot be read")]
    Memory,
    /// The data does not match `lj_alloc.c`.
    #[error("its allocator is not LuaJIT's own, or has another layout")]
    Layout,
    /// Reading it would take too long.
    #[error("it has too many segments")]
    TooMany,
}

impl From<io::Error> for Unreadable {
    fn from(_: io::Error) -> Self {
        Unreadable::Memory
    }
}

/// The memory that a heap got from the kernel, without direct mappings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// The segments; the one in which the heap grows comes first.
    pub segments: Vec<Range<usize>>,
    /// Bytes of the segments that are neither blocks nor free: the state, and the ends of the
    /// segments.
    pub fixed: u64,
    /// The size of the largest free chunk in bytes.
    pub largest_free: u64,
    /// The end of the chunks in each segment.
    ends: Vec<usize>,
    state: usize,
    top: usize,
}

/// The result of a walk over all chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChunkWalk {
    /// Chunks in use.
    pub blocks: u64,
    /// Bytes of the chunks in use.
    pub used: u64,
    /// Bytes of free chunks.
    pub free: u64,
    /// Bytes of the chunk in use that contains a given address; 0 if there is none.
    pub holding: usize,
    largest: u64,
}

fn words<const N: usize>(memory: &impl Memory, at: usize) -> Result<[usize; N], Unreadable> {
    let mut bytes = [[0; 8]; N];
    memory.read(at, bytes.as_flattened_mut())?;
    Ok(bytes.map(usize::from_ne_bytes))
}

#[cfg(test)]
impl Footprint {
    /// Makes a footprint from given values.
    pub fn new(segments: Vec<Range<usize>>, fixed: u64, largest_free: u64) -> Self {
        Footprint { segments, fixed, largest_free, ..Footprint::default() }
    }
}

impl Footprint {
    /// Reads the heap whose state is at an address: at most `most` segments, and the largest free
    /// chunk. Reads a few words per segment.
    pub fn read(memory: &impl Memory, state: usize, most: usize) -> Result<Self, Unreadable> {
        let mut bytes = [0; STATE];
        memory.read(state.wrapping_sub(HEADER), bytes.get_mut(..HEADER).unwrap_or_default())?;
        let size = word(&bytes, 8) & !BITS;
        // A later version may have added a field or two; the state still starts a page.
        let is_aligned = state.wrapping_sub(HEADER) % page_size() == 0;
        if !is_aligned || word(&bytes, 8) & IN_USE == 0 || !(STATE + 8..STATE + 64).contains(&size)
        {
            return Err(Unreadable::Layout);
        }
        memory.read(state, &mut bytes)?;
        // `usize::MAX` is set after the allocator failed to return memory.
        if ![TRIM_THRESHOLD, usize::MAX].contains(&word(&bytes, TRIM_CHECK)) {
            return Err(Unreadable::Layout);
        }
        let mut heap = Footprint { state, top: word(&bytes, TOP), ..Footprint::default() };
        heap.read_segments(memory, &bytes, most)?;
        let first = heap.segments.first().ok_or(Unreadable::Layout)?;
        let top_end = heap.top.wrapping_add(word(&bytes, TOPSIZE));
        if !first.contains(&heap.top) || Some(&top_end) != heap.ends.first() {
            return Err(Unreadable::Layout);
        }
        if !heap.segments.iter().any(|segment| segment.contains(&state)) {
            return Err(Unreadable::Layout);
        }
        let ends = heap.segments.iter().zip(&heap.ends);
        heap.fixed = size as u64 + ends.map(|(s, end)| (s.end - end) as u64).sum::<u64>();
        heap.largest_free = largest_free(memory, &bytes)?;
        Ok(heap)
    }

    /// Reads the list of segments. The record of each segment but the first lies in its own end.
    fn read_segments(
        &mut self,
        memory: &impl Memory,
        state: &[u8],
        most: usize,
    ) -> Result<(), Unreadable> {
        let at = |field: usize| word(state, SEGMENT + field);
        let (mut record, mut fields) = (0usize, [at(0), at(8), at(16)]);
        loop {
            let [base, size, next] = fields;
            let end = base.checked_add(size).ok_or(Unreadable::Layout)?;
            let chunks_end = match record {
                0 => end.checked_sub(TOP_FOOT),
                record => record.checked_sub(HEADER),
            };
            let chunks_end = chunks_end.ok_or(Unreadable::Layout)?;
            let mask = page_size() - 1;
            if base & mask != 0 || size & mask != 0 || size == 0 {
                return Err(Unreadable::Layout);
            }
            if !(base..end).contains(&chunks_end) {
                return Err(Unreadable::Layout);
            }
            self.segments.push(base..end);
            self.ends.push(chunks_end);
            if next == 0 {
                return Ok(());
            }
            if self.segments.len() >= most {
                return Err(Unreadable::TooMany);
            }
            (record, fields) = (next, words(memory, next)?);
        }
    }

    /// Returns the bytes of all segments.
    pub fn segment_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len() as u64).sum()
    }

    /// Walks over all chunks and looks for the one that contains `address`.
    ///
    /// The time is proportional to the size of the heap, so this is meant for a VM that was just
    /// created. Returns an error unless each chunk starts where the previous one ends, and the sums
    /// match the state.
    pub fn verify(&self, memory: &impl Memory, address: usize) -> Result<ChunkWalk, Unreadable> {
        let mut walk = ChunkWalk::default();
        let mut window = WordReader { memory, start: 0, bytes: Vec::new() };
        for (segment, end) in self.segments.iter().zip(&self.ends) {
            let mut chunk = segment.start;
            while chunk < *end {
                let head = window.word(chunk.wrapping_add(8), segment.end)?;
                let size = head & !BITS;
                let next = chunk.checked_add(size).ok_or(Unreadable::Layout)?;
                // The top chunk may be a single word; every other chunk has room for its links.
                let least = if chunk == self.top { 8 } else { 32 };
                if size < least || next > *end {
                    return Err(Unreadable::Layout);
                }
                if head & IN_USE == 0 {
                    walk.free += size as u64;
                    walk.largest = walk.largest.max(size as u64);
                } else if chunk.wrapping_add(HEADER) != self.state {
                    walk.blocks += 1;
                    walk.used += size as u64;
                    if (chunk..next).contains(&address) {
                        walk.holding = size;
                    }
                }
                chunk = next;
            }
        }
        let sum = walk.used + walk.free + self.fixed;
        if sum != self.segment_bytes() || walk.largest != self.largest_free {
            return Err(Unreadable::Layout);
        }
        Ok(walk)
    }
}

/// Returns the size of the largest free chunk in bytes.
///
/// This is the designated victim, the top chunk, the largest chunk of the last tree that is not
/// empty, or else the largest of the small bins. In a tree, the chunks below the right child are
/// larger than those below the left one, so a single path leads to the largest.
fn largest_free(memory: &impl Memory, state: &[u8]) -> Result<u64, Unreadable> {
    let mut largest = word(state, DVSIZE).max(word(state, TOPSIZE));
    let (smallmap, treemap) = (half(state, 0), half(state, TREEMAP));
    if let Some(bit) = smallmap.checked_ilog2() {
        largest = largest.max((bit as usize) << 3);
    }
    if let Some(bit) = treemap.checked_ilog2() {
        let mut chunk = word(state, TREEBINS + 8 * bit as usize);
        for _ in 0..=usize::BITS {
            if chunk == 0 {
                return Ok(largest as u64);
            }
            let [_, head, _, _, left, right] = words(memory, chunk)?;
            largest = largest.max(head & !BITS);
            chunk = if right == 0 { left } else { right };
        }
        return Err(Unreadable::Layout);
    }
    Ok(largest as u64)
}

/// Reads words in ascending order, many at a time.
struct WordReader<'a, M> {
    memory: &'a M,
    start: usize,
    bytes: Vec<u8>,
}

impl<M: Memory> WordReader<'_, M> {
    fn word(&mut self, at: usize, end: usize) -> Result<usize, Unreadable> {
        const SIZE: usize = 64 * 1024;
        let offset = at.wrapping_sub(self.start);
        if offset.saturating_add(8) > self.bytes.len() {
            self.start = at;
            self.bytes.resize(end.saturating_sub(at).min(SIZE), 0);
            self.memory.read(at, &mut self.bytes)?;
        }
        Ok(word(&self.bytes, at.wrapping_sub(self.start)))
    }
}

#[cfg(test)]
pub(crate) mod tests;

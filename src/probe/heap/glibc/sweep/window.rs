//! Reads headers from a copy of a part of the arena.
#![forbid(unsafe_code)]

use super::Stop;
use crate::abi::glibc::{ChunkHeader, ALIGNMENT, BACKWARD, FORWARD, MIN_CHUNK};
use crate::sys::memory::Memory;

/// Bytes to read at a time where chunks are small.
const WINDOW: usize = 32 << 10;

/// Returns whether a free chunk of one of malloc's lists is at the address.
pub fn linked(memory: &impl Memory, at: usize) -> bool {
    let read = |at: usize, offset: usize| {
        let mut bytes = [0u8; 8];
        memory.read(at.checked_add(offset)?, &mut bytes).ok()?;
        Some(usize::from_ne_bytes(bytes))
    };
    let points_back = |link: usize, back: usize| {
        let other = read(at, link)?;
        (other % ALIGNMENT == 0 && read(other, back)? == at).then_some(())
    };
    points_back(FORWARD, BACKWARD).and_then(|()| points_back(BACKWARD, FORWARD)).is_some()
}

/// A copy of a part of the arena.
pub struct ArenaWindow {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Default for ArenaWindow {
    fn default() -> Self {
        ArenaWindow { bytes: vec![0; WINDOW], start: 0, length: 0 }
    }
}

impl ArenaWindow {
    /// Discards the copy, because the arena may have changed.
    pub fn forget(&mut self) {
        self.length = 0;
    }

    /// Returns the header at an address. Unless headers are sparse, the memory behind it is read as
    /// well.
    pub fn header<M: Memory>(
        &mut self,
        memory: &M,
        at: usize,
        end: usize,
        sparse: bool,
    ) -> Result<ChunkHeader, Stop> {
        let known = at.checked_sub(self.start).and_then(|from| {
            let to = from.checked_add(ChunkHeader::SIZE).filter(|to| *to <= self.length)?;
            self.bytes.get(from..to)
        });
        if let Some(bytes) = known {
            return Ok(ChunkHeader::of(bytes));
        }
        let room = end.checked_sub(at).ok_or(Stop::Broken)?;
        let length = if sparse { ChunkHeader::SIZE } else { WINDOW };
        let into = self.bytes.get_mut(..length.min(room)).ok_or(Stop::Broken)?;
        if into.len() < ChunkHeader::SIZE {
            return Err(Stop::Broken);
        }
        (self.start, self.length) = (at, 0);
        memory.read(at, into).map_err(Stop::of)?;
        self.length = into.len();
        Ok(ChunkHeader::of(into))
    }

    /// Finds a free chunk a short distance behind an arbitrary address.
    pub fn find_free<M: Memory>(&mut self, memory: &M, from: usize, end: usize) -> Option<usize> {
        let room = end.checked_sub(from)?;
        let into = self.bytes.get_mut(..WINDOW.min(room))?;
        memory.read(from, into).ok()?;
        (0..into.len()).step_by(ALIGNMENT).map_while(|at| Some((at, into.get(at..)?))).find_map(
            |(at, bytes)| {
                let size = ChunkHeader::of(bytes).size();
                let next = ChunkHeader::of(bytes.get(size..)?);
                let is_free = size >= MIN_CHUNK
                    && size % ALIGNMENT == 0
                    && !next.previous_in_use()
                    && next.previous_size() == size;
                Some(from + at).filter(|at| is_free && linked(memory, *at))
            },
        )
    }
}

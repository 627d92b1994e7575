//! Does one of the walks that run side by side, and finds its place again after a break.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::window::{linked, ArenaWindow};
use super::Stop;
use crate::abi::glibc::{ALIGNMENT, MIN_CHUNK};
use crate::sys::memory::Memory;

/// The maximum number of stored places: all recent ones, and increasingly fewer of earlier ones.
const MARKS: usize = 32;
/// The number of chunks in front of a place that must be unchanged.
pub const TRAIL: usize = 8;

/// The address ranges of an arena's chunks.
#[derive(Debug, Clone, Default)]
pub struct Extent {
    /// The parts in the order of their creation, each from its first chunk to the end of readable
    /// memory.
    pub parts: Vec<Range<usize>>,
    /// The address of the top chunk, which lies in the last part.
    pub top: usize,
}

/// The sizes of the chunks in front of a place.
#[derive(Debug, Clone, Copy, Default)]
struct Trail {
    sizes: [usize; TRAIL],
    pushed: usize,
}

impl Trail {
    /// Appends the size of a chunk and moves on to the next one.
    fn push(&mut self, size: usize) {
        if let Some(place) = self.sizes.get_mut(self.pushed % TRAIL) {
            *place = size;
        }
        self.pushed = self.pushed.wrapping_add(1);
    }

    /// Returns the size of the chunk directly in front; 0 at the start of a part.
    fn last(&self) -> usize {
        let last = self.pushed.checked_sub(1);
        last.and_then(|last| self.sizes.get(last % TRAIL)).copied().unwrap_or(0)
    }

    fn is_whole(&self) -> bool {
        self.pushed >= TRAIL
    }

    /// Iterates over the sizes in ascending order of addresses.
    fn kept(&self) -> impl Iterator<Item = usize> + '_ {
        let from = self.pushed.saturating_sub(TRAIL);
        (from..self.pushed).filter_map(|i| self.sizes.get(i % TRAIL).copied())
    }

    /// Returns whether headers are too far apart to read the memory between them as well.
    fn is_sparse<M: Memory>(&self) -> bool {
        M::BULK == 0 || self.bytes() / TRAIL > M::BULK
    }

    fn bytes(&self) -> usize {
        self.sizes.iter().fold(0usize, |sum, size| sum.saturating_add(*size))
    }
}

/// A current or earlier place of the walk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Position {
    part: usize,
    /// The address of the chunk.
    pub at: usize,
    trail: Trail,
    /// Free bytes so far, without the chunk directly in front.
    free: usize,
    /// Free chunks so far, without the chunk directly in front.
    pub chunks: usize,
}

impl Position {
    /// Returns whether a chunk still starts here, in the walk that began at `start`.
    pub fn holds<M: Memory>(
        &self,
        start: &Position,
        memory: &M,
        window: &mut ArenaWindow,
        extent: &Extent,
    ) -> Result<bool, Stop> {
        let Some(part) = extent.parts.get(self.part) else { return Ok(false) };
        let end = if part.contains(&extent.top) { extent.top } else { part.end };
        let Some(mut at) = self.at.checked_sub(self.trail.bytes()) else { return Ok(false) };
        if at < part.start || self.at > end {
            return Ok(false);
        }
        let is_start = || at == part.start || (at == start.at && linked(memory, at));
        if !self.trail.is_whole() && !is_start() {
            return Ok(false);
        }
        let sparse = self.trail.is_sparse::<M>();
        for size in self.trail.kept() {
            match window.header(memory, at, part.end, sparse) {
                Ok(header) if header.size() == size => at += size,
                Ok(_) | Err(Stop::Broken) => return Ok(false),
                Err(stop) => return Err(stop),
            }
        }
        Ok(true)
    }
}

/// One of the walks side by side.
pub struct Lane {
    /// The start of the walk.
    pub start: Position,
    /// The start of the next walk; `None` for the last walk, which continues to the end of the
    /// arena.
    pub end: Option<usize>,
    /// The current place.
    pub place: Position,
    /// Earlier places, in case the walk has to go back.
    pub marks: Vec<Position>,
    /// The address at which the walk last failed, and the number of failures there.
    pub broken: (usize, usize),
    /// Whether the walk has reached its end.
    pub done: bool,
    /// The free bytes, once the walk has reached its end.
    pub total: usize,
}

impl Default for Lane {
    fn default() -> Self {
        Lane {
            start: Position::default(),
            end: None,
            place: Position::default(),
            marks: Vec::with_capacity(MARKS),
            broken: (0, 0),
            done: true,
            total: 0,
        }
    }
}

impl Lane {
    /// Starts a walk at the chunk at an address.
    pub fn begin(&mut self, at: usize) {
        let start = Position { at, ..Position::default() };
        (self.start, self.place) = (start, start);
        self.marks.clear();
        (self.end, self.broken, self.done, self.total) = (None, (0, 0), false, 0);
    }

    /// Counts the chunk directly in front, and moves on to the next one.
    pub fn advance<M: Memory>(
        &mut self,
        memory: &M,
        window: &mut ArenaWindow,
        extent: &Extent,
    ) -> Result<(), Stop> {
        let place = &mut self.place;
        let part = extent.parts.get(place.part).ok_or(Stop::Broken)?;
        let has_top = part.contains(&extent.top);
        let end = if has_top { extent.top } else { part.end };
        let header = window.header(memory, place.at, part.end, place.trail.is_sparse::<M>())?;
        let mut free = place.free;
        if !header.previous_in_use() && place.at != self.start.at {
            let last = place.trail.last();
            if last == 0 || header.previous_size() != last {
                return Err(Stop::Broken);
            }
            free = free.checked_add(last).ok_or(Stop::Broken)?;
        }
        let chunks = place.chunks + usize::from(free != place.free);
        let size = header.size();
        let is_top = has_top && place.at == end;
        // Every part except the last one ends with a header that belongs to no chunk.
        if is_top || (!has_top && size < MIN_CHUNK) {
            let at = extent.parts.get(place.part + 1).map(|next| next.start);
            match at {
                Some(at) => {
                    let part = place.part + 1;
                    *place = Position { part, at, trail: Trail::default(), free, chunks };
                }
                None => {
                    let top = if is_top { size } else { 0 };
                    self.total = free.checked_add(top).ok_or(Stop::Broken)?;
                    self.done = self.end.is_none();
                }
            }
            return Ok(());
        }
        if self.end == Some(place.at) {
            (self.total, self.done) = (free, true);
            return Ok(());
        }
        let next = place.at.checked_add(size).filter(|next| *next <= end);
        let good = size >= MIN_CHUNK && size % ALIGNMENT == 0 && !header.mapped();
        place.at = next.filter(|_| good).ok_or(Stop::Broken)?;
        (place.free, place.chunks) = (free, chunks);
        place.trail.push(size);
        memory.ahead(place.at);
        Ok(())
    }

    /// Returns whether the walk has passed the start of the next one, where no chunk starts any
    /// more.
    pub fn is_past_end(&self, extent: &Extent) -> bool {
        let past = |end| self.place.at > end || self.place.at == extent.top;
        !self.done && self.end.is_some_and(past)
    }

    /// Stores the current place.
    pub fn mark(&mut self) {
        if self.marks.len() >= MARKS {
            let mut i = 0usize;
            self.marks.retain(|_| {
                i += 1;
                i > MARKS / 2 || i % 2 == 0
            });
        }
        self.marks.push(self.place);
    }
}

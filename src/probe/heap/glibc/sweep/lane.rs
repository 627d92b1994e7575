//! One of the walks that go on side by side, and how it finds its place again.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::window::{linked, Window};
use super::Stop;
use crate::abi::glibc::{ALIGNMENT, MIN_CHUNK};
use crate::sys::memory::Memory;

/// Places that are remembered: every piece of the last ones, ever fewer of earlier ones.
const MARKS: usize = 32;
/// Chunks in front of a place that must be the same.
pub const TRAIL: usize = 8;

/// Where an arena's chunks are.
#[derive(Debug, Clone, Default)]
pub struct Extent {
    /// From the first chunk to the end of what can be read, in the order in which they were made.
    pub parts: Vec<Range<usize>>,
    /// The topmost chunk, in the last part.
    pub top: usize,
}

/// The sizes of the chunks in front of a place.
#[derive(Debug, Clone, Copy, Default)]
struct Trail {
    sizes: [usize; TRAIL],
    pushed: usize,
}

impl Trail {
    /// Goes on to the next chunk.
    fn push(&mut self, size: usize) {
        if let Some(place) = self.sizes.get_mut(self.pushed % TRAIL) {
            *place = size;
        }
        self.pushed = self.pushed.wrapping_add(1);
    }

    /// The size of the chunk right in front; 0 at the start of a part.
    fn last(&self) -> usize {
        let last = self.pushed.checked_sub(1);
        last.and_then(|last| self.sizes.get(last % TRAIL)).copied().unwrap_or(0)
    }

    fn is_whole(&self) -> bool {
        self.pushed >= TRAIL
    }

    /// The sizes, by address.
    fn kept(&self) -> impl Iterator<Item = usize> + '_ {
        let from = self.pushed.saturating_sub(TRAIL);
        (from..self.pushed).filter_map(|i| self.sizes.get(i % TRAIL).copied())
    }

    /// Whether headers are too far apart to read what is between them.
    fn is_sparse<M: Memory>(&self) -> bool {
        M::BULK == 0 || self.bytes() / TRAIL > M::BULK
    }

    fn bytes(&self) -> usize {
        self.sizes.iter().fold(0usize, |sum, size| sum.saturating_add(*size))
    }
}

/// Where the walk is, or has been.
#[derive(Debug, Clone, Copy, Default)]
pub struct Position {
    part: usize,
    /// The address.
    pub at: usize,
    trail: Trail,
    /// Free bytes so far, but for the chunk right in front.
    free: usize,
    /// Free chunks so far, but for the chunk right in front.
    pub chunks: usize,
}

impl Position {
    /// Whether a chunk still starts here, in the walk that began at `start`.
    pub fn holds<M: Memory>(
        &self,
        start: &Position,
        memory: &M,
        window: &mut Window,
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
    /// Where it starts.
    pub start: Position,
    /// Where the next one starts; the last one goes on to the end.
    pub end: Option<usize>,
    /// Where it is.
    pub place: Position,
    /// Where it has been, for the case that it must go back.
    pub marks: Vec<Position>,
    /// Where the walk failed last, and how often.
    pub broken: (usize, usize),
    /// Whether it is at its end.
    pub done: bool,
    /// Free bytes, once it is done.
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

    /// Counts the chunk in front and goes on to the next one.
    pub fn advance<M: Memory>(
        &mut self,
        memory: &M,
        window: &mut Window,
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
        // All parts but the last end with a header that is no chunk's.
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

    /// Whether it has passed the start of the next one, where no chunk starts any more.
    pub fn is_past_end(&self, extent: &Extent) -> bool {
        let past = |end| self.place.at > end || self.place.at == extent.top;
        !self.done && self.end.is_some_and(past)
    }

    /// Remembers the place.
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

//! A walk over the chunks of one arena by address, in steps between which the program runs.
//!
//! Malloc's lists of free chunks change between two steps: a chunk moves from one list to another,
//! and would be counted twice or never. By address, each byte of the arena is counted exactly once,
//! as it was when the walk passed it: what is allocated or freed during the walk is counted either
//! way, nothing else is wrong.
//!
//! Between two steps the chunk at which the walk stands may be merged with the one in front of it;
//! then no chunk starts there any more. A chunk only disappears into one in front of it, whose size
//! changes by that. So a place is remembered with the sizes of the chunks in front of it, and taken
//! up again while they are the same; else the walk goes back to an earlier place.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::walk::Stop;
use crate::abi::glibc::{Header, ALIGNMENT, MIN_CHUNK};
use crate::budget::{Budget, Progress};
use crate::sys::memory::Memory;

/// Chunks between two looks at the clock.
const PIECE: usize = 32;
/// Places that are remembered: every piece of the last ones, ever fewer of earlier ones.
const MARKS: usize = 64;
/// Chunks in front of a place that must be the same.
const TRAIL: usize = 8;
/// Bytes that are read at once where chunks are small.
const WINDOW: usize = 32 << 10;
/// How often the walk may go back.
const MOST_SETBACKS: usize = 4096;
/// How often it may find the same place broken.
const MOST_TRIES: usize = 3;

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

    fn bytes(&self) -> usize {
        self.sizes.iter().fold(0usize, |sum, size| sum.saturating_add(*size))
    }
}

/// Where the walk is, or has been.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    part: usize,
    at: usize,
    trail: Trail,
    /// Free bytes and chunks so far, but for the chunk right in front.
    free: usize,
    chunks: usize,
}

/// A walk, and its buffers: made once, so that a walk allocates nothing.
pub struct Sweep {
    place: Place,
    marks: Vec<Place>,
    window: Window,
    visits: usize,
    setbacks: usize,
    /// Where the walk failed last, and how often.
    broken: (usize, usize),
}

impl Default for Sweep {
    fn default() -> Self {
        Sweep {
            place: Place::default(),
            marks: Vec::with_capacity(MARKS),
            window: Window { bytes: vec![0; WINDOW], start: 0, length: 0 },
            visits: 0,
            setbacks: 0,
            broken: (0, 0),
        }
    }
}

impl Sweep {
    /// Starts a walk that looks at so many chunks at most.
    pub fn begin(&mut self, extent: &Extent, visits: usize) {
        self.place = start(extent);
        self.marks.clear();
        (self.visits, self.setbacks, self.broken) = (visits, 0, (0, 0));
    }

    /// Free bytes of all bins and the topmost chunk; fast bins count as in use here.
    pub fn free(&self) -> usize {
        self.place.free
    }

    /// Free chunks.
    pub fn chunks(&self) -> usize {
        self.place.chunks
    }

    /// Goes on. The arena may have changed since the last step.
    pub fn step<M: Memory>(
        &mut self,
        memory: &M,
        extent: &Extent,
        budget: &Budget,
    ) -> Result<Progress, Stop> {
        self.window.length = 0;
        if !self.holds(memory, extent, &self.place.clone())? {
            self.set_back(memory, extent)?;
        }
        loop {
            match self.piece(memory, extent) {
                Ok(Progress::Done) => return Ok(Progress::Done),
                Ok(Progress::More) => self.mark(),
                Err(Stop::Broken) => self.set_back(memory, extent)?,
                Err(stop) => return Err(stop),
            }
            if budget.spent() {
                return Ok(Progress::More);
            }
        }
    }

    /// Some chunks.
    fn piece<M: Memory>(&mut self, memory: &M, extent: &Extent) -> Result<Progress, Stop> {
        let Some(part) = extent.parts.get(self.place.part) else { return Ok(Progress::Done) };
        self.visits = self.visits.checked_sub(PIECE).ok_or(Stop::TooMany)?;
        let has_top = part.contains(&extent.top);
        let end = if has_top { extent.top } else { part.end };
        let place = &mut self.place;
        for _ in 0..PIECE {
            let sparse = place.trail.bytes() / TRAIL > M::BULK;
            let header = self.window.header(memory, place.at, part.end, sparse)?;
            if !header.previous_in_use() {
                let last = place.trail.last();
                if last == 0 || header.previous_size() != last {
                    return Err(Stop::Broken);
                }
                place.free = place.free.checked_add(last).ok_or(Stop::Broken)?;
                place.chunks += 1;
            }
            let size = header.size();
            let is_top = has_top && place.at == end;
            // All parts but the last end with a header that is no chunk's.
            if is_top || (!has_top && size < MIN_CHUNK) {
                if is_top {
                    place.free = place.free.checked_add(size).ok_or(Stop::Broken)?;
                    place.chunks += 1;
                }
                let (free, chunks) = (place.free, place.chunks);
                let part = place.part + 1;
                let next = extent.parts.get(part);
                let at = next.map_or(0, |next| next.start);
                *place = Place { part, at, trail: Trail::default(), free, chunks };
                return Ok(if next.is_some() { Progress::More } else { Progress::Done });
            }
            let next = place.at.checked_add(size).filter(|next| *next <= end);
            let good = size >= MIN_CHUNK && size % ALIGNMENT == 0 && !header.mapped();
            place.at = next.filter(|_| good).ok_or(Stop::Broken)?;
            place.trail.push(size);
        }
        Ok(Progress::More)
    }

    /// Remembers the place.
    fn mark(&mut self) {
        if self.marks.len() >= MARKS {
            let mut i = 0usize;
            self.marks.retain(|_| {
                i += 1;
                i > MARKS / 2 || i % 2 == 0
            });
        }
        self.marks.push(self.place);
    }

    /// Goes back to the last place that is still one.
    fn set_back<M: Memory>(&mut self, memory: &M, extent: &Extent) -> Result<(), Stop> {
        self.setbacks += 1;
        let tries = if self.broken.0 == self.place.at { self.broken.1 + 1 } else { 1 };
        self.broken = (self.place.at, tries);
        if self.setbacks > MOST_SETBACKS || tries > MOST_TRIES {
            return Err(Stop::Broken);
        }
        while let Some(mark) = self.marks.pop() {
            self.visits = self.visits.checked_sub(TRAIL).ok_or(Stop::TooMany)?;
            if self.holds(memory, extent, &mark)? {
                self.place = mark;
                return Ok(());
            }
        }
        self.place = start(extent);
        Ok(())
    }

    /// Whether a chunk still starts at the place.
    fn holds<M: Memory>(
        &mut self,
        memory: &M,
        extent: &Extent,
        place: &Place,
    ) -> Result<bool, Stop> {
        let Some(part) = extent.parts.get(place.part) else { return Ok(false) };
        let end = if part.contains(&extent.top) { extent.top } else { part.end };
        let Some(mut at) = place.at.checked_sub(place.trail.bytes()) else { return Ok(false) };
        if at < part.start || place.at > end || !(place.trail.is_whole() || at == part.start) {
            return Ok(false);
        }
        let sparse = place.trail.bytes() / TRAIL > M::BULK;
        for size in place.trail.kept() {
            match self.window.header(memory, at, part.end, sparse) {
                Ok(header) if header.size() == size => at += size,
                Ok(_) | Err(Stop::Broken) => return Ok(false),
                Err(stop) => return Err(stop),
            }
        }
        Ok(true)
    }
}

fn start(extent: &Extent) -> Place {
    let at = extent.parts.first().map_or(0, |part| part.start);
    Place { at, ..Place::default() }
}

/// A copy of a piece of the arena.
struct Window {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Window {
    /// The header at an address; where headers are not sparse, what follows is read with it.
    fn header<M: Memory>(
        &mut self,
        memory: &M,
        at: usize,
        end: usize,
        sparse: bool,
    ) -> Result<Header, Stop> {
        let known = at.checked_sub(self.start).and_then(|from| {
            let to = from.checked_add(Header::SIZE).filter(|to| *to <= self.length)?;
            self.bytes.get(from..to)
        });
        if let Some(bytes) = known {
            return Ok(Header::of(bytes));
        }
        let room = end.checked_sub(at).ok_or(Stop::Broken)?;
        let length = if sparse { Header::SIZE } else { WINDOW };
        let into = self.bytes.get_mut(..length.min(room)).ok_or(Stop::Broken)?;
        if into.len() < Header::SIZE {
            return Err(Stop::Broken);
        }
        (self.start, self.length) = (at, 0);
        memory.read(at, into).map_err(Stop::of)?;
        self.length = into.len();
        Ok(Header::of(into))
    }
}

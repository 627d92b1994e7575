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
//!
//! Each header is waited for to know where the next one is. Where memory is read directly, several
//! walks go on side by side, each from a free chunk that malloc's lists prove to be one to the
//! start of the next walk. One whose start is no chunk's any more is dropped, and the one in front of
//! it goes on in its place.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::walk::Stop;
use crate::abi::glibc::{Header, ALIGNMENT, BACKWARD, FORWARD, MIN_CHUNK};
use crate::budget::{Budget, Progress};
use crate::sys::memory::Memory;

/// Chunks of a walk between two places that it remembers.
const PIECE: usize = 32;
/// Places that are remembered: every piece of the last ones, ever fewer of earlier ones.
const MARKS: usize = 32;
/// Walks side by side.
const LANES: usize = 16;
/// What is shorter is walked alone.
const SHORT: usize = 1 << 20;
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
struct Place {
    part: usize,
    at: usize,
    trail: Trail,
    /// Free bytes and chunks so far, but for the chunk right in front.
    free: usize,
    chunks: usize,
}

/// One of the walks side by side.
struct Lane {
    start: Place,
    /// Where the next one starts; the last one goes on to the end.
    end: Option<usize>,
    place: Place,
    marks: Vec<Place>,
    /// Where the walk failed last, and how often.
    broken: (usize, usize),
    done: bool,
    /// Free bytes, once it is done.
    total: usize,
}

impl Lane {
    fn begin(&mut self, start: Place) {
        (self.start, self.place) = (start, start);
        self.marks.clear();
        (self.end, self.broken, self.done, self.total) = (None, (0, 0), false, 0);
    }

    /// Counts the chunk in front and goes on to the next one.
    fn advance<M: Memory>(
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
                    *place = Place { part, at, trail: Trail::default(), free, chunks };
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
    fn is_past_end(&self, extent: &Extent) -> bool {
        let past = |end| self.place.at > end || self.place.at == extent.top;
        !self.done && self.end.is_some_and(past)
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
}

/// A walk, and its buffers: made once, so that a walk allocates nothing.
pub struct Sweep {
    lanes: Vec<Lane>,
    /// How many of them there are in this walk.
    used: usize,
    /// Whether they have been placed.
    placed: bool,
    window: Window,
    visits: usize,
    setbacks: usize,
}

impl Default for Sweep {
    fn default() -> Self {
        let lane = || Lane {
            start: Place::default(),
            end: None,
            place: Place::default(),
            marks: Vec::with_capacity(MARKS),
            broken: (0, 0),
            done: true,
            total: 0,
        };
        Sweep {
            lanes: std::iter::repeat_with(lane).take(LANES).collect(),
            used: 0,
            placed: false,
            window: Window { bytes: vec![0; WINDOW], start: 0, length: 0 },
            visits: 0,
            setbacks: 0,
        }
    }
}

impl Sweep {
    /// Starts a walk that looks at a limited number of chunks.
    pub fn begin(&mut self, extent: &Extent, visits: usize) {
        let at = extent.parts.first().map_or(0, |part| part.start);
        if let Some(first) = self.lanes.first_mut() {
            first.begin(Place { at, ..Place::default() });
        }
        (self.used, self.placed) = (1, false);
        (self.visits, self.setbacks) = (visits, 0);
    }

    /// Free bytes of all bins and the topmost chunk; fast bins count as in use here.
    pub fn free(&self) -> usize {
        self.active().fold(0usize, |sum, lane| sum.saturating_add(lane.total))
    }

    /// Free chunks.
    pub fn chunks(&self) -> usize {
        self.active().fold(0usize, |sum, lane| sum.saturating_add(lane.place.chunks))
    }

    fn active(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().take(self.used)
    }

    /// Goes on. The arena may have changed since the last step.
    pub fn step<M: Memory>(
        &mut self,
        memory: &M,
        extent: &Extent,
        budget: &Budget,
    ) -> Result<Progress, Stop> {
        self.window.length = 0;
        if !std::mem::replace(&mut self.placed, true) && M::BULK == 0 {
            self.place_lanes(memory, extent);
        }
        // The end of the arena may have moved.
        if let Some(last) = self.used.checked_sub(1).and_then(|last| self.lanes.get_mut(last)) {
            last.done = false;
        }
        let mut i = 0;
        while i < self.used {
            let Some(lane) = self.lanes.get(i) else { break };
            let (start, place, done) = (lane.start, lane.place, lane.done);
            if !done && !self.holds(memory, extent, &start, &place)? {
                i = self.set_back(i, memory, extent)?;
            }
            i += 1;
        }
        loop {
            let mut undone = false;
            for _ in 0..PIECE {
                undone = self.round(memory, extent)?;
                if !undone || budget.spent() {
                    break;
                }
            }
            if !undone {
                return Ok(Progress::Done);
            }
            if budget.spent() {
                return Ok(Progress::More);
            }
            self.lanes.iter_mut().take(self.used).filter(|lane| !lane.done).for_each(Lane::mark);
        }
    }

    /// A chunk of each walk, or several of the first one where reading side by side is no use.
    /// Whether there is more.
    fn round<M: Memory>(&mut self, memory: &M, extent: &Extent) -> Result<bool, Stop> {
        let mut undone = false;
        let mut i = 0;
        while i < self.used {
            let Some(lane) = self.lanes.get_mut(i).filter(|lane| !lane.done) else {
                i += 1;
                continue;
            };
            undone = true;
            self.visits = self.visits.checked_sub(1).ok_or(Stop::TooMany)?;
            match lane.advance(memory, &mut self.window, extent) {
                Ok(()) if lane.is_past_end(extent) => self.drop_lane(i + 1),
                Ok(()) => {}
                Err(Stop::Broken) => i = self.set_back(i, memory, extent)?,
                Err(stop) => return Err(stop),
            }
            if M::BULK != 0 {
                break;
            }
            i += 1;
        }
        Ok(undone)
    }

    /// Takes a walk back to its last place that is still one; or drops it, where there is none, and
    /// returns the one in front of it, which goes on in its place.
    fn set_back<M: Memory>(
        &mut self,
        mut i: usize,
        memory: &M,
        extent: &Extent,
    ) -> Result<usize, Stop> {
        loop {
            self.setbacks += 1;
            let Some(lane) = self.lanes.get_mut(i) else { return Err(Stop::Broken) };
            let tries = if lane.broken.0 == lane.place.at { lane.broken.1 + 1 } else { 1 };
            lane.broken = (lane.place.at, tries);
            if self.setbacks > MOST_SETBACKS || tries > MOST_TRIES {
                return Err(Stop::Broken);
            }
            let start = lane.start;
            while let Some(mark) = self.lanes.get_mut(i).and_then(|lane| lane.marks.pop()) {
                self.visits = self.visits.checked_sub(TRAIL).ok_or(Stop::TooMany)?;
                if self.holds(memory, extent, &start, &mark)? {
                    if let Some(lane) = self.lanes.get_mut(i) {
                        lane.place = mark;
                    }
                    return Ok(i);
                }
            }
            if self.holds(memory, extent, &start, &start)? {
                if let Some(lane) = self.lanes.get_mut(i) {
                    lane.place = start;
                }
                return Ok(i);
            }
            self.drop_lane(i);
            i = i.checked_sub(1).ok_or(Stop::Broken)?;
            let Some(lane) = self.lanes.get(i) else { return Err(Stop::Broken) };
            let (start, place) = (lane.start, lane.place);
            if self.holds(memory, extent, &start, &place)? {
                return Ok(i);
            }
        }
    }

    /// Drops a walk: the one in front of it goes on to its end.
    fn drop_lane(&mut self, i: usize) {
        let end = self.lanes.get(i).and_then(|lane| lane.end);
        if let Some(before) = i.checked_sub(1).and_then(|before| self.lanes.get_mut(before)) {
            (before.end, before.done) = (end, false);
            if let Some(lanes) = self.lanes.get_mut(i..self.used) {
                lanes.rotate_left(1);
                self.used -= 1;
            }
        }
    }

    /// Whether a chunk still starts at a place of the walk that began at `start`.
    fn holds<M: Memory>(
        &mut self,
        memory: &M,
        extent: &Extent,
        start: &Place,
        place: &Place,
    ) -> Result<bool, Stop> {
        let Some(part) = extent.parts.get(place.part) else { return Ok(false) };
        let end = if part.contains(&extent.top) { extent.top } else { part.end };
        let Some(mut at) = place.at.checked_sub(place.trail.bytes()) else { return Ok(false) };
        if at < part.start || place.at > end {
            return Ok(false);
        }
        let is_start = || at == part.start || (at == start.at && linked(memory, at));
        if !place.trail.is_whole() && !is_start() {
            return Ok(false);
        }
        let sparse = place.trail.is_sparse::<M>();
        for size in place.trail.kept() {
            match self.window.header(memory, at, part.end, sparse) {
                Ok(header) if header.size() == size => at += size,
                Ok(_) | Err(Stop::Broken) => return Ok(false),
                Err(stop) => return Err(stop),
            }
        }
        Ok(true)
    }

    /// Places further walks in an arena of one part, evenly.
    fn place_lanes<M: Memory>(&mut self, memory: &M, extent: &Extent) {
        let [part] = &extent.parts[..] else { return };
        let Some(length) = extent.top.checked_sub(part.start).filter(|length| *length >= SHORT)
        else {
            return;
        };
        for i in 1..LANES {
            let from = (part.start + length / LANES * i).next_multiple_of(ALIGNMENT);
            let Some(at) = self.window.find_free(memory, from, extent.top) else { continue };
            let next = self.used;
            let last = next.checked_sub(1).and_then(|last| self.lanes.get_mut(last));
            let Some(last) = last.filter(|last| last.start.at < at) else { continue };
            last.end = Some(at);
            if let Some(lane) = self.lanes.get_mut(next) {
                lane.begin(Place { at, ..Place::default() });
                self.used += 1;
            }
        }
        self.window.length = 0;
    }
}

/// Whether there is a free chunk at the address, in one of malloc's lists.
fn linked(memory: &impl Memory, at: usize) -> bool {
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
    /// A free chunk not far behind an address where none need start.
    fn find_free<M: Memory>(&mut self, memory: &M, from: usize, end: usize) -> Option<usize> {
        let room = end.checked_sub(from)?;
        let into = self.bytes.get_mut(..WINDOW.min(room))?;
        memory.read(from, into).ok()?;
        (0..into.len()).step_by(ALIGNMENT).map_while(|at| Some((at, into.get(at..)?))).find_map(
            |(at, bytes)| {
                let size = Header::of(bytes).size();
                let next = Header::of(bytes.get(size..)?);
                let is_free = size >= MIN_CHUNK
                    && size % ALIGNMENT == 0
                    && !next.previous_in_use()
                    && next.previous_size() == size;
                Some(from + at).filter(|at| is_free && linked(memory, *at))
            },
        )
    }
}

#[cfg(test)]
mod tests;

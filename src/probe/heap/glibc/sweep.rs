//! Walks over the chunks of one arena by address, in steps between which the program runs.
//!
//! malloc's lists of free chunks change between two steps: a chunk may move from one list to
//! another, and would then be counted twice or never. By address, each byte of the arena is counted
//! exactly once, with its state when the walk passed it. Memory that is allocated or freed during
//! the walk is counted as one or the other; nothing else can be wrong.
//!
//! Between two steps the chunk at the current place may be merged with the one in front of it; then
//! no chunk starts there any more. A chunk can only disappear by merging into one in front of it,
//! whose size then changes. So a place is stored with the sizes of the chunks in front of it. The
//! walk continues there if they are still the same, and otherwise returns to an earlier place.
//!
//! Each header must arrive from memory before the address of the next one is known. Where memory is
//! read directly, several walks therefore run side by side. Each runs from a free chunk, which
//! malloc's lists prove to be one, to the start of the next walk. If no chunk starts at a walk's
//! start any more, the walk is dropped, and the one in front of it continues in its place.
#![forbid(unsafe_code)]

mod lane;
mod window;

use super::walk::Stop;
use crate::abi::glibc::ALIGNMENT;
use crate::budget::{Budget, Progress};
use crate::sys::memory::Memory;
pub use lane::Extent;
use lane::{Lane, TRAIL};
use window::ArenaWindow;

/// The number of chunks between two places that a walk remembers.
const PIECE: usize = 32;
/// The number of walks side by side.
const LANES: usize = 16;
/// An arena with fewer bytes than this has a single walk.
const SHORT: usize = 1 << 20;
/// The maximum number of times that the walk may go back.
const MOST_SETBACKS: usize = 4096;
/// The maximum number of times that it may find the same place broken.
const MOST_TRIES: usize = 3;

/// A walk and its buffers. They are allocated once, so that a walk allocates nothing.
pub struct Sweep {
    lanes: Vec<Lane>,
    /// The number of lanes used in this walk.
    used: usize,
    /// Whether the lanes have been placed.
    placed: bool,
    window: ArenaWindow,
    visits: usize,
    setbacks: usize,
}

impl Default for Sweep {
    fn default() -> Self {
        Sweep {
            lanes: std::iter::repeat_with(Lane::default).take(LANES).collect(),
            used: 0,
            placed: false,
            window: ArenaWindow::default(),
            visits: 0,
            setbacks: 0,
        }
    }
}

impl Sweep {
    /// Starts a walk that examines at most `visits` chunks.
    pub fn begin(&mut self, extent: &Extent, visits: usize) {
        let at = extent.parts.first().map_or(0, |part| part.start);
        if let Some(first) = self.lanes.first_mut() {
            first.begin(at);
        }
        (self.used, self.placed) = (1, false);
        (self.visits, self.setbacks) = (visits, 0);
    }

    /// Returns the free bytes of all bins and the top chunk. Fast bins count as in use here.
    pub fn free(&self) -> usize {
        self.active().fold(0usize, |sum, lane| sum.saturating_add(lane.total))
    }

    /// Returns the number of free chunks.
    pub fn chunks(&self) -> usize {
        self.active().fold(0usize, |sum, lane| sum.saturating_add(lane.place.chunks))
    }

    fn active(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().take(self.used)
    }

    /// Continues the walk. The arena may have changed since the last step.
    pub fn step<M: Memory>(
        &mut self,
        memory: &M,
        extent: &Extent,
        budget: &Budget,
    ) -> Result<Progress, Stop> {
        self.window.forget();
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
            if !done && !place.holds(&start, memory, &mut self.window, extent)? {
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

    /// Counts one chunk of each walk, or only of the first one if reading side by side is useless.
    /// Returns whether there is more to do.
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

    /// Moves a walk back to its last place that is still valid. If there is none, drops the walk,
    /// and returns the index of the walk in front of it, which continues in its place.
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
                if mark.holds(&start, memory, &mut self.window, extent)? {
                    if let Some(lane) = self.lanes.get_mut(i) {
                        lane.place = mark;
                    }
                    return Ok(i);
                }
            }
            if start.holds(&start, memory, &mut self.window, extent)? {
                if let Some(lane) = self.lanes.get_mut(i) {
                    lane.place = start;
                }
                return Ok(i);
            }
            self.drop_lane(i);
            i = i.checked_sub(1).ok_or(Stop::Broken)?;
            let Some(lane) = self.lanes.get(i) else { return Err(Stop::Broken) };
            let (start, place) = (lane.start, lane.place);
            if place.holds(&start, memory, &mut self.window, extent)? {
                return Ok(i);
            }
        }
    }

    /// Drops a walk; the one in front of it continues to its end.
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

    /// Places further walks at equal distances in an arena that has one part.
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
                lane.begin(at);
                self.used += 1;
            }
        }
        self.window.forget();
    }
}

#[cfg(test)]
mod tests;

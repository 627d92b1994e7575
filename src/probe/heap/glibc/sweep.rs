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

mod lane;
mod window;

use super::walk::Stop;
use crate::abi::glibc::ALIGNMENT;
use crate::budget::{Budget, Progress};
use crate::sys::memory::Memory;
pub use lane::Extent;
use lane::{Lane, TRAIL};
use window::Window;

/// Chunks of a walk between two places that it remembers.
const PIECE: usize = 32;
/// Walks side by side.
const LANES: usize = 16;
/// What is shorter is walked alone.
const SHORT: usize = 1 << 20;
/// How often the walk may go back.
const MOST_SETBACKS: usize = 4096;
/// How often it may find the same place broken.
const MOST_TRIES: usize = 3;

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
        Sweep {
            lanes: std::iter::repeat_with(Lane::default).take(LANES).collect(),
            used: 0,
            placed: false,
            window: Window::default(),
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
            first.begin(at);
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
                lane.begin(at);
                self.used += 1;
            }
        }
        self.window.forget();
    }
}

#[cfg(test)]
mod tests;

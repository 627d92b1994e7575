//! A count of all that is free, arena by arena, in steps between which the program runs.
//!
//! An arena with few free chunks is counted by malloc's lists, at one moment and exactly. Where they
//! are too many for that, or change while they are read, its chunks are swept by address.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::time::{Duration, Instant};

use super::arenas::{Reader, State};
use super::walk::{Limit, Stop};
use crate::budget::{Budget, Progress};
use crate::sys::memory::Memory;

/// The most free chunks that are counted by lists.
const LISTED: usize = 50_000;
/// The most chunks of an arena that are looked at; those of 4 GiB in blocks of 64 bytes.
const SWEPT: usize = 1 << 26;
/// The most chunks of fast bins, which are read one by one in one go. A request of a kilobyte or
/// more empties these bins.
const FAST: usize = 1024;
/// With fewer free chunks than these, the lists are tried again.
const FEW: usize = 4096;
/// More arenas than these are taken for an error.
const MOST_ARENAS: usize = 4096;
/// How often an arena that another thread changes is tried again.
const MOST_TRIES: usize = 8;
/// An arena is begun with only if no more of a step's time than this has gone.
const SHORT: Duration = Duration::from_micros(100);

/// A count under way, or done.
#[derive(Debug, Clone)]
pub struct Count {
    /// The arena at hand.
    at: usize,
    /// Whether it is being swept.
    sweeping: bool,
    /// Whether the first arena is swept from the start.
    pub many: bool,
    arenas: usize,
    tries: usize,
    /// Free bytes.
    pub free: usize,
    /// Bytes from the system.
    pub system: usize,
    /// Time spent on it.
    pub work: Duration,
    /// When it began.
    pub begun: Instant,
    /// Whether some arena was swept: the figures are not of one moment.
    pub swept: bool,
}

/// What a step works with.
pub struct Place<'a> {
    /// Where malloc's state is.
    pub state: &'a State,
    /// Where the first arena can be.
    pub heap: Range<usize>,
    /// The most time for an arena by its lists, in one go.
    pub lists: Duration,
}

impl Count {
    /// Starts a count. `many`: the first arena is known to have many free chunks.
    pub fn begin(state: &State, many: bool) -> Count {
        Count {
            at: state.main,
            sweeping: false,
            many,
            arenas: 0,
            tries: 0,
            free: 0,
            system: 0,
            work: Duration::ZERO,
            begun: Instant::now(),
            swept: false,
        }
    }

    /// Goes on until the budget is spent or all is counted.
    pub fn step(
        &mut self,
        reader: &mut Reader,
        memory: &impl Memory,
        place: &Place,
        budget: &Budget,
    ) -> Result<Progress, Stop> {
        loop {
            let counted = if self.sweeping {
                self.sweep(reader, memory, place, budget)?
            } else {
                self.lists(reader, memory, place)?
            };
            if let Some(free) = counted {
                self.free = self.free.checked_add(free).ok_or(Stop::Broken)?;
                self.system =
                    self.system.checked_add(reader.arena.system_mem()).ok_or(Stop::Broken)?;
                self.at = reader.arena.next();
                if self.at == place.state.main {
                    return Ok(Progress::Done);
                }
                (self.sweeping, self.tries) = (false, 0);
                self.arenas += 1;
                if self.arenas > MOST_ARENAS {
                    return Err(Stop::Broken);
                }
                if budget.used() > SHORT {
                    return Ok(Progress::More);
                }
            }
            if budget.spent() {
                return Ok(Progress::More);
            }
        }
    }

    /// The arena at hand by malloc's lists; `None` where that does not do.
    fn lists(
        &mut self,
        reader: &mut Reader,
        memory: &impl Memory,
        place: &Place,
    ) -> Result<Option<usize>, Stop> {
        let state = place.state;
        let is_main = self.at == state.main;
        if !(is_main && self.many) {
            let mut limit = Limit { visits: LISTED, budget: Budget::new(place.lists) };
            let heap = std::slice::from_ref(&place.heap);
            match reader.free_of(memory, self.at, state, heap, &mut limit) {
                Ok(free) => return Ok(Some(free)),
                Err(stop @ Stop::Unreadable) => return Err(stop),
                Err(stop) if is_main && state.first.is_none() => return Err(stop),
                Err(_) => {}
            }
        }
        reader.read_extent(memory, self.at, state, &place.heap)?;
        reader.sweep.begin(&reader.extent, SWEPT);
        (self.sweeping, self.swept) = (true, true);
        Ok(None)
    }

    /// Goes on with the arena at hand by address.
    fn sweep(
        &mut self,
        reader: &mut Reader,
        memory: &impl Memory,
        place: &Place,
        budget: &Budget,
    ) -> Result<Option<usize>, Stop> {
        let state = place.state;
        let step = reader.read_extent(memory, self.at, state, &place.heap).and_then(|()| {
            let Reader { sweep, extent, .. } = reader;
            sweep.step(memory, extent, budget)
        });
        match step {
            Ok(Progress::More) => return Ok(None),
            Ok(Progress::Done) => {}
            Err(Stop::Broken) if self.tries < MOST_TRIES => {
                self.tries += 1;
                self.sweeping = false;
                return Ok(None);
            }
            Err(stop) => return Err(stop),
        }
        let Reader { walker, arena, extent, sweep, .. } = reader;
        let mut limit = Limit { visits: FAST, budget: Budget::unlimited() };
        let fast = walker.fast(memory, arena, state.layout, &extent.parts, &mut limit)?;
        if self.at == state.main {
            self.many = sweep.chunks() > FEW;
        }
        let free = sweep.free().checked_add(fast).filter(|free| *free <= arena.system_mem());
        free.map(Some).ok_or(Stop::Broken)
    }
}

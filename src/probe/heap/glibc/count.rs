//! Counts all free memory, arena by arena, in steps between which the program runs.
//!
//! An arena with few free chunks is counted through malloc's lists, exactly and at one moment. If
//! there are too many, or if they change while they are read, its chunks are swept by address.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::time::{Duration, Instant};

use super::arenas::{MallocState, Reader};
use super::walk::{Limit, Stop};
use crate::budget::{Budget, Progress};
use crate::sys::memory::Memory;

/// The maximum number of free chunks counted through lists.
const LISTED: usize = 50_000;
/// The maximum number of chunks examined in one arena: those of 4 GiB in blocks of 64 bytes.
const SWEPT: usize = 1 << 26;
/// The maximum number of chunks in fast bins, which are read one by one in a single step. A request
/// of a kilobyte or more empties these bins.
const FAST: usize = 1024;
/// With fewer free chunks than this, the lists are tried again.
const FEW: usize = 4096;
/// A larger number of arenas is treated as an error.
const MOST_ARENAS: usize = 4096;
/// The maximum number of attempts for an arena that another thread changes.
const MOST_TRIES: usize = 8;
/// A further arena is started in the same step only if at most this much of the step's time is
/// used.
const SHORT: Duration = Duration::from_micros(100);

/// A count that is in progress or complete.
#[derive(Debug, Clone)]
pub struct ArenaCount {
    /// The address of the current arena.
    at: usize,
    /// Whether the current arena is being swept.
    sweeping: bool,
    /// Whether the first arena is swept without trying its lists.
    pub many: bool,
    arenas: usize,
    tries: usize,
    /// Free bytes so far.
    pub free: usize,
    /// Bytes from the system so far.
    pub system: usize,
    /// The processor time spent on the count.
    pub work: Duration,
    /// The time at which the count began.
    pub begun: Instant,
    /// Whether an arena was swept; then the figures are not of one moment.
    pub swept: bool,
}

/// The parameters of a step.
pub struct CountContext<'a> {
    /// The location of malloc's state.
    pub state: &'a MallocState,
    /// The range that contains the first arena.
    pub heap: Range<usize>,
    /// The maximum time for reading the lists of an arena, which is not interrupted.
    pub lists: Duration,
}

impl ArenaCount {
    /// Starts a count. `many` says that the first arena is known to have many free chunks.
    pub fn begin(state: &MallocState, many: bool) -> ArenaCount {
        ArenaCount {
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

    /// Continues until the budget is spent or everything is counted.
    pub fn step(
        &mut self,
        reader: &mut Reader,
        memory: &impl Memory,
        place: &CountContext,
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

    /// Counts the current arena through malloc's lists; `None` if it has to be swept instead.
    fn lists(
        &mut self,
        reader: &mut Reader,
        memory: &impl Memory,
        place: &CountContext,
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

    /// Continues to sweep the current arena; `None` if it is not complete.
    fn sweep(
        &mut self,
        reader: &mut Reader,
        memory: &impl Memory,
        place: &CountContext,
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

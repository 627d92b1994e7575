//! The time that a probe may take of the event loop.
//!
//! Whatever may have much to read or to write is a job in steps. All of them share this:
//!
//! - `begin` or `new` starts it, `step` is called until it returns [`Progress::Done`], `finish` returns
//!   the result. Where something can fail, an error ends the job.
//! - A step gets a [`Budget`]. It does pieces of bounded size, asks [`Budget::spent`] after each, and
//!   returns [`Progress::More`] when the budget is spent. Every step does at least one piece, so a job
//!   ends whatever the budget is.
//! - nginx serves requests between two steps. So a job checks again what it has read in an earlier
//!   step, or reads only what cannot change.
//!
//! A job that needs nothing from outside has a method `step(&mut self, &Budget)`. One that reads from
//! something that its owner holds is a [`Job`]. What also changes its owner's data (a snapshot its
//! probes, a count of malloc's chunks the buffers of its reader) takes that in front of the budget.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The time one step may take.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    begun: Instant,
    deadline: Option<Instant>,
}

impl Budget {
    /// A budget that starts now.
    pub fn new(time: Duration) -> Self {
        let begun = Instant::now();
        Budget { begun, deadline: begun.checked_add(time) }
    }

    /// A budget without a limit, for start-up and tests.
    pub fn unlimited() -> Self {
        Budget { begun: Instant::now(), deadline: None }
    }

    /// The time used so far; 0 for a budget without a limit.
    pub fn used(&self) -> Duration {
        self.deadline.map_or(Duration::ZERO, |_| self.begun.elapsed())
    }

    /// Whether the time is used up. Each call reads the clock: call it once a piece, not once a
    /// page.
    pub fn spent(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The job is complete.
    Done,
    /// The budget was used up first; call again.
    More,
}

/// A job in steps that reads from something its owner holds: the page map, or memory.
pub trait Job<Source: ?Sized> {
    /// Why the job cannot go on.
    type Error;

    /// Goes on until the budget, or what the job allows itself, is spent, or all is done.
    fn step(&mut self, source: &Source, budget: &Budget) -> Result<Progress, Self::Error>;
}

//! The time that a probe may take of the event loop.
//!
//! Code that may have much to read or to write is a job in steps. All jobs follow these rules:
//!
//! - `begin` or `new` starts a job, `step` is called until it returns [`Progress::Done`], and
//!   `finish` returns the result. If a job can fail, an error ends it.
//! - A step gets a [`Budget`]. It does pieces of bounded size, checks [`Budget::spent`] after each,
//!   and returns [`Progress::More`] when the budget is spent. Every step does at least one piece,
//!   so a job ends whatever the budget is.
//! - nginx serves requests between two steps. A job therefore checks again what it read in an
//!   earlier step, or reads only data that cannot change.
//!
//! A job that needs no other data has a method `step(&mut self, &Budget)`. A job that reads from
//! something that its owner holds is a [`Job`]. A job that also changes its owner's data takes that
//! data before the budget: a snapshot takes its probes, a count of malloc's chunks takes the
//! buffers of its reader.
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

    /// This budget, or, if less than `least` is left of it, a new one of that time.
    pub fn at_least(&self, least: Duration) -> Self {
        let is_left =
            |deadline: Instant| deadline.saturating_duration_since(Instant::now()) >= least;
        match self.deadline {
            Some(deadline) if !is_left(deadline) => Budget::new(least),
            _ => *self,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_some_time_is_left() {
        let (least, long) = (Duration::from_secs(60), Duration::from_secs(600));
        let spent = Budget::new(Duration::ZERO);
        assert!(spent.spent() && !spent.at_least(least).spent());
        assert!(Budget::new(long).at_least(least).deadline > Budget::new(least).deadline);
        assert!(!Budget::unlimited().at_least(least).spent());
    }
}

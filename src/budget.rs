//! The time that a probe may take of the event loop.
//!
//! A probe that may have much to read works in steps. Each step takes a [`Budget`], does pieces of
//! bounded size, checks [`Budget::spent`] after each, and returns [`Progress::More`] once the time
//! is used up.
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

//! How long a probe may keep the event loop.
//!
//! A probe that may have much to read is a job in steps: each step gets a [`Budget`], does a piece
//! of bounded size, asks [`Budget::spent`], and returns [`Progress::More`] when it is.
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

    /// No limit: for start-up and tests.
    pub fn unlimited() -> Self {
        Budget { begun: Instant::now(), deadline: None }
    }

    /// The time used so far; of no limit, none.
    pub fn used(&self) -> Duration {
        self.deadline.map_or(Duration::ZERO, |_| self.begun.elapsed())
    }

    /// Whether the time is used up. Costs a clock read: ask once a piece, not once a page.
    pub fn spent(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// What a step says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The job is complete.
    Done,
    /// The budget was used up first; call again.
    More,
}

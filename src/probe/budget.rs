//! How long a probe may keep the event loop.
//!
//! A probe that may have much to read is a job in steps: each step gets a [`Budget`], does a piece
//! of bounded size, asks [`Budget::spent`], and returns [`Progress::More`] when it is.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The time one step may take.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    deadline: Option<Instant>,
}

impl Budget {
    /// A budget that starts now.
    pub fn new(time: Duration) -> Self {
        Budget { deadline: Instant::now().checked_add(time) }
    }

    /// No limit: for start-up and tests.
    pub fn unlimited() -> Self {
        Budget { deadline: None }
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

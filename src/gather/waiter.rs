//! Requests that wait for figures.

use std::time::Instant;

use super::collect::Collected;
use crate::http::query::Query;
use crate::http::reply::Reply;
use crate::nginx::request::{Request, Unsent};

/// A snapshot this young answers again.
pub(super) const FRESH_MS: u64 = 50;

/// A bit of `Slot::ask`: refresh the allocator's statistics whatever it costs.
pub(super) const REFRESH_HEAP: u32 = 1;

/// Another: count all pages of zones anew.
pub(super) const REFRESH_ZONES: u32 = 2;

/// A request, and what it asks.
pub struct Question {
    /// The request.
    pub request: Request,
    /// What it asks.
    pub query: Query,
    /// When it arrived.
    pub arrived: Instant,
}

impl Question {
    /// Whether it is that of the request with this address.
    pub(super) fn is_of(&self, address: usize) -> bool {
        self.request.address() == address
    }
}

/// A request that waits.
pub(super) struct Waiter {
    pub(super) question: Question,
    pub(super) asked_ms: u64,
    pub(super) deadline_ms: u64,
}

/// A request that can be answered.
pub struct Answer {
    /// What was asked.
    pub question: Question,
    /// How far the answer is.
    pub stage: Stage,
}

/// How far an answer is.
pub enum Stage {
    /// Everybody's figures are there.
    Collected(Collected),
    /// The reply is being written.
    Writing(Reply),
    /// It is written.
    Written(Reply),
    /// It is being sent; so much is left.
    Sending(Unsent),
}

/// The bits of `Slot::ask` for a query.
pub(super) fn wants(query: &Query) -> u32 {
    let heap = if query.refresh_heap { REFRESH_HEAP } else { 0 };
    let zones = if query.refresh_zones { REFRESH_ZONES } else { 0 };
    heap | zones
}

impl Waiter {
    /// The oldest snapshot that answers this request.
    pub(super) fn oldest_ms(&self) -> u64 {
        if wants(&self.question.query) != 0 {
            return self.asked_ms;
        }
        self.asked_ms.saturating_sub(FRESH_MS)
    }
}

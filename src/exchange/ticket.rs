//! A ticket: a question that waits for the figures of all processes.

/// A snapshot is used again until it is this old, in milliseconds.
pub(super) const FRESH_MS: u64 = 50;

/// A bit of `Slot::ask`: refresh the allocator's statistics whatever it costs.
pub(super) const REFRESH_HEAP: u32 = 1;

/// A bit of `Slot::ask`: count all pages of zones again.
pub(super) const REFRESH_ZONES: u32 = 2;

/// The figures that must be read again, whatever it costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refresh {
    /// The allocator's statistics.
    pub heap: bool,
    /// All pages of zones.
    pub zones: bool,
}

impl Refresh {
    /// Returns the bits for `Slot::ask`.
    pub(super) fn bits(self) -> u32 {
        let heap = if self.heap { REFRESH_HEAP } else { 0 };
        let zones = if self.zones { REFRESH_ZONES } else { 0 };
        heap | zones
    }
}

/// A question that waits for the figures of all processes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    /// The number that the caller has chosen for it.
    pub(super) id: usize,
    pub(super) refresh: Refresh,
    pub(super) asked_ms: u64,
    pub(super) deadline_ms: u64,
}

impl Ticket {
    /// Returns the time of the oldest snapshot that may be used to answer it.
    pub(super) fn oldest_ms(&self) -> u64 {
        if self.refresh != Refresh::default() {
            return self.asked_ms;
        }
        self.asked_ms.saturating_sub(FRESH_MS)
    }
}

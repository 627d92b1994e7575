//! A question that waits for figures.

/// A snapshot this young answers again.
pub(super) const FRESH_MS: u64 = 50;

/// A bit of `Slot::ask`: refresh the allocator's statistics whatever it costs.
pub(super) const REFRESH_HEAP: u32 = 1;

/// Another: count all pages of zones anew.
pub(super) const REFRESH_ZONES: u32 = 2;

/// Figures that are wanted fresh, whatever they cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refresh {
    /// The allocator's statistics.
    pub heap: bool,
    /// All pages of zones.
    pub zones: bool,
}

impl Refresh {
    /// The bits of `Slot::ask`.
    pub(super) fn bits(self) -> u32 {
        let heap = if self.heap { REFRESH_HEAP } else { 0 };
        let zones = if self.zones { REFRESH_ZONES } else { 0 };
        heap | zones
    }
}

/// A question that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    /// The number that the asking part of the module knows it by.
    pub(super) id: usize,
    pub(super) refresh: Refresh,
    pub(super) asked_ms: u64,
    pub(super) deadline_ms: u64,
}

impl Ticket {
    /// The oldest snapshot that answers it.
    pub(super) fn oldest_ms(&self) -> u64 {
        if self.refresh != Refresh::default() {
            return self.asked_ms;
        }
        self.asked_ms.saturating_sub(FRESH_MS)
    }
}

//! Shared memory zones.
//!
//! A mapping is known by its name, its generation and its size: a reload that changes a zone makes a
//! new mapping, and for as long as workers of before live, both exist.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::named::Named;

/// What one process has to do with a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneUse {
    /// The configuration that made this mapping of the zone.
    pub generation: Option<u64>,
    /// Bytes that are mapped: the whole zone.
    pub mapped: u64,
    /// Bytes of it in RAM that this process has touched: its part of `nginx_shm`.
    pub touched: Option<u64>,
    /// The age of `touched` when the snapshot was taken, in milliseconds.
    pub touched_ms_ago: Option<u64>,
    /// Allocations by this process that succeeded.
    pub allocations: Option<u64>,
    /// Blocks this process gave back.
    pub frees: Option<u64>,
    /// Allocations by this process that failed.
    pub failures: Option<u64>,
    /// Bytes asked for by the allocations that succeeded.
    pub bytes_requested: Option<u64>,
}

/// A zone as its own memory shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedZone {
    /// The module that the zone belongs to, by name.
    pub owner: Option<String>,
    /// The configuration that made this mapping; a reload that keeps the zone keeps it.
    pub generation: Option<u64>,
    /// Whether the newest configuration has it. Otherwise only processes of before do.
    pub current: bool,
    /// Bytes, and what `resident` becomes when all of it is used.
    pub size: u64,
    /// Bytes in RAM, whichever process loaded them.
    pub resident: Option<u64>,
    /// The age of `resident` when the zone was read, in milliseconds.
    pub resident_ms_ago: Option<u64>,
    /// The size of a page of the slab allocator in bytes.
    pub page_size: u64,
    /// The largest allocation that would succeed now, in bytes; 0 when none would.
    pub largest_allocation: Option<u64>,
    /// Bytes of the pages in use, less the slots in them that are free.
    pub in_use: Option<u64>,
    /// `in_use` of all pages, in percent, rounded down.
    pub fill_percent: Option<u64>,
    /// Allocations that failed, by any process, since the zone was made.
    pub failures: Option<u64>,
    /// A lower bound of `failures`: the same where `failures` is known, else what nginx itself counts,
    /// which is those of up to half a page.
    pub failures_at_least: Option<u64>,
    /// Pages.
    pub pages: Option<Pages>,
    /// Slots by their size.
    pub slots: Option<Slots>,
    /// Why a figure is `null` or less than exact, a sentence each.
    pub notes: Vec<String>,
}

/// The pages of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// Pages that can be allocated.
    pub total: u64,
    /// Pages in use.
    pub used: u64,
    /// Free pages.
    pub free: u64,
    /// The longest run of free pages.
    pub largest_free_run: Option<u64>,
    /// The number of runs of free pages.
    pub free_runs: Option<u64>,
    /// Requests of whole pages (of more than half a page), by all processes.
    pub reqs: Option<u64>,
    /// Those of them that failed.
    pub fails: Option<u64>,
}

/// The slots of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Slots in use.
    pub used: u64,
    /// Free slots in the pages of this size.
    pub free: u64,
    /// Requests, by all processes, since the zone was made.
    pub reqs: u64,
    /// Those of them that failed.
    pub fails: u64,
}

/// Slots by their size in bytes.
pub type Slots = Named<Slot>;

/// What a process has to do with each zone it has mapped.
pub type ZoneUses = Named<ZoneUse>;

/// All zones.
pub type SharedZones = Named<Zone>;

/// The mappings of one name: the newest, and those that only processes of before have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Zone {
    /// The newest.
    #[serde(flatten)]
    pub newest: SharedZone,
    /// The others, newest first.
    pub older: Vec<SharedZone>,
}

impl Zone {
    /// All mappings of the name, newest first.
    pub fn all(&self) -> impl Iterator<Item = &SharedZone> {
        std::iter::once(&self.newest).chain(&self.older)
    }
}

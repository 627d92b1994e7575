//! Shared memory zones.
//!
//! A mapping is identified by its name, its generation and its size. A reload that changes a zone
//! makes a new mapping, and both exist until the old workers have ended.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::named::Named;
use super::note::Note;

/// The use of a zone by one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneUse {
    /// The number of the configuration that made this mapping of the zone.
    pub generation: Option<u64>,
    /// Mapped bytes: the size of the whole zone.
    pub mapped: u64,
    /// Bytes in RAM that this process has touched: the zone's part of its `nginx_shm`.
    pub touched: Option<u64>,
    /// The age of `touched` when the snapshot was taken, in milliseconds.
    pub touched_ms_ago: Option<u64>,
    /// Allocations by this process that succeeded.
    pub allocations: Option<u64>,
    /// Blocks that this process freed.
    pub frees: Option<u64>,
    /// Allocations by this process that failed.
    pub failures: Option<u64>,
    /// Bytes requested by the allocations that succeeded.
    pub bytes_requested: Option<u64>,
}

/// One mapping of a zone, read from the zone's own memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedZone {
    /// The name of the module that the zone belongs to.
    pub owner: Option<String>,
    /// The number of the configuration that made this mapping; a reload that keeps the zone keeps
    /// it.
    pub generation: Option<u64>,
    /// Whether the newest configuration has the mapping. If not, only older processes have it.
    pub current: bool,
    /// The size in bytes, which `resident` reaches once all of it has been used.
    pub size: u64,
    /// Bytes in RAM, no matter which process touched them.
    pub resident: Option<u64>,
    /// The age of `resident` when the zone was read, in milliseconds.
    pub resident_ms_ago: Option<u64>,
    /// The size of a page of the slab allocator in bytes.
    pub page_size: u64,
    /// The largest allocation that would succeed now, in bytes; 0 if none would.
    pub largest_allocation: Option<u64>,
    /// Bytes of the pages in use without the free slots in them.
    pub in_use: Option<u64>,
    /// `in_use` in percent of all pages, rounded down.
    pub fill_percent: Option<u64>,
    /// Allocations that failed, by any process, since the zone was made.
    pub failures: Option<u64>,
    /// A lower bound of `failures`: equal to `failures` if that is known, else nginx's own count,
    /// which has only the failures of requests of up to half a page.
    pub failures_at_least: Option<u64>,
    /// The pages of the slab allocator.
    pub pages: Option<ZonePages>,
    /// Slots by their size.
    pub slots: Option<Slots>,
    /// The reasons why figures are `null` or inexact, one sentence each.
    pub notes: Vec<Note>,
}

/// The reason for the missing figures of a mapping that nginx itself makes, for its counters.
pub const NO_POOL: &str = "it is no zone of the configuration, so it has no slab pool";

/// The pages of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZonePages {
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
    /// Requests of whole pages (of more than half a page) by all processes.
    pub reqs: Option<u64>,
    /// The number of these requests that failed.
    pub fails: Option<u64>,
}

/// The slots of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotClass {
    /// Slots in use.
    pub used: u64,
    /// Free slots in the pages of this size.
    pub free: u64,
    /// Requests by all processes since the zone was made.
    pub reqs: u64,
    /// The number of these requests that failed.
    pub fails: u64,
}

/// Slots by their size in bytes.
pub type Slots = Named<SlotClass>;

/// The use of each zone that a process has mapped.
pub type ZoneUses = Named<ZoneUse>;

/// All zones.
pub type SharedZones = Named<ZoneVersions>;

/// The mappings of one name: the newest, and those that only older processes have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ZoneVersions {
    /// The newest mapping.
    #[serde(flatten)]
    pub newest: SharedZone,
    /// The older mappings, the newest of them first.
    pub older: Vec<SharedZone>,
}

impl ZoneVersions {
    /// All mappings of the name, the newest first.
    pub fn all(&self) -> impl Iterator<Item = &SharedZone> {
        std::iter::once(&self.newest).chain(&self.older)
    }
}

//! One process: the figures of the kernel, of nginx and of the allocators.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::breakdown::Breakdown;
use super::hooks::Hooks;
use super::lua::LuaVms;
use super::mappings::Mappings;
use super::named::Named;
use super::note::Note;
use super::peak::Peak;
use super::pools::Pools;
use super::sharing::Sharing;
use super::zones::{SharedZone, ZoneUses};
pub use crate::sys::status::System;

/// The role of a process in nginx.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessKind {
    /// The master process.
    Master,
    /// The only process (`master_process off`).
    Single,
    /// A worker.
    Worker,
    /// The privileged agent of ngx_lua.
    PrivilegedAgent,
    /// The cache manager.
    CacheManager,
    /// The cache loader.
    CacheLoader,
    /// A child of the master that was not recognized as one of the above.
    Other,
}

/// What a process was doing when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs, and its figures are fresh.
    Active,
    /// It finishes its last requests after a reload, an upgrade or a quit.
    ShuttingDown,
    /// It did not answer in time; the figures are its last ones, `age_ms` old.
    Unresponsive,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// The role of the process in nginx.
    pub kind: ProcessKind,
    /// The worker's number, as in `$worker_id`; `null` outside a worker.
    pub id: Option<u32>,
    /// Process id.
    pub pid: i32,
    /// The number of the configuration that the process runs: the master counts those it has
    /// loaded, from 1.
    pub generation: Option<u64>,
    /// What the process was doing when it was asked.
    pub state: ProcessState,
    /// The age of these figures, in milliseconds.
    pub age_ms: u64,
    /// The time since the process started, in seconds.
    pub uptime_s: Option<u64>,
    /// The kernel's figures.
    pub system: System,
    /// The memory by purpose; `null` for a process that does not run the module's code.
    pub breakdown: Option<Breakdown>,
    /// The largest mappings of `file_other` and `anon_other`.
    pub mappings: Option<Mappings>,
    /// The soft limits that are set on its memory, in bytes.
    pub limits: Option<Named<u64>>,
    /// The system allocator's own statistics.
    pub allocator: Option<Allocator>,
    /// nginx's pools; `null` if the pool allocator is not hooked.
    pub pools: Option<Pools>,
    /// The worst moment that the process has seen of itself.
    pub peak: Option<Peak>,
    /// The shared memory zones that it has mapped, by name, and its use of them.
    pub zones: Option<ZoneUses>,
    /// Lua VMs by subsystem; empty if there are none.
    pub lua: Option<Vec<LuaVms>>,
    /// Code of the executable and its libraries.
    pub text: Option<Text>,
    /// Stacks of all threads.
    pub stacks: Option<Stacks>,
    /// The state of each hook.
    pub hooks: Option<Hooks>,
    /// The cost of the module itself in this process.
    #[serde(rename = "self")]
    pub own: Option<ModuleCost>,
    /// The reasons why figures are `null` or inexact, one sentence each.
    pub notes: Vec<Note>,
}

impl Process {
    /// The age of the allocator's figures in the reply, in milliseconds.
    pub fn allocator_age_ms(&self) -> Option<u64> {
        self.allocator.as_ref()?.measured_ms_ago.map(|ms| ms.saturating_add(self.age_ms))
    }
}

/// What a process publishes for the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Its figures.
    pub process: Process,
    /// Its zones in full, if the process is from before a reload: it may be the only one that has
    /// them.
    pub zones: Vec<(String, SharedZone)>,
    /// The pages that other processes map, too.
    pub sharing: Option<Sharing>,
}

/// A [`Published`] whose parts belong to others. It is encoded alike.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PublishedRef<'a> {
    /// See [`Published::process`].
    pub process: &'a Process,
    /// See [`Published::zones`].
    pub zones: &'a [(String, SharedZone)],
    /// See [`Published::sharing`].
    pub sharing: &'a Option<Sharing>,
}

/// The system allocator's own statistics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocator {
    /// `glibc`, `jemalloc`, `tcmalloc`, `mimalloc` or `musl`; `unknown` if it is none of these.
    pub name: String,
    /// Its version, if it reports one.
    pub version: Option<String>,
    /// Bytes obtained from the system and not returned.
    pub reserved: Option<u64>,
    /// Bytes that the program has allocated, the allocator's headers included.
    pub in_use: Option<u64>,
    /// Bytes held for reuse: freed by the program, not returned to the system.
    pub free: Option<u64>,
    /// Bytes in blocks that have a mapping of their own (part of `reserved` and of `in_use`).
    pub mmapped: Option<u64>,
    /// Of `in_use`: bytes that nginx's pools hold, blocks and large allocations. `null` if the pool
    /// allocator is not hooked.
    pub pools: Option<u64>,
    /// Of `in_use`: bytes of the arrays that nginx allocates outside its pools, without the
    /// allocator's headers: `connections`, `read_events`, `write_events`. Only a process that runs an
    /// event loop has them.
    pub nginx: Named<u64>,
    /// The number of arenas.
    pub arenas: Option<u64>,
    /// The age of these figures when the snapshot was taken, in milliseconds.
    pub measured_ms_ago: Option<u64>,
    /// How long the count took, in milliseconds. Memory that the program allocated or freed
    /// meanwhile may or may not be counted. 0 if all figures are of one moment.
    pub measured_over_ms: Option<u64>,
}

impl Allocator {
    /// The sum of the arrays that nginx allocates outside its pools, in bytes.
    pub fn arrays(&self) -> u64 {
        self.nginx.0.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

/// Code of the executable and its libraries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// Virtual bytes of all executable segments.
    pub bytes: u64,
    /// The executable and the libraries, the largest first.
    pub objects: Vec<TextObject>,
}

/// An executable or library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextObject {
    /// The file's base name.
    pub path: String,
    /// Virtual bytes of its executable segments.
    pub bytes: u64,
}

/// Stacks of all threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stacks {
    /// Threads of the process, the main one included.
    pub threads: Option<u64>,
    /// Virtual bytes; `null` if the stack of any thread is unknown.
    pub reserved: Option<u64>,
    /// Bytes in RAM; `null` if the stack of any thread is unknown.
    pub resident: Option<u64>,
}

/// The cost of the module in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleCost {
    /// Bytes of the module's own lasting memory in this process.
    pub bytes: u64,
    /// The time that all slices of this snapshot took of the event loop, in microseconds.
    pub snapshot_us: u64,
    /// The longest of these slices, in microseconds.
    pub longest_slice_us: u64,
}

//! One process: what the kernel, nginx and the allocators say of it.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::breakdown::Breakdown;
use super::lua::Lua;
use super::mappings::Mappings;
use super::named::Named;
use super::pools::Pools;
use super::sharing::Sharing;
use super::zones::{SharedZone, ZoneUses};
pub use crate::sys::status::System;

/// What a process is to nginx.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
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
    /// A child of the master that is none of the above, as far as can be told.
    Other,
}

/// How a process answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It runs, and its figures are fresh.
    Active,
    /// It finishes its last requests after a reload, an upgrade or a quit.
    ShuttingDown,
    /// It did not answer in time; its figures are its last ones, `age_ms` old.
    Unresponsive,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// What the process is to nginx.
    pub kind: Kind,
    /// The worker's number, as in `$worker_id`; `null` outside a worker.
    pub id: Option<u32>,
    /// Process id.
    pub pid: i32,
    /// Counts the configurations the master has loaded, from 1; a reload adds one.
    pub generation: Option<u64>,
    /// How the process answered.
    pub state: State,
    /// The age of these figures, in milliseconds.
    pub age_ms: u64,
    /// Since the process started, in seconds.
    pub uptime_s: Option<u64>,
    /// What the kernel says.
    pub system: System,
    /// Where it goes; `null` for a process that does not run the module's code.
    pub breakdown: Option<Breakdown>,
    /// The largest mappings of `file_other` and `anon_other`.
    pub mappings: Option<Mappings>,
    /// The soft limits on its memory that are set, in bytes.
    pub limits: Option<Named<u64>>,
    /// The system allocator's own statistics.
    pub allocator: Option<Allocator>,
    /// nginx's pools; `null` when the hooks on their allocator are not in place.
    pub pools: Option<Pools>,
    /// The shared memory zones that it has mapped, by name, and what it did to them.
    pub zones: Option<ZoneUses>,
    /// Lua VMs, by subsystem; empty where there are none.
    pub lua: Option<Vec<Lua>>,
    /// Code of the executable and its libraries.
    pub text: Option<Text>,
    /// Stacks of all threads.
    pub stacks: Option<Stacks>,
    /// What is hooked.
    pub hooks: Option<Hooks>,
    /// What the module itself costs this process.
    #[serde(rename = "self")]
    pub own: Option<Own>,
    /// Why a figure is `null` or less than exact, a sentence each.
    pub notes: Vec<String>,
}

impl Process {
    /// How old the allocator's figures are in the reply, in milliseconds.
    pub fn allocator_age_ms(&self) -> Option<u64> {
        self.allocator.as_ref()?.measured_ms_ago.map(|ms| ms.saturating_add(self.age_ms))
    }
}

/// What a process hands to the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Its figures.
    pub process: Process,
    /// Its zones in full, when the process is one of before a reload: it may be the only one to have
    /// them.
    pub zones: Vec<(String, SharedZone)>,
    /// Which of its pages others map, too.
    pub sharing: Option<Sharing>,
}

/// The system allocator's own statistics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocator {
    /// `glibc`, `jemalloc`, `tcmalloc`, `mimalloc` or `musl`; `unknown` when it is none of these.
    pub name: String,
    /// Its version, where it tells.
    pub version: Option<String>,
    /// Bytes obtained from the system and not returned.
    pub reserved: Option<u64>,
    /// Bytes handed out to the program, with the allocator's headers.
    pub in_use: Option<u64>,
    /// Bytes held for reuse: freed by the program, not returned to the system.
    pub free: Option<u64>,
    /// Bytes in blocks that have a mapping of their own (part of `reserved` and of `in_use`).
    pub mmapped: Option<u64>,
    /// Of `in_use`: what nginx's pools hold, blocks and large allocations. `null` when the hooks on
    /// the pool allocator are not in place.
    pub pools: Option<u64>,
    /// Arenas in existence.
    pub arenas: Option<u64>,
    /// The age of these figures when the snapshot was taken, in milliseconds.
    pub measured_ms_ago: Option<u64>,
    /// How long the count took, in milliseconds: what the program allocated or freed meanwhile may be
    /// counted either way. 0 for figures of one moment.
    pub measured_over_ms: Option<u64>,
}

/// Code of the executable and its libraries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// Virtual bytes of all executable segments.
    pub bytes: u64,
    /// Each object, largest first.
    pub objects: Vec<Object>,
}

/// An executable or library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
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
    /// Virtual bytes; `null` when some thread's stack is not known.
    pub reserved: Option<u64>,
    /// Bytes in RAM; `null` when some thread's stack is not known.
    pub resident: Option<u64>,
}

/// For each hook, `on` or `off: reason`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// nginx's pool allocator.
    pub pool: String,
    /// nginx's slab allocator.
    pub slab: String,
    /// LuaJIT's allocators.
    pub lua: String,
    /// Thread creation.
    pub thread: String,
    /// The master's sleep, in which it answers; `null` where there is no master.
    pub master: Option<String>,
}

/// What the module costs this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// Bytes of the module's own lasting memory in this process.
    pub bytes: u64,
    /// Time of the event loop spent on this snapshot, in microseconds, over all its slices.
    pub snapshot_us: u64,
    /// The longest single slice of it, in microseconds.
    pub longest_slice_us: u64,
}

//! The model of one reply: what `GET /memstat` says about a server and each of its processes.
//!
//! Every type here serializes in two ways. In a human-readable format (JSON) it has the shape that
//! the schema describes. In a binary format (the shared snapshots) it also deserializes, so nothing
//! here may skip a field depending on its value.
//!
//! All sizes are bytes. `None` is written as `null` and means *not known*; `notes` says why.
#![forbid(unsafe_code)]

use serde::de::Deserializer;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::lua::Lua;
use super::mappings::Mappings;
use super::pools::Pools;
use super::sharing::Sharing;
pub use crate::sys::status::System;

use super::zones::{Named, SharedZone, SharedZones, ZoneUses};

/// The version of the JSON shape.
pub const SCHEMA: u32 = 1;

/// The whole reply.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Server {
    /// The version of this shape, [`SCHEMA`].
    pub schema: u32,
    /// The version of the module.
    pub module: String,
    /// The version of nginx, such as `1.22.1`.
    pub nginx: String,
    /// The executable by its own name and version, such as `openresty/1.27.1.2`; of nginx itself
    /// `nginx/1.22.1`.
    pub product: Option<String>,
    /// When the reply was made, RFC 3339.
    pub time: String,
    /// The size of a page in bytes.
    pub page_size: u64,
    /// The process that answered.
    pub answered_by: AnsweredBy,
    /// From the arrival of the request at the handler to this reply, in microseconds.
    pub elapsed_us: u64,
    /// Master first, then by kind, id and generation.
    pub processes: Vec<Process>,
    /// The shared memory zones, by name.
    pub shared_zones: SharedZones,
    /// Sums over the processes.
    pub totals: Totals,
    /// Whether only one zone was asked for.
    #[serde(skip)]
    pub narrowed: bool,
}

impl Server {
    /// Leaves only one of the zones, by name; `false` when there is none of that name.
    pub fn narrow(&mut self, zone: &str) -> bool {
        self.narrowed = true;
        self.shared_zones.narrow(zone);
        for zones in self.processes.iter_mut().filter_map(|process| process.zones.as_mut()) {
            zones.narrow(zone);
        }
        !self.shared_zones.0.is_empty()
    }

    /// Leaves only one of the processes; `false` when it is not there. The totals stay those of all.
    pub fn narrow_to_process(&mut self, pid: i32) -> bool {
        self.processes.retain(|process| process.pid == pid);
        !self.processes.is_empty()
    }
}

/// The process that answered a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredBy {
    /// Process id.
    pub pid: i32,
    /// The worker's number, as in `$worker_id`; `null` outside a worker.
    pub id: Option<u32>,
}

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

/// An entry of the breakdown: virtual bytes, and bytes in RAM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Virtual bytes.
    pub reserved: Option<u64>,
    /// Bytes in RAM.
    pub resident: Option<u64>,
}

/// What an entry of the breakdown counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// glibc's malloc: the `brk` heap, the other arenas, direct mappings.
    GlibcHeap,
    /// jemalloc.
    Jemalloc,
    /// tcmalloc (gperftools).
    Tcmalloc,
    /// mimalloc.
    Mimalloc,
    /// musl's malloc.
    MuslHeap,
    /// LuaJIT's allocators for the VMs of ngx_http_lua_module.
    HttpLuajit,
    /// LuaJIT's allocators for the VMs of ngx_stream_lua_module.
    StreamLuajit,
    /// LuaJIT's allocators for the VMs of other modules.
    OtherLuajit,
    /// Machine code of LuaJIT's compiler.
    LuajitMcode,
    /// Other machine code made at run time: of PCRE's compiler, of trampolines.
    OtherMcode,
    /// Shared memory of nginx: zones and its own counters.
    NginxShm,
    /// Executable segments of the executable and its libraries.
    Text,
    /// `.data`, `.bss` and relocated pages of the executable and its libraries.
    Data,
    /// Stacks of all threads.
    Stacks,
    /// Other pages of files and of foreign shared memory. Closes the sum.
    FileOther,
    /// Other anonymous pages. Closes the sum.
    AnonOther,
}

impl Category {
    /// All of them, in order.
    pub const ALL: [Category; 16] = [
        Category::GlibcHeap,
        Category::Jemalloc,
        Category::Tcmalloc,
        Category::Mimalloc,
        Category::MuslHeap,
        Category::HttpLuajit,
        Category::StreamLuajit,
        Category::OtherLuajit,
        Category::LuajitMcode,
        Category::OtherMcode,
        Category::NginxShm,
        Category::Text,
        Category::Data,
        Category::Stacks,
        Category::FileOther,
        Category::AnonOther,
    ];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Category::GlibcHeap => "glibc_heap",
            Category::Jemalloc => "jemalloc",
            Category::Tcmalloc => "tcmalloc",
            Category::Mimalloc => "mimalloc",
            Category::MuslHeap => "musl_heap",
            Category::HttpLuajit => "http_luajit",
            Category::StreamLuajit => "stream_luajit",
            Category::OtherLuajit => "other_luajit",
            Category::LuajitMcode => "luajit_mcode",
            Category::OtherMcode => "other_mcode",
            Category::NginxShm => "nginx_shm",
            Category::Text => "text",
            Category::Data => "data",
            Category::Stacks => "stacks",
            Category::FileOther => "file_other",
            Category::AnonOther => "anon_other",
        }
    }
}

/// The application level. `resident` of all entries adds up to [`System::resident`], and `reserved`
/// to [`System::virtual_`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breakdown(pub Vec<(Category, Region)>);

impl Breakdown {
    /// The entry of a category, if it is there.
    pub fn get(&self, category: Category) -> Option<Region> {
        self.0.iter().find(|(c, _)| *c == category).map(|(_, r)| *r)
    }
}

impl Serialize for Breakdown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return self.0.serialize(serializer);
        }
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (category, region) in &self.0 {
            map.serialize_entry(category.name(), region)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Breakdown {
    /// Binary formats only.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Breakdown)
    }
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

/// Sums over all processes of the server, whichever of them are in the reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Processes of the server.
    pub processes: u64,
    /// Sum of `system.resident`: shared pages count once a process.
    pub resident: Option<u64>,
    /// What the server takes: each page in RAM once, whichever of the processes map it. Pages of
    /// files that other programs map, too, count in part where that is known.
    pub resident_unique: Option<u64>,
    /// By how much the parts of `resident_unique` that had to be estimated may be wrong at most.
    pub resident_unique_error: Option<u64>,
    /// Sum of `system.swap`.
    pub swap: Option<u64>,
    /// nginx shared memory loaded in RAM, counted once.
    pub shared_memory: Option<u64>,
}

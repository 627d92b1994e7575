//! Lua VMs.
#![forbid(unsafe_code)]

use serde::de::Deserializer;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::breakdown::Category;
use crate::tally::lua::{class_limit, CLASSES};

/// Whose Lua VMs they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subsystem {
    /// ngx_http_lua_module.
    Http,
    /// ngx_stream_lua_module.
    Stream,
    /// Another module.
    Other,
}

impl Subsystem {
    /// All of them.
    pub const ALL: [Subsystem; 3] = [Subsystem::Http, Subsystem::Stream, Subsystem::Other];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Subsystem::Http => "http",
            Subsystem::Stream => "stream",
            Subsystem::Other => "other",
        }
    }

    /// The entry of the breakdown.
    pub fn category(self) -> Category {
        match self {
            Subsystem::Http => Category::HttpLuajit,
            Subsystem::Stream => Category::StreamLuajit,
            Subsystem::Other => Category::OtherLuajit,
        }
    }
}

/// The Lua VMs of one subsystem in a process. `reserved` is the sum of `allocated_bytes`,
/// `overhead_bytes` and `free_bytes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lua {
    /// Whose VMs they are.
    pub subsystem: Subsystem,
    /// VMs alive.
    pub vms: u64,
    /// What Lua counts itself, as `collectgarbage("count")`, in bytes.
    pub gc_bytes: Option<u64>,
    /// Bytes the VMs have got from their allocators and not given back.
    pub allocated_bytes: u64,
    /// The most that one VM had, ended ones included.
    pub peak_bytes: u64,
    /// Blocks given, ended VMs included.
    pub allocations: u64,
    /// Blocks made larger or smaller, ended VMs included.
    pub resizes: u64,
    /// Blocks given back, ended VMs included.
    pub frees: u64,
    /// Requests refused for want of memory, ended VMs included.
    pub failures: u64,
    /// The new sizes of blocks that were given or resized.
    pub sizes: Sizes,
    /// Virtual bytes of LuaJIT's allocators: segments and direct mappings.
    pub reserved: Option<u64>,
    /// Bytes of them in RAM.
    pub resident: Option<u64>,
    /// Mappings that hold many blocks.
    pub segments: Option<Mappings>,
    /// Mappings of one large block each.
    pub direct: Option<Mappings>,
    /// What the allocators need themselves: headers, rounding, their own state.
    pub overhead_bytes: Option<u64>,
    /// Bytes held for reuse inside segments.
    pub free_bytes: Option<u64>,
    /// The largest piece of them.
    pub largest_free: Option<u64>,
    /// The garbage collector of the oldest VM.
    pub gc: Option<Gc>,
}

/// Mappings of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mappings {
    /// How many.
    pub count: u64,
    /// Virtual bytes.
    pub bytes: u64,
}

/// The state of a garbage collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// Whether it runs; not after `collectgarbage("stop")`.
    pub running: Option<bool>,
    /// `setpause`: a new cycle begins at this percentage of what the last one left.
    pub pause: Option<u64>,
    /// `setstepmul`: its speed relative to allocation, in percent.
    pub stepmul: Option<u64>,
    /// Whether it is a GC64 build, with no limit of 2 GB.
    pub gc64: Option<bool>,
    /// The most bytes that all VMs of the process can have together; `null` where there is no limit.
    pub limit_bytes: Option<u64>,
}

/// How many blocks there were of each class of sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes(pub [u64; CLASSES]);

impl Sizes {
    /// The classes that there were blocks of: their names, and how many.
    fn entries(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.0.iter().enumerate().filter(|(_, count)| **count > 0).map(|(class, count)| {
            let name = class_limit(class).map_or_else(|| "larger".to_owned(), |l| l.to_string());
            (name, *count)
        })
    }
}

impl Serialize for Sizes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return self.0.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        for (name, count) in self.entries() {
            map.serialize_entry(&name, &count)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Sizes {
    /// Binary formats only.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u64; CLASSES]>::deserialize(deserializer).map(Sizes)
    }
}

//! Lua VMs.
#![forbid(unsafe_code)]

use serde::de::Deserializer;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::breakdown::Category;
use crate::tally::lua::{class_limit, CLASSES};

/// The owner of Lua VMs.
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
    /// All subsystems.
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
pub struct LuaVms {
    /// Whose VMs they are.
    pub subsystem: Subsystem,
    /// VMs alive.
    pub vms: u64,
    /// Lua's own count, as `collectgarbage("count")` returns it, but in bytes.
    pub gc_bytes: Option<u64>,
    /// Bytes that the VMs have allocated and not freed.
    pub allocated_bytes: u64,
    /// The largest number of allocated bytes of any one VM, ended VMs included.
    pub peak_bytes: u64,
    /// Blocks allocated, ended VMs included.
    pub allocations: u64,
    /// Blocks made larger or smaller, ended VMs included.
    pub resizes: u64,
    /// Blocks freed, ended VMs included.
    pub frees: u64,
    /// Requests that failed because there was no memory, ended VMs included.
    pub failures: u64,
    /// The new sizes of blocks that were allocated or resized.
    pub sizes: BlockSizes,
    /// Virtual bytes of LuaJIT's allocators: segments and direct mappings.
    pub reserved: Option<u64>,
    /// Bytes of `reserved` in RAM.
    pub resident: Option<u64>,
    /// Mappings that hold many blocks.
    pub segments: Option<LuaMappings>,
    /// Mappings of one large block each.
    pub direct: Option<LuaMappings>,
    /// Bytes that the allocators need themselves: headers, rounding, their own state.
    pub overhead_bytes: Option<u64>,
    /// Bytes held for reuse inside segments.
    pub free_bytes: Option<u64>,
    /// The largest piece of `free_bytes`.
    pub largest_free: Option<u64>,
    /// The garbage collector of the oldest VM.
    pub gc: Option<Gc>,
}

/// The mappings of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LuaMappings {
    /// The number of mappings.
    pub count: u64,
    /// Virtual bytes.
    pub bytes: u64,
}

/// The state of a garbage collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// Whether it runs; `false` after `collectgarbage("stop")`.
    pub running: Option<bool>,
    /// `setpause`: a new cycle begins when memory reaches this percentage of what the last one
    /// left.
    pub pause: Option<u64>,
    /// `setstepmul`: its speed relative to allocation, in percent.
    pub stepmul: Option<u64>,
    /// Whether it is a GC64 build, with no limit of 2 GB.
    pub gc64: Option<bool>,
    /// The most bytes that all VMs of the process can have together; `null` if there is no limit.
    pub limit_bytes: Option<u64>,
}

/// The number of blocks of each size class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockSizes(pub [u64; CLASSES]);

impl BlockSizes {
    /// The names and counts of the classes that had blocks.
    fn entries(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.0.iter().enumerate().filter(|(_, count)| **count > 0).map(|(class, count)| {
            let name = class_limit(class).map_or_else(|| "larger".to_owned(), |l| l.to_string());
            (name, *count)
        })
    }
}

impl Serialize for BlockSizes {
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

impl<'de> Deserialize<'de> for BlockSizes {
    /// Binary formats only.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u64; CLASSES]>::deserialize(deserializer).map(BlockSizes)
    }
}

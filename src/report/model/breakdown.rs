//! The memory of a process by purpose. The entries add up to the kernel's totals.
#![forbid(unsafe_code)]

use serde::de::Deserializer;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

/// An entry of the breakdown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Virtual bytes.
    pub reserved: Option<u64>,
    /// Bytes in RAM.
    pub resident: Option<u64>,
}

/// The purpose of the memory that an entry of the breakdown counts.
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
    /// Other machine code made at run time, such as PCRE's JIT code and trampolines.
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
    /// All categories, in order.
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

/// The entries, each category at most once and in order. `resident` of all entries adds up to
/// [`System::resident`](super::System::resident), and `reserved` to
/// [`System::virtual_`](super::System::virtual_).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breakdown(pub Vec<(Category, Region)>);

impl Breakdown {
    /// The entry of a category, if there is one.
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

//! nginx's pools: how much they hold and which functions created them.
#![forbid(unsafe_code)]

use std::fmt;

use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::shares::{PoolSum, Shares};

/// The live pools of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pools {
    /// Pools that are live.
    pub live: u64,
    /// Pools created so far, in this process and in those it was forked from.
    pub created: u64,
    /// Of those, pools that were destroyed.
    pub destroyed: u64,
    /// Resets of pools so far.
    pub reset: u64,
    /// Bytes of the live pools' blocks, headers included.
    pub bytes: u64,
    /// Of those, bytes at the ends of blocks that are not in use.
    pub unused: u64,
    /// Bytes of the live pools' large allocations, as the system allocator rounded them up.
    pub large_bytes: u64,
    /// Large allocations of the live pools.
    pub large_count: u64,
    /// The same figures by creator, the creator whose pools hold most first.
    pub by_creator: Vec<Creator>,
    /// The live pools of cycles, the oldest first. A process that was started by a reload, or that
    /// outlives one, may have several.
    pub cycles: Vec<LivePool>,
    /// The oldest live pools except those of cycles and of idle connections, the oldest first.
    pub oldest: Vec<LivePool>,
    /// The largest live pools, the largest first.
    pub largest: Vec<LivePool>,
    /// Pools of idle connections: clients' connections between requests, and kept connections to
    /// upstreams.
    pub idle: PoolSum,
    /// The pools of connections and requests by server.
    pub by_server: Option<Shares>,
    /// The pools of connections and requests by upstream.
    pub by_upstream: Option<Shares>,
    /// The pools of connections and requests by listening socket.
    pub by_listener: Option<Shares>,
}

/// The pools of one creator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creator {
    /// The function that creates the pools. If its name is unknown: `ngx_http_v2_*`, the common
    /// prefix of the names in its source file; or else `name+0x1f`, its offset from the exported
    /// function before it; or else `null`.
    pub creator: Option<String>,
    /// The base name of the executable or module that has the function.
    pub object: String,
    /// The purpose of the pools.
    pub kind: PoolKind,
    /// See [`Pools::live`].
    pub live: u64,
    /// See [`Pools::created`].
    pub created: u64,
    /// See [`Pools::destroyed`].
    pub destroyed: u64,
    /// See [`Pools::reset`].
    pub reset: u64,
    /// See [`Pools::bytes`].
    pub bytes: u64,
    /// See [`Pools::unused`].
    pub unused: u64,
    /// See [`Pools::large_bytes`].
    pub large_bytes: u64,
    /// See [`Pools::large_count`].
    pub large_count: u64,
    /// The largest size of any one pool so far: blocks and large allocations, in bytes. Pools are
    /// measured before they free something and when they are destroyed. If `ngx_pfree` is not
    /// hooked, a note says so: the figure is then the largest size seen at a destruction, at a
    /// reset or in a reply.
    pub peak_bytes: u64,
    /// The destroyed pools by their size at destruction.
    pub sizes: PoolSizes,
}

/// Counts of pools by size: the upper bound of each size class in bytes, a power of 2, and the
/// number of pools. Classes without a pool are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolSizes(pub Vec<(u64, u64)>);

impl Serialize for PoolSizes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_map(self.0.iter().map(|(bound, count)| (bound, count)))
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for PoolSizes {
    /// Binary formats only.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(PoolSizes)
    }
}

/// A live pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivePool {
    /// See [`Creator::creator`].
    pub creator: Option<String>,
    /// The purpose of the pool.
    pub kind: PoolKind,
    /// The time since it was created, in whole seconds.
    pub age_s: u64,
    /// See [`Pools::bytes`].
    pub bytes: u64,
    /// See [`Pools::large_bytes`].
    pub large_bytes: u64,
    /// For the pool of a cycle: the number of its configuration, see
    /// [`Process::generation`](super::Process::generation).
    pub generation: Option<u64>,
    /// For the pool of an HTTP request or connection: the first name of its server; `null` if the
    /// server has no name.
    pub server_name: Option<String>,
    /// For the pool of an HTTP request, with `memstat_uri on`: the request line.
    pub request: Option<String>,
}

/// The purpose of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// A cycle: the configuration and everything that lives as long.
    Cycle,
    /// A client's connection.
    Connection,
    /// An HTTP request.
    Request,
    /// A stream of an HTTP/2 connection, in addition to the pool of its request.
    Http2Stream,
    /// Reading the configuration.
    Conf,
    /// A connection to an upstream.
    Upstream,
    /// The Lua modules.
    Lua,
    /// None of the above, or unknown.
    Other,
}

impl PoolKind {
    /// All kinds.
    pub const ALL: [PoolKind; 8] = [
        PoolKind::Cycle,
        PoolKind::Connection,
        PoolKind::Request,
        PoolKind::Http2Stream,
        PoolKind::Conf,
        PoolKind::Upstream,
        PoolKind::Lua,
        PoolKind::Other,
    ];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            PoolKind::Cycle => "cycle",
            PoolKind::Connection => "connection",
            PoolKind::Request => "request",
            PoolKind::Http2Stream => "http2_stream",
            PoolKind::Conf => "conf",
            PoolKind::Upstream => "upstream",
            PoolKind::Lua => "lua",
            PoolKind::Other => "other",
        }
    }
}

impl fmt::Display for PoolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

//! nginx's pools: what they hold, and who created them.
#![forbid(unsafe_code)]

use std::fmt;

use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::shares::{Shares, Sum};

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
    /// The same by creator, the one that holds most first.
    pub by_creator: Vec<Creator>,
    /// The live pools of cycles, the oldest first. A process that a reload made or that lives on
    /// through one may have several.
    pub cycles: Vec<LivePool>,
    /// The oldest live pools, those of cycles and of idle connections apart; the oldest first.
    pub oldest: Vec<LivePool>,
    /// The largest live pools, the largest first.
    pub largest: Vec<LivePool>,
    /// Pools of connections that wait for a request, or for a use: clients' between requests, and
    /// those to upstreams that are kept.
    pub idle: Sum,
    /// The pools of connections and requests by server.
    pub by_server: Option<Shares>,
    /// The same by upstream.
    pub by_upstream: Option<Shares>,
    /// The same by listening socket.
    pub by_listener: Option<Shares>,
}

/// What the pools of one creator hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creator {
    /// The function that creates them; `ngx_http_v2_*` for one without a name whose source file is
    /// known by what the names in it begin with; `name+0x1f` for one of which no more is known than
    /// the exported function before it; `null` when not even that is known.
    pub creator: Option<String>,
    /// The executable or module that the function is in, by the base name of its file.
    pub object: String,
    /// What the pools are for.
    pub kind: Kind,
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
    /// The largest that a pool has been so far: blocks and large allocations. Pools are measured before they
    /// give back something, and at their end. Where `ngx_pfree` is not hooked a note says so: it is then
    /// the largest seen at an end, at a reset or in a reply.
    pub peak_bytes: u64,
    /// The pools that were destroyed, by their size then.
    pub sizes: Sizes,
}

/// Counts of pools by size: the upper bound of each class of sizes, a power of 2, and its count.
/// Classes without a pool are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes(pub Vec<(u64, u64)>);

impl Serialize for Sizes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_map(self.0.iter().map(|(bound, count)| (bound, count)))
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Sizes {
    /// Binary formats only.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Sizes)
    }
}

/// A live pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivePool {
    /// See [`Creator::creator`].
    pub creator: Option<String>,
    /// What it is for.
    pub kind: Kind,
    /// Since it was created, in whole seconds.
    pub age_s: u64,
    /// See [`Pools::bytes`].
    pub bytes: u64,
    /// See [`Pools::large_bytes`].
    pub large_bytes: u64,
    /// The pool of a cycle: which configuration it is of, see
    /// [`Process::generation`](super::Process::generation).
    pub generation: Option<u64>,
    /// The pool of an HTTP request or connection: the first name of its server. `null` where the
    /// server has no name.
    pub server_name: Option<String>,
    /// The pool of an HTTP request, with `memstat_uri on`: its request line.
    pub request: Option<String>,
}

/// What a pool is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A cycle: the configuration, and what lives as long as that.
    Cycle,
    /// A client's connection.
    Connection,
    /// An HTTP request.
    Request,
    /// A stream of an HTTP/2 connection, beside the pool of its request.
    Http2Stream,
    /// Reading the configuration.
    Conf,
    /// A connection to an upstream.
    Upstream,
    /// The Lua modules.
    Lua,
    /// None of the above, or not known.
    Other,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::Cycle,
        Kind::Connection,
        Kind::Request,
        Kind::Http2Stream,
        Kind::Conf,
        Kind::Upstream,
        Kind::Lua,
        Kind::Other,
    ];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cycle => "cycle",
            Kind::Connection => "connection",
            Kind::Request => "request",
            Kind::Http2Stream => "http2_stream",
            Kind::Conf => "conf",
            Kind::Upstream => "upstream",
            Kind::Lua => "lua",
            Kind::Other => "other",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

//! The part of the model that is about nginx's pools: what they hold, and who created them.
//!
//! All sizes are bytes.
#![forbid(unsafe_code)]

pub mod naming;
pub mod shares;

use std::cmp::Reverse;
use std::fmt;

use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::model::Process;
use shares::{Shares, Sum};

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
    /// [`Process::generation`](super::model::Process::generation).
    pub generation: Option<u64>,
    /// The pool of an HTTP request or connection: the first name of its server. `null` where the
    /// server has no name.
    pub server_name: Option<String>,
    /// The pool of an HTTP request, with `memstat_uri on`: its request line.
    pub request: Option<String>,
}

/// The creators of several processes, each once, the one that holds most first. Their classes of
/// sizes are left out.
pub fn sum_by_creator(pools: &[&Pools]) -> Vec<Creator> {
    let mut all: Vec<Creator> = Vec::new();
    for creator in pools.iter().flat_map(|pools| &pools.by_creator) {
        let same = |c: &&mut Creator| {
            (&c.creator, &c.object, c.kind) == (&creator.creator, &creator.object, creator.kind)
        };
        let Some(sum) = all.iter_mut().find(same) else {
            all.push(Creator { sizes: Sizes::default(), ..creator.clone() });
            continue;
        };
        for (to, from) in [
            (&mut sum.live, creator.live),
            (&mut sum.created, creator.created),
            (&mut sum.destroyed, creator.destroyed),
            (&mut sum.reset, creator.reset),
            (&mut sum.bytes, creator.bytes),
            (&mut sum.unused, creator.unused),
            (&mut sum.large_bytes, creator.large_bytes),
            (&mut sum.large_count, creator.large_count),
        ] {
            *to = to.saturating_add(from);
        }
        sum.peak_bytes = sum.peak_bytes.max(creator.peak_bytes);
    }
    all.sort_by_key(|c| Reverse((c.bytes.saturating_add(c.large_bytes), c.created)));
    all
}

/// Leaves the request lines out of what the processes say.
pub fn forget_requests(processes: &mut [Process]) {
    for pools in processes.iter_mut().filter_map(|process| process.pools.as_mut()) {
        for pool in pools.oldest.iter_mut().chain(&mut pools.largest) {
            pool.request = None;
        }
    }
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

//! The worst moment of a process: when most memory was seen resident, and what its pools held then.
//!
//! A process looks at itself once a second, and at each snapshot. Memory that comes and goes
//! between two looks is not seen; [`Peak::unseen`] is its upper bound.
#![forbid(unsafe_code)]

use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::pools::{LivePool, PoolKind};
use super::shares::Share;
use crate::report::assemble::timestamp;

/// A time in milliseconds since 1970, written as RFC 3339 in formats for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At(pub u64);

impl At {
    /// Returns the time as RFC 3339.
    pub fn text(self) -> String {
        timestamp(self.0 / 1000, self.0 % 1000)
    }
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&self.text())
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for At {
    /// Binary formats only.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(At)
    }
}

/// The worst moment that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// The time of the moment.
    pub at: At,
    /// The resident bytes at that time, as [`System::resident`](super::process::System::resident).
    pub resident: u64,
    /// The bytes by which [`System::peak_resident`](super::process::System::peak_resident) exceeds
    /// `resident`: what no look has seen.
    pub unseen: Option<u64>,
    /// The contents of the pools at that time; `None` if the pools are not hooked.
    pub pools: Option<PeakPools>,
}

/// The contents of the pools of a process at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeakPools {
    /// See [`super::pools::Pools::live`].
    pub live: u64,
    /// See [`super::pools::Pools::bytes`].
    pub bytes: u64,
    /// See [`super::pools::Pools::large_bytes`].
    pub large_bytes: u64,
    /// The five creators whose pools held most, the largest first.
    pub by_creator: Vec<PeakCreator>,
    /// The server whose connections and requests held most; `None` when there were none.
    pub server: Option<Share>,
    /// The largest pool of a request; `None` when there was none.
    pub request: Option<LivePool>,
}

/// The contents of the pools of one creator at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeakCreator {
    /// See [`Creator::creator`](super::pools::Creator::creator).
    pub creator: Option<String>,
    /// See [`Creator::object`](super::pools::Creator::object).
    pub object: String,
    /// The kind of the pools.
    pub kind: PoolKind,
    /// See [`super::pools::Pools::live`].
    pub live: u64,
    /// See [`super::pools::Pools::bytes`].
    pub bytes: u64,
    /// See [`super::pools::Pools::large_bytes`].
    pub large_bytes: u64,
}

impl PeakCreator {
    /// Returns the sum of blocks and large allocations, in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.saturating_add(self.large_bytes)
    }
}

impl PeakPools {
    /// Returns the sum of blocks and large allocations, in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.saturating_add(self.large_bytes)
    }
}

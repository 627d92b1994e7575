//! The worst moment of a process: when it was seen to have most in RAM, and what its pools held then.
//!
//! A process looks at itself once a second, and whenever it takes a snapshot. What comes and goes
//! between two looks is not seen; [`Peak::unseen`] says how much that was at most.
#![forbid(unsafe_code)]

use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::pools::{LivePool, PoolKind};
use super::shares::Share;
use crate::report::assemble::timestamp;

/// A time in milliseconds since 1970; RFC 3339 for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At(pub u64);

impl At {
    /// The time as RFC 3339.
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
    /// When it was.
    pub at: At,
    /// Bytes in RAM then, as [`System::resident`](super::process::System::resident).
    pub resident: u64,
    /// By how many bytes [`System::peak_resident`](super::process::System::peak_resident) is above
    /// `resident`: what no look has seen.
    pub unseen: Option<u64>,
    /// What the pools held then.
    pub pools: Option<PeakPools>,
}

/// What the pools of a process held at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeakPools {
    /// See [`super::pools::Pools::live`].
    pub live: u64,
    /// See [`super::pools::Pools::bytes`].
    pub bytes: u64,
    /// See [`super::pools::Pools::large_bytes`].
    pub large_bytes: u64,
    /// The five creators whose pools held most, that one first.
    pub by_creator: Vec<PeakCreator>,
    /// The server whose connections and requests held most; `None` when there were none.
    pub server: Option<Share>,
    /// The largest pool of a request; `None` when there was none.
    pub request: Option<LivePool>,
}

/// What the pools of one creator held at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeakCreator {
    /// See [`Creator::creator`](super::pools::Creator::creator).
    pub creator: Option<String>,
    /// See [`Creator::object`](super::pools::Creator::object).
    pub object: String,
    /// What the pools are for.
    pub kind: PoolKind,
    /// See [`super::pools::Pools::live`].
    pub live: u64,
    /// See [`super::pools::Pools::bytes`].
    pub bytes: u64,
    /// See [`super::pools::Pools::large_bytes`].
    pub large_bytes: u64,
}

impl PeakCreator {
    /// Blocks and large allocations, in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.saturating_add(self.large_bytes)
    }
}

impl PeakPools {
    /// Blocks and large allocations, in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.saturating_add(self.large_bytes)
    }
}

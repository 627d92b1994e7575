//! The pools of clients and upstreams, grouped by server, upstream or listening socket.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::pools::PoolKind;

/// The number of names in [`Shares::largest`]; all others are in [`Shares::other`].
pub const LISTED: usize = 10;

/// The sum of several pools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSum {
    /// Pools that were live when the snapshot was taken.
    pub live: u64,
    /// See [`Pools::bytes`](super::pools::Pools::bytes).
    pub bytes: u64,
    /// See [`Pools::large_bytes`](super::pools::Pools::large_bytes).
    pub large_bytes: u64,
}

impl PoolSum {
    /// Bytes of blocks and large allocations.
    pub fn size(&self) -> u64 {
        self.bytes.saturating_add(self.large_bytes)
    }

    /// Adds another sum.
    pub fn add(&mut self, other: &PoolSum) {
        self.live = self.live.saturating_add(other.live);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.large_bytes = self.large_bytes.saturating_add(other.large_bytes);
    }
}

/// The pools of one server, upstream or listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The first name of the server (empty if it has none), the upstream, or the address of the
    /// socket.
    pub name: String,
    /// See [`PoolSum::live`].
    pub live: u64,
    /// See [`Pools::bytes`](super::pools::Pools::bytes).
    pub bytes: u64,
    /// See [`Pools::large_bytes`](super::pools::Pools::large_bytes).
    pub large_bytes: u64,
}

impl Share {
    /// The pools of a name.
    pub fn new(name: String, sum: PoolSum) -> Self {
        Share { name, live: sum.live, bytes: sum.bytes, large_bytes: sum.large_bytes }
    }

    /// The figures without the name.
    pub fn sum(&self) -> PoolSum {
        PoolSum { live: self.live, bytes: self.bytes, large_bytes: self.large_bytes }
    }
}

/// The pools of the kinds in [`SHARED`], each counted once: the sums add up to the total of these
/// pools.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// The ten names whose pools hold most, the largest first.
    pub largest: Vec<Share>,
    /// Pools of all other names.
    pub other: PoolSum,
    /// Pools without a name, or whose name is unknown.
    pub none: PoolSum,
}

/// The kinds of pools that are grouped.
pub const SHARED: [PoolKind; 4] =
    [PoolKind::Connection, PoolKind::Request, PoolKind::Http2Stream, PoolKind::Upstream];

impl Shares {
    /// Makes the groups from all names in any order, the pools of `other` names, and those of
    /// `none`.
    pub fn new(names: impl IntoIterator<Item = Share>, other: PoolSum, none: PoolSum) -> Self {
        let mut shares = Shares { largest: names.into_iter().collect(), other, none };
        shares.largest.sort_by(|a, b| {
            let rank = |share: &Share| Reverse((share.sum().size(), share.live));
            rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name))
        });
        let rest = shares.largest.split_off(shares.largest.len().min(LISTED));
        rest.iter().for_each(|share| shares.other.add(&share.sum()));
        shares
    }

    /// The sum of all groups.
    pub fn total(&self) -> PoolSum {
        let mut total = self.none;
        total.add(&self.other);
        self.largest.iter().for_each(|share| total.add(&share.sum()));
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(name: &str, live: u64, bytes: u64, large_bytes: u64) -> Share {
        Share::new(name.to_owned(), PoolSum { live, bytes, large_bytes })
    }

    fn numbered(count: u64) -> Vec<Share> {
        (0..count).map(|n| share(&format!("s{n:02}"), 1, 100 + n, n)).collect()
    }

    #[test]
    fn ten_largest_and_the_rest() {
        let none = PoolSum { live: 3, bytes: 30, large_bytes: 300 };
        for count in [0, 1, 9, 10, 11, 40] {
            let shares = Shares::new(numbered(count), PoolSum::default(), none);
            assert_eq!(shares.largest.len() as u64, count.min(10));
            assert!(shares.largest.is_sorted_by_key(|share| Reverse(share.sum().size())));
            assert_eq!(shares.other.live, count.saturating_sub(10));
            let mut total = none;
            numbered(count).iter().for_each(|share| total.add(&share.sum()));
            assert_eq!(shares.total(), total, "{count}");
        }
    }

    #[test]
    fn equals_are_in_order_of_their_names() {
        let names = [share("b", 1, 5, 5), share("a", 1, 10, 0), share("c", 2, 10, 0)];
        let shares = Shares::new(names, PoolSum::default(), PoolSum::default());
        let names: Vec<_> = shares.largest.iter().map(|share| share.name.as_str()).collect();
        assert_eq!(names, ["c", "a", "b"]);
    }
}

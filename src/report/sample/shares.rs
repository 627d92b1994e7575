//! Pools grouped by server, upstream and listening socket, for tests.

use super::{Random, K};
use crate::report::model::pools::Pools;
use crate::report::model::shares::{PoolSum, Share, Shares};

pub(super) fn sum(random: &mut Random) -> PoolSum {
    PoolSum { live: random.figure(), bytes: random.figure(), large_bytes: random.figure() }
}

pub(super) fn share(random: &mut Random) -> Share {
    Share::new(random.text(), sum(random))
}

pub(super) fn shares(random: &mut Random) -> Shares {
    let names = random.many(share);
    Shares { largest: names, other: sum(random), none: sum(random) }
}

/// The pools of a small server, grouped.
pub(super) fn shared_out() -> Pools {
    let sum = |live, kib: u64, large: u64| PoolSum { live, bytes: kib * K, large_bytes: large * K };
    let share = |name: &str, sum| Share::new(name.to_owned(), sum);
    let none = PoolSum::default();
    Pools {
        idle: sum(14, 18, 0),
        by_server: Some(Shares {
            largest: vec![share("example.org", sum(41, 140, 30)), share("", sum(9, 20, 2))],
            other: none,
            none,
        }),
        by_upstream: Some(Shares {
            largest: vec![share("backend", sum(30, 120, 24))],
            other: none,
            none: sum(20, 40, 8),
        }),
        by_listener: Some(Shares {
            largest: vec![share("0.0.0.0:443", sum(50, 160, 32))],
            other: none,
            none,
        }),
        ..Pools::default()
    }
}

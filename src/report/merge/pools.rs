//! Sums the pools of several processes.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use crate::report::model::pools::{Creator, PoolSizes, Pools};
use crate::report::model::shares::{PoolSum, Share, Shares};

/// Sums the creators of several processes, the one whose pools hold most first. Their size classes
/// are left out.
pub fn sum_by_creator(pools: &[&Pools]) -> Vec<Creator> {
    let mut all: Vec<Creator> = Vec::new();
    for creator in pools.iter().flat_map(|pools| &pools.by_creator) {
        let same = |c: &&mut Creator| {
            (&c.creator, &c.object, c.kind) == (&creator.creator, &creator.object, creator.kind)
        };
        let Some(sum) = all.iter_mut().find(same) else {
            all.push(Creator { sizes: PoolSizes::default(), ..creator.clone() });
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

impl Shares {
    /// Sums the shares of several processes.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Shares>) -> Self {
        let (mut names, mut other, mut none) =
            (Vec::<Share>::new(), PoolSum::default(), PoolSum::default());
        for shares in all {
            other.add(&shares.other);
            none.add(&shares.none);
            for share in &shares.largest {
                match names.iter_mut().find(|known| known.name == share.name) {
                    Some(known) => {
                        let mut sum = known.sum();
                        sum.add(&share.sum());
                        *known = Share::new(std::mem::take(&mut known.name), sum);
                    }
                    None => names.push(share.clone()),
                }
            }
        }
        Shares::new(names, other, none)
    }
}

/// One of the three ways in which pools are grouped: its name, and the function that returns the
/// groups of one process.
pub type Way = (&'static str, fn(&Pools) -> Option<&Shares>);

/// All ways in which pools are grouped.
pub const WAYS: [Way; 3] = [
    ("server", |pools| pools.by_server.as_ref()),
    ("upstream", |pools| pools.by_upstream.as_ref()),
    ("listener", |pools| pools.by_listener.as_ref()),
];

/// Sums the shares of the processes that have them; `None` if no process has any.
pub fn over(pools: &[&Pools], way: Way) -> Option<Shares> {
    let known: Vec<&Shares> = pools.iter().filter_map(|pools| way.1(pools)).collect();
    (!known.is_empty()).then(|| Shares::sum(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(name: &str, live: u64, bytes: u64, large_bytes: u64) -> Share {
        Share::new(name.to_owned(), PoolSum { live, bytes, large_bytes })
    }

    #[test]
    fn over_processes() {
        let none = PoolSum { live: 1, bytes: 1, large_bytes: 1 };
        let one = Shares::new([share("a", 1, 10, 1), share("b", 2, 20, 2)], none, none);
        let two = Shares::new([share("b", 3, 30, 3), share("", 1, 5, 0)], PoolSum::default(), none);
        let sum = Shares::sum([&one, &two]);
        assert_eq!(sum.largest, [share("b", 5, 50, 5), share("a", 1, 10, 1), share("", 1, 5, 0)]);
        assert_eq!(sum.none, PoolSum { live: 2, bytes: 2, large_bytes: 2 });
        let mut total = one.total();
        total.add(&two.total());
        assert_eq!(sum.total(), total);
    }
}

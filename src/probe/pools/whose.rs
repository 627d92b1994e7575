//! Sums up pools by server, upstream and listening socket while they are read.
#![forbid(unsafe_code)]

use std::collections::hash_map::DefaultHasher;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::BuildHasherDefault;

use crate::abi::pool::PoolContents;
use crate::report::model::pools::PoolKind;
use crate::report::model::shares::{PoolSum, Share, Shares, SHARED};

/// The number of names with sums of their own; pools of further names are added to `other`.
const NAMES: usize = 2048;

/// The owner of a pool in the lists; unknown parts are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// See [`LivePool::server_name`](crate::report::model::pools::LivePool::server_name).
    pub server_name: Option<String>,
    /// See [`LivePool::request`](crate::report::model::pools::LivePool::request).
    pub request: Option<String>,
}

/// The names by which a pool is summed up; unknown names are `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traced<'a> {
    /// The first name of the server; empty if the server has none.
    pub server: Option<&'a [u8]>,
    /// The upstream.
    pub upstream: Option<&'a [u8]>,
    /// The address of the listening socket.
    pub listener: Option<&'a [u8]>,
    /// Whether it is the pool of a connection that waits for a request or for reuse.
    pub is_idle: bool,
}

/// Finds what nginx knows about a pool. It is called for live pools only, and does not access the
/// table of live pools itself.
pub trait Tracer: Debug {
    /// Prepares for this number of connections. Returns whether the preparation is complete.
    fn prepare(&mut self, connections: usize) -> bool;

    /// Passes the known names of a pool to `take`, once.
    fn trace(&self, pool: usize, kind: PoolKind, take: &mut dyn FnMut(&Traced));

    /// Returns the owner of a pool, with the request line only if `request_line` is set.
    fn owner(&self, pool: usize, kind: PoolKind, request_line: bool) -> Owner;
}

/// The sums of a walk.
#[derive(Debug, Default)]
pub struct Whose {
    server: NameSums,
    upstream: NameSums,
    listener: NameSums,
    /// See [`Pools::idle`](crate::report::model::pools::Pools::idle).
    pub idle: PoolSum,
}

impl Whose {
    /// Counts a pool. Returns whether it belongs to an idle connection.
    pub fn count(
        &mut self,
        pool: usize,
        kind: PoolKind,
        held: &PoolContents,
        tracer: &dyn Tracer,
    ) -> bool {
        let sum = PoolSum { live: 1, bytes: held.bytes, large_bytes: held.large_bytes };
        let mut is_idle = false;
        tracer.trace(pool, kind, &mut |traced| {
            is_idle = traced.is_idle;
            if SHARED.contains(&kind) {
                self.server.add(traced.server, &sum);
                self.upstream.add(traced.upstream, &sum);
                self.listener.add(traced.listener, &sum);
            }
        });
        if is_idle {
            self.idle.add(&sum);
        }
        is_idle
    }

    /// Returns the shares by server, upstream and listening socket.
    pub fn finish(self) -> [Shares; 3] {
        [self.server.finish(), self.upstream.finish(), self.listener.finish()]
    }
}

#[derive(Debug, Default)]
struct NameSums {
    sums: HashMap<Box<[u8]>, PoolSum, BuildHasherDefault<DefaultHasher>>,
    other: PoolSum,
    none: PoolSum,
}

impl NameSums {
    fn add(&mut self, name: Option<&[u8]>, sum: &PoolSum) {
        let Some(name) = name else { return self.none.add(sum) };
        if let Some(known) = self.sums.get_mut(name) {
            known.add(sum);
        } else if self.sums.len() < NAMES && self.sums.try_reserve(1).is_ok() {
            self.sums.insert(name.into(), *sum);
        } else {
            self.other.add(sum);
        }
    }

    fn finish(self) -> Shares {
        let mut all: Vec<_> = self.sums.into_iter().collect();
        let mut other = self.other;
        // Names that are not listed are not converted to text.
        let last = crate::report::model::shares::LISTED;
        if all.len() > last {
            let rank = |(_, sum): &(Box<[u8]>, PoolSum)| std::cmp::Reverse((sum.size(), sum.live));
            all.select_nth_unstable_by(last, |a, b| rank(a).cmp(&rank(b)).then(a.0.cmp(&b.0)));
            all.drain(last..).for_each(|(_, sum)| other.add(&sum));
        }
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        Shares::new(all.iter().map(|(name, sum)| Share::new(text(name), *sum)), other, self.none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Derives everything from a pool's address: name `address % 100`, idle below 50.
    #[derive(Debug)]
    struct ByAddress;

    impl Tracer for ByAddress {
        fn prepare(&mut self, _connections: usize) -> bool {
            true
        }

        fn trace(&self, pool: usize, kind: PoolKind, take: &mut dyn FnMut(&Traced)) {
            let name = (pool % 100).to_string();
            let name = Some(name.as_bytes());
            let upstream = name.filter(|_| kind == PoolKind::Upstream);
            take(&Traced { server: name, upstream, listener: None, is_idle: pool < 50 });
        }

        fn owner(&self, _pool: usize, _kind: PoolKind, _request_line: bool) -> Owner {
            Owner::default()
        }
    }

    fn held(bytes: u64) -> PoolContents {
        PoolContents { bytes, unused: 1, large_bytes: 2 * bytes, large_count: 3 }
    }

    #[test]
    fn sums_have_all_pools_of_the_kinds() {
        let mut whose = Whose::default();
        let mut all = PoolSum::default();
        for pool in 0..1000 {
            let kind = PoolKind::ALL[pool % PoolKind::ALL.len()];
            let bytes = pool as u64;
            assert_eq!(whose.count(pool, kind, &held(bytes), &ByAddress), pool < 50);
            if SHARED.contains(&kind) {
                all.add(&PoolSum { live: 1, bytes, large_bytes: 2 * bytes });
            }
        }
        assert_eq!(whose.idle.live, 50);
        let [server, upstream, listener] = whose.finish();
        assert_eq!((server.total(), upstream.total(), listener.total()), (all, all, all));
        assert_eq!((server.none.live, listener.none), (0, all));
        assert_eq!((server.largest.len(), listener.largest.len()), (10, 0));
        assert_eq!(upstream.none.live, all.live / 4 * 3);
    }

    #[test]
    fn names_are_bounded() {
        let mut names = NameSums::default();
        let one = PoolSum { live: 1, bytes: 10, large_bytes: 0 };
        for n in 0..NAMES + 5 {
            names.add(Some(n.to_string().as_bytes()), &one);
        }
        names.add(Some(b"0"), &one);
        names.add(Some(b"\xff"), &one);
        assert_eq!(names.sums.len(), NAMES);
        let shares = names.finish();
        assert_eq!(shares.largest[0].name, "0");
        assert_eq!(shares.total().live as usize, NAMES + 7);
    }
}

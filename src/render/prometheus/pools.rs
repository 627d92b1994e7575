//! Metrics of nginx's pools.
//!
//! Gauges have a series for each of the largest creators; the others are summed as
//! `creator="other"`, so that a sum has all pools. Which creators are the largest changes over
//! time. Counters are therefore by process only: one that moved between series would look like a
//! reset.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use super::family::{Families, Labels, MetricName};
use super::groups::ProcessGroup;
use crate::report::merge::pools::{over, Way, WAYS};
use crate::report::model::pools::{Creator, Pools};
use crate::report::model::Process;

/// The number of creators that have their own series.
const CREATORS: usize = 10;

/// The label of all other creators.
const OTHER: &str = "other";

/// The label of pools without a name.
const NONE: &str = "none";

/// The figures of the pools of one or several creators.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CreatorSum {
    live: u64,
    bytes: u64,
    unused: u64,
    large_bytes: u64,
}

pub(super) fn pools(families: &mut Families, groups: &[ProcessGroup]) {
    let sums: Vec<(Labels, CreatorSum)> = groups.iter().flat_map(by_creator).collect();
    let series = |figure: fn(&CreatorSum) -> u64| {
        let all: Vec<_> = sums.iter().map(|(l, sum)| (l.clone(), Some(figure(sum)))).collect();
        all
    };
    families.number(MetricName("pools_live", "Live pools."), series(|s| s.live));
    families.bytes(MetricName("pools_blocks", "Blocks of the live pools."), series(|s| s.bytes));
    families.bytes(
        MetricName("pools_unused", "Unused bytes at the ends of these blocks."),
        series(|s| s.unused),
    );
    families.bytes(
        MetricName(
            "pools_large",
            "Large allocations of the live pools, in addition to their blocks.",
        ),
        series(|s| s.large_bytes),
    );
    for (way, name) in WAYS.into_iter().zip([
        MetricName(
            "pools_by_server",
            "Blocks and large allocations of the pools of connections and requests, by server.",
        ),
        MetricName(
            "pools_by_upstream",
            "Blocks and large allocations of the pools of connections and requests, by upstream.",
        ),
        MetricName(
            "pools_by_listener",
            "Blocks and large allocations of the pools of connections and requests, by listener.",
        ),
    ]) {
        families.bytes(name, groups.iter().flat_map(|group| shared_out(group, way)));
    }
    type PoolsCount = fn(&Pools) -> u64;
    let counters: [(MetricName, PoolsCount); 3] = [
        (
            MetricName(
                "pools_created",
                "Pools created by the process and by those it was forked from.",
            ),
            |p| p.created,
        ),
        (MetricName("pools_destroyed", "Pools destroyed."), |p| p.destroyed),
        (MetricName("pools_reset", "Resets of pools."), |p| p.reset),
    ];
    for (name, figure) in counters {
        let figure = |p: &Process| p.pools.as_ref().map(figure);
        families.counter(name, groups.iter().map(|g| (g.labels(&[]), g.single().and_then(figure))));
    }
    families.seconds(
        MetricName(
            "pools_oldest_age",
            "The age of the oldest live pool, except those of cycles and idle connections.",
        ),
        groups.iter().map(|g| {
            let age = |p: &Process| p.pools.as_ref()?.oldest.iter().map(|pool| pool.age_s).max();
            (g.labels(&[]), g.members().iter().filter_map(|p| age(p)).max().map(|s| s as f64))
        }),
    );
}

/// The sums of the largest creators of a group and of all others. Empty if the pools of one process
/// are unknown.
fn by_creator(group: &ProcessGroup) -> Vec<(Labels, CreatorSum)> {
    let Some(all) = group.members().iter().map(|p| p.pools.as_ref()).collect::<Option<Vec<_>>>()
    else {
        return Vec::new();
    };
    let mut creators: Vec<((&str, &'static str), CreatorSum)> = Vec::new();
    for creator in all.iter().flat_map(|pools| &pools.by_creator) {
        // An unknown creator counts among the others.
        let name = creator.creator.as_deref().filter(|name| *name != OTHER);
        let Some(name) = name else { continue };
        let key = (name, creator.kind.name());
        match creators.iter_mut().find(|(known, _)| *known == key) {
            Some((_, sum)) => sum.add(creator),
            None => {
                let mut sum = CreatorSum::default();
                sum.add(creator);
                creators.push((key, sum));
            }
        }
    }
    creators.sort_by_key(|(key, sum)| (Reverse(sum.bytes.saturating_add(sum.large_bytes)), *key));
    creators.truncate(CREATORS);
    let mut rest = CreatorSum::default();
    for pools in &all {
        rest.live = rest.live.saturating_add(pools.live);
        rest.bytes = rest.bytes.saturating_add(pools.bytes);
        rest.unused = rest.unused.saturating_add(pools.unused);
        rest.large_bytes = rest.large_bytes.saturating_add(pools.large_bytes);
    }
    for (_, sum) in &creators {
        rest.live = rest.live.saturating_sub(sum.live);
        rest.bytes = rest.bytes.saturating_sub(sum.bytes);
        rest.unused = rest.unused.saturating_sub(sum.unused);
        rest.large_bytes = rest.large_bytes.saturating_sub(sum.large_bytes);
    }
    creators.push(((OTHER, OTHER), rest));
    let labels =
        |(creator, pool): (&str, &str)| group.labels(&[("creator", creator), ("pool", pool)]);
    creators.into_iter().map(|(key, sum)| (labels(key), sum)).collect()
}

/// The bytes of the largest names of a group, of all other names, and of pools without a name.
fn shared_out(group: &ProcessGroup, way: Way) -> Vec<(Labels, Option<u64>)> {
    let known = group.members().iter().map(|p| p.pools.as_ref().filter(|p| way.1(p).is_some()));
    let Some(shares) = known.collect::<Option<Vec<_>>>().and_then(|pools| over(&pools, way)) else {
        return Vec::new();
    };
    let (mut other, mut none) = (shares.other, shares.none);
    let mut series = Vec::new();
    for share in &shares.largest {
        match share.name.as_str() {
            OTHER => other.add(&share.sum()),
            NONE => none.add(&share.sum()),
            name => series.push((name, share.sum().size())),
        }
    }
    series.extend([(OTHER, other.size()), (NONE, none.size())]);
    let labels = |name: &str| group.labels(&[(way.0, name)]);
    series.into_iter().map(|(name, bytes)| (labels(name), Some(bytes))).collect()
}

impl CreatorSum {
    fn add(&mut self, creator: &Creator) {
        self.live = self.live.saturating_add(creator.live);
        self.bytes = self.bytes.saturating_add(creator.bytes);
        self.unused = self.unused.saturating_add(creator.unused);
        self.large_bytes = self.large_bytes.saturating_add(creator.large_bytes);
    }
}

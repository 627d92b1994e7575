//! The arrays of connections are much larger than what is used of them.
#![forbid(unsafe_code)]

use super::holders::{holders, live, serves};
use super::verdict::{is_share, percent, takes, verdict, Words};
use crate::report::model::health::{Directive, Verdict, VerdictStatus};
use crate::report::model::pools::PoolKind;
use crate::report::model::{Allocator, Process, Server};
use crate::report::units::size;

pub(super) const ID: &str = "worker-connections-large";

/// The bytes of the arrays of all workers from which they are worth a word: two workers with 65,535
/// connections have 53 MiB.
const LEAST: u64 = 64 << 20;

/// The percentage of what the server takes.
const PERCENT: u64 = 20;

/// What an array has for a connection, in bytes: a connection and two events, rounded up.
const EACH: u64 = 512;

/// The part of the arrays that is in use has to be below one in this many: a busy hour may have ten times
/// the connections of now.
const USED: u64 = 20;

/// The least value to suggest.
const FEW: u64 = 1024;

/// The kinds of pools of which each stands for a connection, or for one to an upstream.
const KINDS: [PoolKind; 3] = [PoolKind::Connection, PoolKind::Request, PoolKind::Upstream];

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let large = holders(server, |process| {
        let arrays = process.allocator.as_ref().filter(|_| serves(process))?.arrays();
        let used = used(process)?.saturating_mul(EACH);
        (used.saturating_mul(USED) <= arrays && arrays > 0).then_some(arrays)
    });
    let (sum, Some(takes)) = (large.sum(), takes(server)) else { return Vec::new() };
    let Some((worst, bytes)) = large.worst() else { return Vec::new() };
    if sum < LEAST || !is_share(sum, takes, PERCENT) {
        return Vec::new();
    }
    let connections = large.total(|process, _| used(process).unwrap_or(0));
    let most = large.processes().filter_map(used).max().unwrap_or(0);
    let words = Words {
        symptom: format!(
            "nginx keeps {} for connections in {}, {}% of what the server takes, and at most {connections} \
             were in use",
            size(sum),
            large.names(),
            percent(sum, takes).unwrap_or(0),
        ),
        impact: format!(
            "It is harmless if there is room: each worker has {} for them from its start, and each old \
             worker after a reload, too",
            size(bytes),
        ),
        cause: "worker_connections is much larger than the number of connections".to_owned(),
        action: "Lower it to what the busiest hour needs. Count connections to upstreams, too".to_owned(),
    };
    let suggest = most.saturating_mul(4).max(FEW).checked_next_power_of_two().unwrap_or(FEW);
    let directive = Directive {
        name: "worker_connections".to_owned(),
        context: "events".to_owned(),
        now: None,
        suggest: suggest.to_string(),
    };
    vec![verdict(ID, VerdictStatus::Info, words)
        .with("bytes", sum)
        .with("server", takes)
        .with("worst_bytes", worst.allocator.as_ref().map(Allocator::arrays))
        .with("in_use_at_most", connections)
        .change(directive)
        .about(large.processes())
        .estimated()]
}

/// The connections in use, at most: now, or when the process was largest.
fn used(process: &Process) -> Option<u64> {
    let peak = process.peak.as_ref().and_then(|peak| peak.pools.as_ref());
    let creators = peak.iter().flat_map(|pools| &pools.by_creator);
    let creators = creators.filter(|creator| KINDS.contains(&creator.kind));
    let then = creators.fold(0, |sum: u64, creator| sum.saturating_add(creator.live));
    Some(live(process, &KINDS)?.max(then))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{healthy, with_workers};
    use crate::report::model::Named;

    const M: u64 = 1 << 20;

    /// A server that takes 320 MiB, with these arrays and requests in each worker.
    fn arrays(bytes: u64, requests: u64) -> Server {
        let mut server = with_workers(healthy(), |worker| {
            let arrays = Named(vec![("connections".to_owned(), bytes)]);
            worker.allocator.iter_mut().for_each(|allocator| allocator.nginx = arrays.clone());
            let creators = worker.pools.iter_mut().flat_map(|pools| &mut pools.by_creator);
            for creator in creators.filter(|creator| creator.kind == PoolKind::Request) {
                creator.live = requests;
            }
        });
        server.totals.resident_unique = Some(320 * M);
        server
    }

    #[test]
    fn speaks() {
        let found = rule(&arrays(LEAST / 2, 35));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        let symptom =
            "nginx keeps 64.0 MiB for connections in workers 0-1, 20% of what the server takes, \
                       and at most 100 were in use";
        assert_eq!(found[0].symptom, symptom);
        assert_eq!(found[0].directive.clone().unwrap().suggest, "1024");
        assert_eq!(rule(&arrays(LEAST / 2, 1200))[0].directive.clone().unwrap().suggest, "8192");
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&arrays(LEAST / 2 - 1, 35)), [], "small");
        assert_eq!(rule(&arrays(LEAST / 2, 3300)), [], "well used");
        let mut large = arrays(LEAST / 2, 35);
        large.totals.resident_unique = Some(330 * M);
        assert_eq!(rule(&large), [], "little of the server");
        let unknown = with_workers(arrays(LEAST, 35), |worker| worker.pools = None);
        assert_eq!(rule(&unknown), [], "the connections are not known");
    }
}

//! The pools of requests are mostly unused.
//!
//! Only `request_pool_size` that is too large shows in the figures. One that is too small makes more
//! blocks, which cost little; and large allocations are those of more than a page, whatever the size of
//! the pool.
#![forbid(unsafe_code)]

use super::holders::{holders, in_ram, serves};
use super::verdict::{configured, is_share, percent, takes, verdict, Words};
use crate::report::model::health::{Directive, Verdict, VerdictStatus};
use crate::report::model::pools::PoolKind;
use crate::report::model::{Process, Server};
use crate::report::units::size;

pub(super) const ID: &str = "pool-size-poor";

/// The unused bytes from which a smaller pool is worth a word: 20,000 pools of nginx's default size that
/// are nearly empty have less than twice as much.
const LEAST: u64 = 64 << 20;

/// The percentage of the blocks that is unused.
const UNUSED_PERCENT: u64 = 60;

/// The percentage of what the server takes.
const PERCENT: u64 = 20;

/// The blocks of the live requests.
#[derive(Default)]
struct Blocks {
    live: u64,
    bytes: u64,
    unused: u64,
}

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let poor = holders(server, |process| {
        let blocks = blocks(process).filter(|_| serves(process))?;
        in_ram(process, blocks.unused).filter(|bytes| *bytes > 0)
    });
    let (sum, Some(takes)) = (poor.sum(), takes(server)) else { return Vec::new() };
    let total = |figure: fn(Blocks) -> u64| poor.total(|p, _| blocks(p).map_or(0, figure));
    let (live, bytes, unused) = (total(|b| b.live), total(|b| b.bytes), total(|b| b.unused));
    let Some(share) = percent(unused, bytes).filter(|share| *share >= UNUSED_PERCENT) else {
        return Vec::new();
    };
    if sum < LEAST || !is_share(sum, takes, PERCENT) {
        return Vec::new();
    }
    let used = bytes.saturating_sub(unused).checked_div(live).unwrap_or(0);
    let words = Words {
        symptom: format!(
            "{share}% of the blocks of {live} requests in {} are unused, {}: {} of {} in use each",
            poor.names(),
            size(sum),
            size(used),
            size(bytes.checked_div(live).unwrap_or(0)),
        ),
        impact: "It is harmless if requests are short. Each request that waits keeps the memory"
            .to_owned(),
        cause: "The blocks of a request's pool are larger than what requests need".to_owned(),
        action: "Make the blocks smaller. A request that needs more takes a second one".to_owned(),
    };
    // A quarter more than is used, in KiB.
    let wanted =
        used.saturating_add(used / 4).max(1).checked_next_multiple_of(1024).unwrap_or(used);
    let directive = Directive {
        name: "request_pool_size".to_owned(),
        context: "http".to_owned(),
        now: None,
        suggest: configured(wanted),
    };
    vec![verdict(ID, VerdictStatus::Info, words)
        .with("requests", live)
        .with("bytes", bytes)
        .with("unused", unused)
        .with("unused_in_ram", sum)
        .with("server", takes)
        .change(directive)
        .about(poor.processes())]
}

fn blocks(process: &Process) -> Option<Blocks> {
    let creators = process.pools.as_ref()?.by_creator.iter();
    let creators = creators.filter(|creator| creator.kind == PoolKind::Request);
    Some(creators.fold(Blocks::default(), |sum, creator| Blocks {
        live: sum.live.saturating_add(creator.live),
        bytes: sum.bytes.saturating_add(creator.bytes),
        unused: sum.unused.saturating_add(creator.unused),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{with_heap, with_workers};

    const M: u64 = 1 << 20;

    /// A server that takes 320 MiB, with 2048 requests in each worker.
    fn requests(bytes: u64, unused: u64) -> Server {
        let mut server = with_workers(with_heap(200 * M, 0, 1), |worker| {
            let creators = worker.pools.iter_mut().flat_map(|pools| &mut pools.by_creator);
            for creator in creators.filter(|creator| creator.kind == PoolKind::Request) {
                (creator.live, creator.bytes, creator.unused) = (2048, bytes, unused);
            }
        });
        server.totals.resident_unique = Some(320 * M);
        server
    }

    #[test]
    fn speaks() {
        let found = rule(&requests(40 * M, 32 * M));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        let symptom =
            "80% of the blocks of 4096 requests in workers 0-1 are unused, 64.0 MiB: 4.00 KiB of \
                       20.0 KiB in use each";
        assert_eq!(found[0].symptom, symptom);
        assert_eq!(found[0].directive.clone().unwrap().suggest, "5k");
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&requests(40 * M, 32 * M - 1)), [], "small");
        assert_eq!(rule(&requests(60 * M, 35 * M)), [], "more is used");
        let mut large = requests(40 * M, 32 * M);
        large.totals.resident_unique = Some(330 * M);
        assert_eq!(rule(&large), [], "little of the server");
        let unwritten = with_workers(requests(40 * M, 32 * M), |worker| {
            worker.allocator.iter_mut().for_each(|allocator| allocator.reserved = Some(204 * M));
        });
        assert_eq!(rule(&unwritten), [], "not in RAM");
    }
}

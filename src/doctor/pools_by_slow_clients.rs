//! Requests hold large buffers for a long time.
#![forbid(unsafe_code)]

use super::holders::{holders, serves};
use super::verdict::{held, is_share, percent, verdict, Words};
use crate::report::model::health::Verdict;
use crate::report::model::pools::{PoolKind, Pools};
use crate::report::model::shares::PoolSum;
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "pools-by-slow-clients";

/// The bytes of the requests of a process from which they are worth a word.
const LEAST: u64 = 64 << 20;

/// The percentage of the process's RAM.
const PERCENT: u64 = 50;

/// The least number of requests: one large request is no crowd.
const REQUESTS: u64 = 16;

/// The bytes of an average request. nginx's default buffers take half, and WebSockets some 20 KiB.
const EACH: u64 = 64 << 10;

/// The percentage of large allocations in the pools: buffers are large, and other things are not.
const LARGE_PERCENT: u64 = 50;

/// The age in seconds from which a request is slow. Others hold their buffers for milliseconds.
const SLOW: u64 = 2;

/// The age in seconds from which a request waits for something else than a client that reads: a
/// WebSocket, a stream of events.
const ENDLESS: u64 = 3600;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let slow = holders(server, |process| {
        let pools = process.pools.as_ref().filter(|_| serves(process))?;
        let sum = requests(pools);
        let is_much = sum.size() >= LEAST
            && is_share(sum.size(), process.system.resident?, PERCENT)
            && is_share(sum.large_bytes, sum.size(), LARGE_PERCENT);
        let is_crowd = sum.live >= REQUESTS
            && sum.size().checked_div(sum.live).is_some_and(|each| each >= EACH);
        (is_much && is_crowd && are_slow(pools)).then(|| sum.size())
    });
    let Some((worst, bytes)) = slow.worst() else { return Vec::new() };
    let (sum, resident) = (slow.sum(), worst.system.resident.unwrap_or(0));
    let live = slow.total(|process, _| process.pools.as_ref().map_or(0, |p| requests(p).live));
    let words = Words {
        symptom: format!(
            "{live} requests in {} hold {}, {} each; in {} they are {}% of the RAM",
            slow.names(),
            size(sum),
            size(sum.checked_div(live).unwrap_or(0)),
            slow.worst_name(),
            percent(bytes, resident).unwrap_or(0),
        ),
        impact: "Memory grows with the number of slow requests, not with their rate".to_owned(),
        cause: "Requests hold their buffers until the client has read the reply, and many clients read slowly"
            .to_owned(),
        action: "Lower the buffers of a request (proxy_buffers, fastcgi_buffers, output_buffers): the rest of \
                 a reply waits in a temporary file. send_timeout with reset_timedout_connection ends clients \
                 that do not read at all"
            .to_owned(),
    };
    vec![verdict(ID, held(sum, server), words)
        .with("requests", live)
        .with("bytes", sum)
        .with("worst_bytes", bytes)
        .with("worst_resident", resident)
        .about(slow.processes())
        .estimated()]
}

/// The pools of all requests of a process.
fn requests(pools: &Pools) -> PoolSum {
    let mut sum = PoolSum::default();
    for creator in pools.by_creator.iter().filter(|creator| creator.kind == PoolKind::Request) {
        let (live, bytes, large_bytes) = (creator.live, creator.bytes, creator.large_bytes);
        sum.add(&PoolSum { live, bytes, large_bytes });
    }
    sum
}

/// Whether at least half of the largest requests are slow, and not endless.
fn are_slow(pools: &Pools) -> bool {
    let requests = pools.largest.iter().filter(|pool| pool.kind == PoolKind::Request);
    let (slow, other): (Vec<_>, Vec<_>) =
        requests.partition(|pool| (SLOW..ENDLESS).contains(&pool.age_s));
    !slow.is_empty() && slow.len() >= other.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{healthy, with_workers};
    use crate::report::model::health::VerdictStatus;

    const M: u64 = 1 << 20;

    /// Workers of 128 MiB with this number of requests of this age, and the bytes of all of them.
    fn slow(live: u64, age_s: u64, large_bytes: u64) -> Server {
        with_workers(healthy(), |worker| {
            worker.system.resident = Some(128 * M);
            let Some(pools) = &mut worker.pools else { return };
            for creator in pools.by_creator.iter_mut().filter(|c| c.kind == PoolKind::Request) {
                (creator.live, creator.bytes, creator.large_bytes) = (live, 0, large_bytes);
            }
            pools.largest.iter_mut().for_each(|pool| pool.age_s = age_s);
        })
    }

    #[test]
    fn speaks() {
        let found = rule(&slow(100, SLOW, LEAST));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        let symptom =
            "200 requests in workers 0-1 hold 128 MiB, 655 KiB each; in worker 0 they are 50% of the RAM";
        assert_eq!(found[0].symptom, symptom);
        let mut server = slow(1000, 30, 128 * M);
        server.totals.resident_unique = Some(300 * M);
        assert_eq!(rule(&server)[0].status, VerdictStatus::Yellow);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&slow(100, SLOW - 1, 100 * M)), [], "fast");
        assert_eq!(rule(&slow(100, ENDLESS, 100 * M)), [], "WebSockets");
        assert_eq!(rule(&slow(100, SLOW, LEAST - 1)), [], "small");
        assert_eq!(rule(&slow(15, SLOW, LEAST)), [], "few");
        assert_eq!(rule(&slow(1025, SLOW, LEAST)), [], "small ones");
    }
}

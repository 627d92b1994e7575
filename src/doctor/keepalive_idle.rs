//! Idle connections hold much memory.
#![forbid(unsafe_code)]

use super::holders::{holders, in_ram, serves};
use super::verdict::{held, is_share, percent, takes, verdict, Words};
use crate::report::model::health::{Directive, Verdict};
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "keepalive-idle";

/// The bytes of all idle connections from which they are worth a word. 60,000 connections without TLS
/// have about 30 MiB in their pools.
const LEAST: u64 = 64 << 20;

/// The percentage of what the server takes.
const PERCENT: u64 = 20;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let idle = holders(server, |process| {
        let pools = process.pools.as_ref().filter(|_| serves(process))?;
        in_ram(process, pools.idle.size()).filter(|bytes| *bytes > 0)
    });
    let (sum, Some(takes)) = (idle.sum(), takes(server)) else { return Vec::new() };
    if sum < LEAST || !is_share(sum, takes, PERCENT) {
        return Vec::new();
    }
    let live = idle.total(|process, _| process.pools.as_ref().map_or(0, |pools| pools.idle.live));
    let words = Words {
        symptom: format!(
            "{live} idle connections in {} hold {}, {}% of what the server takes",
            idle.names(),
            size(sum),
            percent(sum, takes).unwrap_or(0),
        ),
        impact: "The memory is not there for requests. What TLS and the kernel keep for each connection \
                 comes on top"
            .to_owned(),
        cause: "Clients, or connections to upstreams (keepalive), wait for a next request for a long time"
            .to_owned(),
        action: "Close them sooner, if they are clients' connections; else lower keepalive of the upstreams"
            .to_owned(),
    };
    let timeout = Directive {
        name: "keepalive_timeout".to_owned(),
        context: "http".to_owned(),
        now: None,
        suggest: "15s".to_owned(),
    };
    vec![verdict(ID, held(sum, server), words)
        .with("connections", live)
        .with("bytes", sum)
        .with("server", takes)
        .change(timeout)
        .about(idle.processes())
        .estimated()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{healthy, with_heap, with_workers};
    use crate::report::model::health::VerdictStatus;
    use crate::report::model::shares::PoolSum;

    const M: u64 = 1 << 20;

    /// A server that takes 320 MiB, with this in the idle connections of both workers.
    fn idle(bytes: u64) -> Server {
        let mut server = with_workers(with_heap(200 * M, 0, 1), |worker| {
            let idle = PoolSum { live: 1000, bytes, large_bytes: 0 };
            worker.pools.iter_mut().for_each(|pools| pools.idle = idle);
        });
        server.totals.resident_unique = Some(320 * M);
        server
    }

    #[test]
    fn speaks() {
        let found = rule(&idle(LEAST / 2));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        let symptom =
            "2000 idle connections in workers 0-1 hold 64.0 MiB, 20% of what the server takes";
        assert_eq!(found[0].symptom, symptom);
        assert_eq!(rule(&idle(128 * M))[0].status, VerdictStatus::Yellow);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&idle(LEAST / 2 - 1)), []);
        let mut large = idle(LEAST / 2);
        large.totals.resident_unique = Some(330 * M);
        assert_eq!(rule(&large), [], "little of the server");
        // Blocks that were never written are not in RAM.
        let empty = with_workers(healthy(), |worker| {
            worker.pools.iter_mut().for_each(|pools| pools.idle.bytes = 300 * M);
            worker.allocator.iter_mut().for_each(|allocator| allocator.reserved = Some(310 * M));
        });
        assert_eq!(rule(&empty), []);
    }
}

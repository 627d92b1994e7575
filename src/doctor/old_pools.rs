//! A request that has been open for very long holds much memory.
#![forbid(unsafe_code)]

use super::holders::holders;
use super::verdict::{held, is_share, percent, verdict, Words};
use crate::report::model::health::Verdict;
use crate::report::model::pools::{LivePool, PoolKind};
use crate::report::model::{Process, Server};
use crate::report::units::{seconds, size};

pub(super) const ID: &str = "old-pools";

/// The age of a request, in seconds, from which it is no usual one.
const AGE: u64 = 3600;

/// The bytes of its pool: WebSockets that are open for days hold a few KiB each.
const LEAST: u64 = 16 << 20;

/// The percentage of the process's RAM.
const PERCENT: u64 = 10;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let old = holders(server, |process| {
        let bytes = bytes(largest(process)?);
        is_share(bytes, process.system.resident?, PERCENT).then_some(bytes)
    });
    let Some((process, bytes)) = old.worst() else { return Vec::new() };
    let Some(pool) = largest(process) else { return Vec::new() };
    let name = pool.server_name.as_deref().filter(|name| !name.is_empty());
    let whose = name.map(|name| format!(" of server {name}")).unwrap_or_default();
    let resident = process.system.resident.unwrap_or(0);
    let words = Words {
        symptom: format!(
            "A request{whose} in {} is open for {} and holds {}, {}% of the RAM of the process",
            old.worst_name(),
            seconds(pool.age_s),
            size(bytes),
            percent(bytes, resident).unwrap_or(0),
        ),
        impact: "Its pool is freed only when the request ends, and may grow until then".to_owned(),
        cause: "A pool gives nothing back before its end. A module that allocates for each message of a \
                WebSocket or a stream makes it grow"
            .to_owned(),
        action: "End such requests from time to time, and let clients connect again. With memstat_uri on, \
                 pools.oldest has the request"
            .to_owned(),
    };
    vec![verdict(ID, held(bytes, server), words)
        .with("bytes", bytes)
        .with("age_s", pool.age_s)
        .with("resident", resident)
        .with("processes", old.count())
        .about(old.processes())]
}

/// Bytes of a pool.
fn bytes(pool: &LivePool) -> u64 {
    pool.bytes.saturating_add(pool.large_bytes)
}

/// The largest of the old requests that are large.
fn largest(process: &Process) -> Option<&LivePool> {
    let pools = process.pools.as_ref()?;
    let is_request = |kind| matches!(kind, PoolKind::Request | PoolKind::Http2Stream);
    let known = pools.oldest.iter().chain(&pools.largest);
    let large = known.filter(|p| is_request(p.kind) && p.age_s >= AGE && bytes(p) >= LEAST);
    large.max_by_key(|pool| bytes(pool))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{healthy, with_workers};
    use crate::report::model::health::VerdictStatus;

    const M: u64 = 1 << 20;

    fn request(age_s: u64, large_bytes: u64, resident: u64) -> Server {
        with_workers(healthy(), |worker| {
            worker.system.resident = Some(resident);
            let pool = worker.pools.as_mut().and_then(|pools| pools.oldest.first_mut());
            pool.into_iter().for_each(|pool| {
                (pool.age_s, pool.bytes, pool.large_bytes) = (age_s, 0, large_bytes);
            });
        })
    }

    #[test]
    fn speaks() {
        let found = rule(&request(AGE, LEAST, 160 * M));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        let symptom =
            "A request of server example.org in worker 0 is open for 1h 00m and holds 16.0 MiB, \
                       10% of the RAM of the process";
        assert_eq!(found[0].symptom, symptom);
        let mut server = request(AGE, 256 * M, 300 * M);
        server.totals.resident_unique = Some(512 * M);
        assert_eq!(rule(&server)[0].status, VerdictStatus::Yellow);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&request(AGE - 1, 99 * M, 100 * M)), [], "young");
        assert_eq!(rule(&request(AGE, LEAST - 1, 100 * M)), [], "small");
        assert_eq!(rule(&request(AGE, LEAST, 161 * M)), [], "little of the RAM");
    }
}

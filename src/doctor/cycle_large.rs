//! The configuration takes much memory.
#![forbid(unsafe_code)]

use super::holders::{holders, serves};
use super::verdict::{is_share, percent, verdict, Words};
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::pools::LivePool;
use crate::report::model::{Process, Server};
use crate::report::units::size;

pub(super) const ID: &str = "cycle-large";

/// The bytes of the pool from which it is worth a word: a thousand servers take about 20 MiB.
const LEAST: u64 = 64 << 20;

/// The percentage of the process's RAM.
const PERCENT: u64 = 25;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let large = holders(server, |process| {
        let bytes = configuration(process).filter(|_| serves(process))?;
        let is_much = bytes >= LEAST && is_share(bytes, process.system.resident?, PERCENT);
        is_much.then_some(bytes)
    });
    let Some((worst, bytes)) = large.worst() else { return Vec::new() };
    let resident = worst.system.resident.unwrap_or(0);
    let words = Words {
        symptom: format!(
            "The configuration takes {} in {}, {}% of the RAM of {}",
            size(bytes),
            large.names(),
            percent(bytes, resident).unwrap_or(0),
            large.worst_name(),
        ),
        impact: format!(
            "It is harmless: the processes share its pages as long as none writes to them. But there are \
             two of it during a reload, and as long as an old worker runs: {} more",
            size(bytes),
        ),
        cause: "Many servers and locations, or large maps and lists of addresses".to_owned(),
        action: "Leave room for two of it where reloads are frequent. Fewer servers, or lists outside of the \
                 configuration, make it smaller"
            .to_owned(),
    };
    vec![verdict(ID, VerdictStatus::Info, words)
        .with("bytes", bytes)
        .with("resident", resident)
        .with("processes", large.count())
        .about(large.processes())]
}

/// Bytes of the pool of the newest cycle.
pub(super) fn configuration(process: &Process) -> Option<u64> {
    let bytes = |pool: &LivePool| pool.bytes.saturating_add(pool.large_bytes);
    process.pools.as_ref()?.cycles.last().map(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{healthy, with_workers};

    const M: u64 = 1 << 20;

    fn cycles(bytes: u64, large_bytes: u64, resident: u64) -> Server {
        with_workers(healthy(), |worker| {
            worker.system.resident = Some(resident);
            let cycle = worker.pools.as_mut().and_then(|pools| pools.cycles.last_mut());
            cycle
                .into_iter()
                .for_each(|cycle| (cycle.bytes, cycle.large_bytes) = (bytes, large_bytes));
        })
    }

    #[test]
    fn speaks() {
        let found = rule(&cycles(44 * M, 20 * M, 256 * M));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        let symptom = "The configuration takes 64.0 MiB in workers 0-1, 25% of the RAM of worker 0";
        assert_eq!(found[0].symptom, symptom);
        assert_eq!(found[0].affected.processes, [11, 12]);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&cycles(44 * M, 20 * M - 1, 80 * M)), [], "small");
        assert_eq!(rule(&cycles(44 * M, 20 * M, 257 * M)), [], "little of the RAM");
        let old = with_workers(cycles(99 * M, 0, 99 * M), |worker| {
            worker.state = crate::report::model::ProcessState::ShuttingDown;
        });
        assert_eq!(rule(&old), []);
    }
}

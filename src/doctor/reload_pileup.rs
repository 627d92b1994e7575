//! Workers of configurations from before reloads hold much memory.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use super::holders::{holders, private, serves};
use super::verdict::{is_share, percent, takes, verdict, Words};
use crate::report::model::health::{Directive, Verdict, VerdictStatus};
use crate::report::model::{Process, ProcessKind, ProcessState, Server};
use crate::report::units::{seconds, size};

pub(super) const ID: &str = "reload-pileup";

/// The bytes of old workers from which they are worth a word.
const LEAST: u64 = 64 << 20;

/// The percentage of what the server takes, from which they are worth a word.
const PERCENT: u64 = 20;

/// The bytes of old workers from which a timeout is due, if they are also [`MUCH_PERCENT`] of what the
/// server takes and of several configurations: their sum then grows with each reload.
const MUCH: u64 = 256 << 20;

/// A third: with one old configuration that is as large as the new one it would be half.
const MUCH_PERCENT: u64 = 33;

/// The time since the last reload, in seconds, after which ordinary requests have ended.
const GRACE: u64 = 600;

/// The number of old configurations from which on reloads come faster than workers end, so that the
/// time since the last one says nothing.
const MANY: usize = 3;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let newest = server.processes.iter().filter(|p| serves(p)).filter_map(|p| p.generation).max();
    let is_old = |p: &Process| {
        let is_stuck = p.state == ProcessState::Unresponsive && p.generation < newest;
        p.kind == ProcessKind::Worker && (p.state == ProcessState::ShuttingDown || is_stuck)
    };
    let old = holders(server, |process| is_old(process).then(|| private(process)).flatten());
    let (sum, Some(takes)) = (old.sum(), takes(server)) else { return Vec::new() };
    let current = server.processes.iter().filter(|p| serves(p) && p.generation == newest);
    let reloaded = current.filter_map(|p| p.uptime_s).max();
    let generations = old.processes().map(|p| p.generation).collect::<HashSet<_>>().len();
    let lasts = reloaded.is_some_and(|s| s >= GRACE) || generations >= MANY;
    if sum < LEAST || !is_share(sum, takes, PERCENT) || !lasts {
        return Vec::new();
    }
    let is_much = generations > 1 && sum >= MUCH && is_share(sum, takes, MUCH_PERCENT);
    let status = if is_much { VerdictStatus::Yellow } else { VerdictStatus::Info };
    let oldest = old.processes().min_by_key(|p| p.generation.unwrap_or(u64::MAX));
    let oldest_generation = oldest.and_then(|p| p.generation);
    let (count, uptime) = (old.count(), oldest.and_then(|p| p.uptime_s));
    let of = match generations {
        1 => "an earlier configuration".to_owned(),
        n => format!("{n} earlier configurations"),
    };
    let mut symptom = format!(
        "Old workers of {of} hold {}, {}% of what the server takes: {count} that are shutting down",
        size(sum),
        percent(sum, takes).unwrap_or(0),
    );
    if let Some((oldest, uptime)) = oldest.zip(uptime) {
        symptom.push_str(&format!(
            "; the oldest, pid {}, started {} ago",
            oldest.pid,
            seconds(uptime)
        ));
    }
    let impact = match generations {
        1 => "Their memory comes back when they end. It is harmless if there is room for it",
        _ => "Their memory comes back only when they end, and each reload adds to it",
    };
    let words = Words {
        symptom,
        impact: impact.to_owned(),
        cause:
            "They have connections from before the reload that are still in use: WebSockets, long \
                downloads, slow clients"
                .to_owned(),
        action:
            "Let nginx close these connections after some time. Clients have to connect again then"
                .to_owned(),
    };
    let timeout = Directive {
        name: "worker_shutdown_timeout".to_owned(),
        context: "main".to_owned(),
        now: None,
        suggest: "10m".to_owned(),
    };
    vec![verdict(ID, status, words)
        .with("workers", count)
        .with("bytes", sum)
        .with("server", takes)
        .with("configurations", u64::try_from(generations).ok())
        .with("oldest_generation", oldest_generation)
        .with("newest_generation", newest)
        .with("since_reload_s", reloaded)
        .change(timeout)
        .about(old.processes())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{healthy, with_workers};

    const M: u64 = 1 << 20;

    /// A server that takes 600 MiB, reloaded that many seconds ago, with old workers of these
    /// generations that have these bytes.
    fn reloaded(ago: u64, old: &[(u64, u64)]) -> Server {
        let mut server = with_workers(healthy(), |worker| {
            (worker.generation, worker.uptime_s) = (Some(9), Some(ago));
        });
        for (generation, bytes) in old {
            let mut process = server.processes[1].clone();
            process.state = ProcessState::ShuttingDown;
            (process.generation, process.uptime_s) = (Some(*generation), Some(86_400));
            process.pid = 20 + *generation as i32;
            process.system.resident_private = Some(*bytes);
            server.processes.push(process);
        }
        server.totals.resident_unique = Some(600 * M);
        server
    }

    #[test]
    fn speaks() {
        let found = rule(&reloaded(GRACE, &[(8, 60 * M), (8, 60 * M)]));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        let symptom =
            "Old workers of an earlier configuration hold 120 MiB, 20% of what the server takes: \
                       2 that are shutting down; the oldest, pid 28, started 1d 00h ago";
        assert_eq!(found[0].symptom, symptom);
        let found = rule(&reloaded(GRACE, &[(8, 128 * M), (5, 128 * M)]));
        assert_eq!(found[0].status, VerdictStatus::Yellow);
        assert_eq!(found[0].affected.processes, [28, 25]);
        assert_eq!(found[0].evidence.get("oldest_generation"), Some(&5));
        // Reloads come faster than workers end.
        let found = rule(&reloaded(1, &[(8, 40 * M), (7, 40 * M), (6, 40 * M)]));
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&reloaded(GRACE - 1, &[(8, 200 * M), (7, 200 * M)])), [], "just reloaded");
        assert_eq!(rule(&reloaded(GRACE, &[(8, 119 * M)])), [], "a small part");
        let mut small = reloaded(GRACE, &[(8, LEAST - 1)]);
        small.totals.resident_unique = Some(LEAST);
        assert_eq!(rule(&small), [], "small");
        let one = rule(&reloaded(GRACE, &[(8, 300 * M)]));
        assert_eq!(one[0].status, VerdictStatus::Info, "one configuration: by design");
        let some = rule(&reloaded(GRACE, &[(8, 100 * M), (7, 150 * M)]));
        assert_eq!(some[0].status, VerdictStatus::Info, "250 MiB");
        assert_eq!(rule(&reloaded(GRACE, &[])), []);
    }
}

//! One worker is much larger than the others.
#![forbid(unsafe_code)]

use super::holders::{holders, live, private, serves};
use super::verdict::{percent, verdict, Words};
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::pools::PoolKind;
use crate::report::model::{Category, Process, ProcessKind, ProcessState, Server};
use crate::report::units::size;

pub(super) const ID: &str = "uneven-workers";

/// The least number of workers: of two, none is the usual one.
const WORKERS: u64 = 3;

/// The bytes beyond the median worker.
const LEAST: u64 = 128 << 20;

/// The size of the largest worker in percent of the median worker.
const PERCENT: u64 = 200;

/// The uptime of each worker, in seconds: one that was just started is small.
const UPTIME: u64 = 3600;

/// The least number of connections to compare.
const CONNECTIONS: u64 = 100;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let workers = holders(server, |process| {
        let is_worker = process.kind == ProcessKind::Worker && serves(process);
        private(process).filter(|_| is_worker && process.state == ProcessState::Active)
    });
    let is_new = |p: &Process| p.uptime_s.is_none_or(|uptime| uptime < UPTIME);
    if workers.count() < WORKERS || workers.processes().any(is_new) {
        return Vec::new();
    }
    let Some((worst, bytes)) = workers.worst() else { return Vec::new() };
    let mut all: Vec<_> = workers.processes().filter_map(|p| Some((private(p)?, p))).collect();
    all.sort_by_key(|(bytes, _)| *bytes);
    let Some((usual, median)) = all.get(all.len() / 2).copied() else { return Vec::new() };
    let Some(ratio) = percent(bytes, usual) else { return Vec::new() };
    let more = bytes.saturating_sub(usual);
    if more < LEAST || ratio < PERCENT {
        return Vec::new();
    }
    let (cause, action) = why(worst, median);
    let words = Words {
        symptom: format!(
            "{} has {} of its own, {ratio}% of the {} of the median worker: {} more",
            capital(workers.worst_name()),
            size(bytes),
            size(usual),
            size(more),
        ),
        impact: "It is harmless if there is room for it. The sum over all workers may be smaller than expected"
            .to_owned(),
        cause,
        action,
    };
    vec![verdict(ID, VerdictStatus::Info, words)
        .with("bytes", bytes)
        .with("median", usual)
        .with("workers", workers.count())
        .with("connections", live(worst, &[PoolKind::Connection]))
        .with("median_connections", live(median, &[PoolKind::Connection]))
        .about([worst])]
}

/// Why a worker is larger than the median worker, and what to do.
fn why(worst: &Process, median: &Process) -> (String, String) {
    let connections = |process| live(process, &[PoolKind::Connection]);
    if let Some((many, usual)) = connections(worst).zip(connections(median)) {
        if many >= CONNECTIONS && many >= usual.saturating_mul(2) {
            return (
                format!("It has {many} connections, the median worker has {usual}"),
                "Let the kernel spread connections over the workers: listen with reuseport"
                    .to_owned(),
            );
        }
    }
    let resident =
        |process: &Process, category| process.breakdown.as_ref()?.get(category)?.resident;
    let more = Category::ALL.into_iter().filter_map(|category| {
        let usual = resident(median, category).unwrap_or(0);
        Some((resident(worst, category)?.checked_sub(usual)?, category))
    });
    let action =
        "Compare the two workers with ?pid=. A single request, or a task of one worker only, may \
                  have needed it";
    let cause = match more.max_by_key(|(bytes, _)| *bytes) {
        Some((bytes, category)) => format!("Its {} has {} more", category.name(), size(bytes)),
        None => "It cannot be told from the figures".to_owned(),
    };
    (cause, action.to_owned())
}

/// The text with a capital letter.
fn capital(text: String) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{healthy, with_workers};

    const M: u64 = 1 << 20;

    /// A server with workers of these sizes, an hour old.
    fn workers(sizes: &[u64]) -> Server {
        let mut server = healthy();
        let worker = server.processes.pop().unwrap();
        server.processes.truncate(1);
        for (id, bytes) in sizes.iter().enumerate() {
            let mut worker = worker.clone();
            (worker.id, worker.pid, worker.uptime_s) =
                (Some(id as u32), 20 + id as i32, Some(UPTIME));
            worker.system.resident_private = Some(*bytes);
            server.processes.push(worker);
        }
        server
    }

    #[test]
    fn speaks() {
        let mut server = workers(&[128 * M, 256 * M, 120 * M]);
        let found = rule(&server);
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        let symptom =
            "Worker 1 has 256 MiB of its own, 200% of the 128 MiB of the median worker: 128 MiB more";
        assert_eq!((found[0].symptom.as_str(), &found[0].affected.processes), (symptom, &vec![21]));
        let heap = server.processes[2].breakdown.as_mut().unwrap().0.first_mut().unwrap();
        heap.1.resident = heap.1.resident.map(|bytes| bytes + 64 * M);
        assert_eq!(rule(&server)[0].cause, "Its glibc_heap has 64.0 MiB more");
        let creators = &mut server.processes[2].pools.as_mut().unwrap().by_creator;
        creators.iter_mut().for_each(|creator| creator.live = 100);
        assert_eq!(rule(&server)[0].cause, "It has 100 connections, the median worker has 15");
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&workers(&[128 * M, 256 * M - 1, 120 * M])), [], "small");
        assert_eq!(rule(&workers(&[200 * M, 399 * M, 200 * M])), [], "less than twice");
        assert_eq!(rule(&workers(&[100 * M, 400 * M])), [], "two");
        let new = with_workers(workers(&[1, 1, 400 * M]), |w| w.uptime_s = Some(UPTIME - 1));
        assert_eq!(rule(&new), [], "new");
    }
}

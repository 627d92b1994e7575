//! Groups processes by their labels.
//!
//! The label `worker` is the number of a worker; its replacement takes over the number. During a
//! reload, a worker that shuts down has the same number as a new one. All such workers are grouped
//! as `worker="old"`: a sum over `worker` has all memory, a new worker has its own series, and
//! there is only one more series, no matter how many reloads overlap. Gauges of a group are added
//! up. Its counters are left out, because their sum would fall when a process ends.
#![forbid(unsafe_code)]

use super::family::Labels;
use crate::report::model::{Process, ProcessKind, ProcessState};

/// Processes with the same labels.
pub(super) struct ProcessGroup<'a> {
    kind: ProcessKind,
    worker: String,
    labels: Labels,
    members: Vec<&'a Process>,
}

/// The label of workers that shut down, instead of a number.
const OLD: &str = "old";

/// Groups the processes by their labels, in the order of the reply.
pub(super) fn groups(processes: &[Process]) -> Vec<ProcessGroup<'_>> {
    let newest = processes.iter().filter_map(|process| process.generation).max();
    let mut groups: Vec<ProcessGroup> = Vec::new();
    for process in processes {
        let outdated = process.generation.is_some_and(|generation| Some(generation) != newest);
        let worker = match process.id {
            _ if process.state == ProcessState::ShuttingDown || outdated => OLD.to_owned(),
            Some(id) => id.to_string(),
            None => String::new(),
        };
        match groups.iter_mut().find(|g| g.kind == process.kind && g.worker == worker) {
            Some(group) => group.members.push(process),
            None => {
                let labels = labels(process.kind, &worker, &[]);
                groups.push(ProcessGroup {
                    kind: process.kind,
                    worker,
                    labels,
                    members: vec![process],
                });
            }
        }
    }
    groups
}

impl<'a> ProcessGroup<'a> {
    /// The labels of the group and `more`.
    pub(super) fn labels(&self, more: &[(&'static str, &str)]) -> Labels {
        match more {
            [] => self.labels.clone(),
            more => labels(self.kind, &self.worker, more),
        }
    }

    /// The processes.
    pub(super) fn members(&self) -> &[&'a Process] {
        &self.members
    }

    /// The sum of a figure over the group; `None` if it is unknown in one process.
    pub(super) fn sum(&self, figure: impl Fn(&'a Process) -> Option<u64>) -> Option<u64> {
        self.members.iter().try_fold(0u64, |sum, process| sum.checked_add(figure(process)?))
    }

    /// The highest value of a figure in the group; `None` if it is unknown in one process.
    pub(super) fn max(&self, figure: impl Fn(&'a Process) -> Option<u64>) -> Option<u64> {
        self.members.iter().try_fold(0, |max: u64, process| Some(max.max(figure(process)?)))
    }

    /// The process whose counters can be a series: the only one of the group, unless it shuts down.
    pub(super) fn single(&self) -> Option<&'a Process> {
        match self.members[..] {
            [process] if self.worker != OLD => Some(process),
            _ => None,
        }
    }
}

fn labels(of: ProcessKind, worker: &str, more: &[(&'static str, &str)]) -> Labels {
    let own = [("kind", kind(of)), ("worker", worker)];
    own.iter().chain(more).map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// The name of a kind, as in JSON.
pub(super) fn kind(kind: ProcessKind) -> &'static str {
    match kind {
        ProcessKind::Master => "master",
        ProcessKind::Single => "single",
        ProcessKind::Worker => "worker",
        ProcessKind::PrivilegedAgent => "privileged_agent",
        ProcessKind::CacheManager => "cache_manager",
        ProcessKind::CacheLoader => "cache_loader",
        ProcessKind::Other => "other",
    }
}

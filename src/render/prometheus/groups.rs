//! Processes by their labels.
//!
//! A worker is known by its number, `worker`, which the one that replaces it takes over. During a
//! reload a worker that shuts down has the number of a new one: those are put together as
//! `worker="old"`, so a sum over `worker` has all memory, a new worker's series is its own, and there
//! is one series more however many reloads overlap. Of processes that are put together, gauges are
//! added up; counters are left out, since their sum would fall when one of them ends.
#![forbid(unsafe_code)]

use super::family::Labels;
use crate::report::model::{Kind, Process, State};

/// Processes with the same labels.
pub(super) struct Group<'a> {
    kind: Kind,
    worker: String,
    labels: Labels,
    members: Vec<&'a Process>,
}

/// What stands for the number of a worker that shuts down.
const OLD: &str = "old";

/// The processes by their labels, in the order of the reply.
pub(super) fn groups(processes: &[Process]) -> Vec<Group<'_>> {
    let newest = processes.iter().filter_map(|process| process.generation).max();
    let mut groups: Vec<Group> = Vec::new();
    for process in processes {
        let outdated = process.generation.is_some_and(|generation| Some(generation) != newest);
        let worker = match process.id {
            _ if process.state == State::ShuttingDown || outdated => OLD.to_owned(),
            Some(id) => id.to_string(),
            None => String::new(),
        };
        match groups.iter_mut().find(|g| g.kind == process.kind && g.worker == worker) {
            Some(group) => group.members.push(process),
            None => {
                let labels = labels(process.kind, &worker, &[]);
                groups.push(Group { kind: process.kind, worker, labels, members: vec![process] });
            }
        }
    }
    groups
}

impl<'a> Group<'a> {
    /// Its labels, with these added.
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

    /// A figure of all of them together, when each is known.
    pub(super) fn sum(&self, figure: impl Fn(&'a Process) -> Option<u64>) -> Option<u64> {
        self.members.iter().try_fold(0u64, |sum, process| sum.checked_add(figure(process)?))
    }

    /// The highest figure of any of them, when each is known.
    pub(super) fn max(&self, figure: impl Fn(&'a Process) -> Option<u64>) -> Option<u64> {
        self.members.iter().try_fold(0, |max: u64, process| Some(max.max(figure(process)?)))
    }

    /// The only process whose counters make a series: not one that shuts down, nor one of several.
    pub(super) fn single(&self) -> Option<&'a Process> {
        match self.members[..] {
            [process] if self.worker != OLD => Some(process),
            _ => None,
        }
    }
}

fn labels(of: Kind, worker: &str, more: &[(&'static str, &str)]) -> Labels {
    let own = [("kind", kind(of)), ("worker", worker)];
    own.iter().chain(more).map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// The name of a kind, as in JSON.
pub(super) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Master => "master",
        Kind::Single => "single",
        Kind::Worker => "worker",
        Kind::PrivilegedAgent => "privileged_agent",
        Kind::CacheManager => "cache_manager",
        Kind::CacheLoader => "cache_loader",
        Kind::Other => "other",
    }
}

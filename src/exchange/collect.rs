//! Collects the figures of all processes for a ticket.

use std::collections::{HashMap, HashSet};
use std::vec::IntoIter;

use super::peers::{self, Peer};
use super::reading::Zones;
use super::{Exchange, Local, Ticket};
use crate::budget::{Budget, Progress};
use crate::nginx::{process, zones};
use crate::probe::other_process::{self, title};
use crate::report::merge::sharing::Merged;
use crate::report::merge::zones::Reported;
use crate::report::model::sharing::Sharing;
use crate::report::model::{Note, Process, ProcessState, Published};
use crate::scoreboard::{Board, ReadError, Slot};
use crate::sys::status;

/// The figures of all processes.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// The processes.
    pub processes: Vec<Process>,
    /// The zones as the processes reported them.
    pub zones: Vec<Reported>,
    /// The pages that the processes share.
    pub merged: Merged,
}

impl Collected {
    fn add_sharing(&mut self, process: &Process, sharing: Option<&Sharing>) {
        if let Some(sharing) = sharing {
            self.merged.add(process.pid, process.generation, sharing);
        }
    }
}

/// The snapshots that other processes have published, by slot, with the time of publication. They are
/// read as they arrive, because reading all of them at once would take too long.
#[derive(Default)]
pub(super) struct Arrived(HashMap<usize, (u64, Option<Published>)>);

impl Arrived {
    /// Reads slots with a new snapshot until the budget is spent. Returns whether all were read.
    pub(super) fn take(&mut self, board: &Board, peers: &[Peer], budget: &Budget) -> bool {
        for Peer { index, .. } in peers {
            let Some(slot) = board.get(*index) else { continue };
            let Some(published_ms) = slot.published_ms() else { continue };
            if self.0.get(index).is_some_and(|(known_ms, _)| *known_ms == published_ms) {
                continue;
            }
            if budget.spent() {
                return false;
            }
            let published = slot.read().ok().filter(|(_, read_ms)| *read_ms == published_ms);
            self.0.insert(*index, (published_ms, published.map(|(published, _)| published)));
        }
        true
    }

    /// Removes and returns the newest snapshot of a slot, and when it was published.
    fn remove(&mut self, index: usize, slot: Slot) -> Result<(Published, u64), ReadError> {
        match self.0.remove(&index) {
            Some((at_ms, Some(published))) if Some(at_ms) == slot.published_ms() => {
                Ok((published, at_ms))
            }
            _ => slot.read(),
        }
    }
}

/// The figures for a ticket while they are being collected.
pub(super) struct Collecting {
    ticket: Ticket,
    now: u64,
    peers: IntoIter<Peer>,
    arrived: Arrived,
    /// The pids of processes that cannot answer themselves, once they are known.
    others: Option<IntoIter<i32>>,
    all: Collected,
}

impl Collecting {
    /// Returns the number of the ticket.
    pub(super) fn id(&self) -> usize {
        self.ticket.id
    }

    /// Returns the number of the ticket, and the figures for it.
    pub(super) fn finish(self) -> (usize, Collected) {
        (self.ticket.id, self.all)
    }
}

impl Exchange {
    /// Begins to collect the figures of all processes that are alive `now`, starting with this process.
    pub(super) fn collect(&self, ticket: Ticket, arrived: Arrived, now: u64) -> Collecting {
        let mut all = Collected::default();
        if let Some(local) = &self.local {
            all.processes.extend(own(local, &ticket, now));
            if let Some((taken, _)) = &local.own {
                all.add_sharing(&taken.process, taken.sharing.as_ref());
            }
            let zones = match &local.zones {
                Zones::Read(zones, at_ms) if *at_ms > 0 => zones.clone(),
                _ => zones::mappings().into_iter().map(|z| (z.name.clone(), z.unread())).collect(),
            };
            all.zones.push(Reported { generation: Some(self.generation), zones });
        }
        let peers = peers::live(&self.board, now).into_iter();
        Collecting { ticket, now, peers, arrived, others: None, all }
    }

    /// Continues with the peers, and then with the processes that cannot answer themselves, whose
    /// figures come from `/proc`, until the budget is spent.
    pub(super) fn collect_on(&self, collecting: &mut Collecting, budget: &Budget) -> Progress {
        let Collecting { ticket, now, peers, arrived, others, all } = collecting;
        for peer in peers {
            let published = self.board.get(peer.index).and_then(|slot| {
                let read = arrived.remove(peer.index, slot);
                from_slot(slot, read, peer.pid, ticket, *now)
            });
            if let Some(Published { process, zones, sharing }) = published {
                all.add_sharing(&process, sharing.as_ref());
                all.zones.push(Reported { generation: process.generation, zones });
                all.processes.push(process);
            }
            if budget.spent() {
                return Progress::More;
            }
        }
        let others = others.get_or_insert_with(|| {
            let others = others_than(&all.processes, peers::leaving(&self.board));
            // A master that does not take part is among them, and needs no waking.
            if others.iter().any(|pid| process::master() != Some(*pid)) {
                self.wake_those_without_slot();
            }
            others.into_iter()
        });
        for pid in others {
            let reason = "it has no slot in the shared zone";
            if let Some(master) = self.master_at_load(*now).filter(|master| master.pid == pid) {
                all.processes.push(master);
                continue;
            }
            all.processes.extend(from_proc(pid, ProcessState::Active, reason));
            if budget.spent() {
                return Progress::More;
            }
        }
        Progress::Done
    }
}

/// Returns the pids of the server's other processes: the master and its children, without those that
/// are known or leaving.
fn others_than(known: &[Process], leaving: impl Iterator<Item = i32>) -> Vec<i32> {
    let Some(master) = process::master() else { return Vec::new() };
    let known: HashSet<i32> = known.iter().map(|process| process.pid).chain(leaving).collect();
    let children = status::children(master).unwrap_or_else(process::siblings);
    [master].into_iter().chain(children).filter(|pid| !known.contains(pid)).collect()
}

/// Returns this process, with its last snapshot.
fn own(local: &Local, ticket: &Ticket, now: u64) -> Option<Process> {
    let (taken, at_ms) = local.own.as_ref()?;
    let mut process = taken.process.clone();
    process.age_ms = now.saturating_sub(*at_ms);
    if *at_ms < ticket.oldest_ms() {
        process.notes.push(Note::of(Note::ALL, MEASURING));
    }
    match local.zones {
        Zones::Read(_, at_ms) if at_ms >= ticket.oldest_ms() => {}
        Zones::Read(_, 0) | Zones::Reading(_) => {
            process.notes.push(Note::of(&["shared_zones"], READING));
        }
        Zones::Read(..) => process.notes.push(Note::of(&["shared_zones"], READ_BEFORE)),
    }
    Some(process)
}

const READING: &str = "they are still being read";
const READ_BEFORE: &str = "these are their last figures";
const MEASURING: &str = "a new measurement was not complete in time; these are the last ones";
const AWAY: &str = "the master is reading a configuration; these are its last ones";

/// Returns a process by its slot, or `None` if it has exited or is about to exit.
fn from_slot(
    slot: Slot,
    read: Result<(Published, u64), ReadError>,
    pid: i32,
    ticket: &Ticket,
    now: u64,
) -> Option<Published> {
    let noticed = slot.noticed_ms() >= ticket.asked_ms;
    let silent = if noticed { ProcessState::Active } else { ProcessState::Unresponsive };
    match read {
        Ok((mut published, published_ms)) if published.process.pid == pid => {
            let process = &mut published.process;
            process.age_ms = now.saturating_sub(published_ms);
            if published_ms >= ticket.oldest_ms() {
                return Some(published);
            }
            if slot.is_leaving() || status::of(pid).is_ok_and(|reading| reading.ended) {
                return None;
            }
            // These are its last figures, with its present state.
            let titled = title::read(pid).map_or(ProcessState::Active, |(_, state)| state);
            process.state = silent.max(titled);
            if slot.is_away() {
                process.state = titled;
                process.notes.push(Note::of(Note::ALL, AWAY));
            } else if noticed {
                process.notes.push(Note::of(Note::ALL, MEASURING));
            }
            Some(published)
        }
        Ok(_) => from_proc(pid, silent, "its snapshot is another process's").map(without_zones),
        Err(error) => from_proc(pid, silent, &error.to_string()).map(without_zones),
    }
}

fn without_zones(process: Process) -> Published {
    Published { process, zones: Vec::new(), sharing: None }
}

/// Returns a process with the figures in `/proc`, or `None` if it has exited or is not a child of this
/// server.
fn from_proc(pid: i32, state: ProcessState, reason: &str) -> Option<Process> {
    other_process::read(pid, state, reason, process::master(), zones::mappings)
}

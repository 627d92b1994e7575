//! Everybody's figures, as they are when a request is answered.

use super::peers::Peer;
use super::{Gather, Waiter};
use crate::nginx::process;
use crate::probe::{status, title};
use crate::report::model::{Kind, Process, State};
use crate::slot::Slot;

impl Gather {
    /// This process, `peers`, and those who cannot answer for themselves, by what `/proc` says.
    /// Why the shared memory is not counted goes into this process's notes.
    pub(super) fn collect(
        &self,
        peers: &[Peer],
        waiter: &Waiter,
        now: u64,
        uncounted: Option<&String>,
    ) -> Vec<Process> {
        let mut processes = Vec::with_capacity(peers.len() + 2);
        let own = self.local.as_ref().and_then(|local| local.own.as_ref());
        processes.extend(own.map(|(taken, at_ms)| {
            let mut process = taken.process.clone();
            process.age_ms = now.saturating_sub(*at_ms);
            if *at_ms < waiter.oldest_ms() {
                process.notes.push(MEASURING.to_owned());
            }
            process.notes.extend(uncounted.map(|why| format!("totals.shared_memory: {why}")));
            process
        }));
        let from_slots = peers.iter().filter_map(|peer| {
            let slot = self.board.get(peer.index)?;
            from_slot(slot, peer.pid, waiter, now)
        });
        processes.extend(from_slots);
        if let Some(master) = process::master() {
            let known = |pid: i32| processes.iter().any(|process| process.pid == pid);
            let mut unknown = vec![master];
            unknown.extend(
                status::children(master)
                    .unwrap_or_else(process::siblings)
                    .into_iter()
                    .filter(|pid| !known(*pid)),
            );
            let reason = "it has no slot in the shared zone";
            processes.extend(
                unknown.into_iter().filter_map(|pid| from_proc(pid, State::Active, reason)),
            );
        }
        processes
    }
}

const MEASURING: &str = "all figures: a new measurement is under way; these are the last ones";

/// A process by its slot. `None` when it is gone.
fn from_slot(slot: &Slot, pid: i32, waiter: &Waiter, now: u64) -> Option<Process> {
    let noticed = slot.noticed_ms() >= waiter.asked_ms;
    let silent = if noticed { State::Active } else { State::Unresponsive };
    match slot.read() {
        Ok((mut process, published_ms)) if process.pid == pid => {
            process.age_ms = now.saturating_sub(published_ms);
            if published_ms >= waiter.oldest_ms() {
                return Some(process);
            }
            if status::of(pid).is_ok_and(|reading| reading.ended) {
                return None;
            }
            if noticed {
                process.notes.push(MEASURING.to_owned());
            } else {
                process.state = State::Unresponsive;
            }
            Some(process)
        }
        Ok(_) => from_proc(pid, silent, "its snapshot is another process's"),
        Err(error) => from_proc(pid, silent, &error.to_string()),
    }
}

/// A process by what `/proc` says. `None` when it is gone, or no child of this server.
fn from_proc(pid: i32, state: State, reason: &str) -> Option<Process> {
    let is_master = process::master() == Some(pid);
    let (kind, titled_state) = title::read(pid);
    // A child with the master's title is one that is about to start, or a new binary's master.
    if (kind == Kind::Master) != is_master {
        return None;
    }
    let reason = if is_master { "the master runs no event loop to answer on" } else { reason };
    let mut notes = vec![format!(
        "generation, breakdown, allocator, pools, text, stacks, hooks, self: {reason}"
    )];
    let system = match status::of(pid) {
        Ok(reading) if reading.ended => return None,
        Ok(reading) if !is_master && Some(reading.parent) != process::master() => return None,
        Ok(reading) => reading.system,
        Err(_) if !process::exists(pid) => return None,
        Err(error) => {
            notes.push(format!("system: {error}"));
            Default::default()
        }
    };
    Some(Process {
        kind,
        id: None,
        pid,
        generation: None,
        state: state.max(titled_state),
        age_ms: 0,
        uptime_s: status::uptime_s(pid),
        system,
        breakdown: None,
        allocator: None,
        pools: None,
        text: None,
        stacks: None,
        hooks: None,
        own: None,
        notes,
    })
}

//! A process's place on the board: its slot, the wakers that it listens to, and waking others.

use super::Exchange;
use crate::nginx::process;
use crate::scoreboard::{Asker, Slot};
use crate::sys::life;

/// The number of wakers. If there are more processes, some share a waker and are woken together.
pub(super) const WAKERS: usize = 32;

/// The waker of processes without a slot. They are woken when there may be a slot to claim.
pub(super) const WITHOUT_SLOT: usize = WAKERS - 1;

/// How long a process without a slot waits before it tries to claim one again, in milliseconds.
const CLAIM_MS: u64 = 500;

impl Exchange {
    /// Claims a slot if this process has none: it may have lost its slot to a process that serves.
    /// With a new slot, the process asks itself for a snapshot, so that it is there before another
    /// process asks.
    pub(super) fn settle(&mut self, now: u64) {
        let pid = process::pid();
        let is_mine = self.slot().is_some_and(|slot| slot.is_of(pid));
        let Some(local) = self.local.as_mut().filter(|local| !is_mine && now >= local.claim_ms)
        else {
            return;
        };
        local.me = None;
        local.claim_ms = now.saturating_add(CLAIM_MS);
        let serves = !process::is_shutting_down();
        let Some(index) = self.board.claim(pid, serves, life::exists) else {
            self.listen(WITHOUT_SLOT);
            return;
        };
        if !self.listen(waker_of(index)) {
            if let Some(slot) = self.board.get(index) {
                slot.leave(pid, |_| {});
            }
            return;
        }
        if let Some(local) = &mut self.local {
            local.me = Some(index);
        }
        if let Some(slot) = self.slot() {
            slot.ask(Some(index), 0);
        }
        self.wake(index);
    }

    pub(super) fn has_slot(&self) -> bool {
        self.local.as_ref().is_some_and(|local| local.me.is_some())
    }

    /// Listens to a waker. Returns whether the process listens to it.
    pub(super) fn listen(&mut self, waker: usize) -> bool {
        let Some((local, to)) = self.local.as_mut().zip(self.wakers.get(waker)) else {
            return false;
        };
        let bit = 1u32.checked_shl(waker as u32).unwrap_or(0);
        if local.listens & bit == 0 && local.listener.listen(to, local.woken) {
            local.listens |= bit;
        }
        local.listens & bit != 0
    }

    /// Leaves the exchange: no process waits for this one any more, and its slot can be claimed.
    pub fn leave(&mut self) {
        if let Some(slot) = self.slot() {
            let mut askers = Vec::new();
            slot.leave(process::pid(), |asker| askers.push(asker));
            askers.into_iter().for_each(|asker| self.wake_asker(asker));
            self.wake_those_without_slot();
        }
        self.local = None;
    }

    /// Takes the pending wake-ups. [`Exchange::turn`] finds out what they are for.
    pub fn drain(&self) {
        if let Some(local) = &self.local {
            local.listener.drain();
        }
    }

    /// Returns this process's slot, if it has one. The slot may have been taken from it.
    pub(super) fn slot(&self) -> Option<Slot<'_>> {
        self.board.get(self.local.as_ref()?.me?)
    }

    /// Wakes the process in a slot.
    pub(super) fn wake(&self, index: usize) {
        if !self.wake_master(index) {
            self.ring(waker_of(index));
        }
    }

    /// Wakes the processes without a slot, because there may be one to claim.
    pub(super) fn wake_those_without_slot(&self) {
        self.ring(WITHOUT_SLOT);
    }

    pub(super) fn wake_asker(&self, asker: Asker) {
        match asker {
            Asker::Slot(index) => self.wake(index),
            Asker::WithoutSlot => self.wake_those_without_slot(),
        }
    }

    pub(super) fn ring(&self, waker: usize) {
        if let Some(waker) = self.wakers.get(waker) {
            waker.wake();
        }
    }
}

/// Returns the waker that the process in a slot listens to.
fn waker_of(index: usize) -> usize {
    index % WITHOUT_SLOT
}

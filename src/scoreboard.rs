//! The scoreboard: shared, versioned snapshots, with one slot for each process of the server.
//!
//! # Contents of the shared zone
//!
//! A [`Board`] is a list of owners, a [`Head`] for each slot, and a body for each slot. A process
//! claims a slot when it starts, by an atomic exchange of the slot's owner, and writes only that
//! slot; all processes read all slots. Nothing is ever locked, so a process that dies in the middle
//! of a write does not block the others, and another process can claim its slot.
//!
//! The three parts are separate so that address space that no process needs is never touched: the
//! search for owners reads four bytes a slot, and only slots with an owner are read further.
//!
//! # Invariants for `unsafe`
//!
//! - **B1** A `Board` is made from memory that is mapped readable and writable for the life of the
//!   process, is aligned to 64 bytes, and is at least [`Board::bytes`] of its capacity long.
//! - **B2** Every field of a head, every owner and every word of a body is an atomic for which
//!   every bit pattern is valid.

mod slot;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI32, Ordering};

pub use slot::{Asker, PublishError, ReadError, Slot, BODY_SIZE};
use slot::{Head, SlotBody, LEAVING, SHUTTING_DOWN};

/// The maximum number of slots: the most processes that nginx has (`NGX_MAX_PROCESSES`).
pub const MAX_SLOTS: usize = 1024;

const PAGE: usize = 4096;

/// All slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Board {
    memory: *const u8,
    capacity: usize,
}

// SAFETY: the memory stays mapped, and all of it is atomics (B1, B2).
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// The size in bytes of a board of `capacity` slots.
    pub const fn bytes(capacity: usize) -> usize {
        Board::bodies(capacity) + capacity * BODY_SIZE
    }

    /// The offset of the heads in bytes: the owners' pids come first.
    const fn heads(capacity: usize) -> usize {
        (capacity * std::mem::size_of::<AtomicI32>()).next_multiple_of(64)
    }

    /// The offset of the bodies in bytes: they start on a new page.
    const fn bodies(capacity: usize) -> usize {
        (Board::heads(capacity) + capacity * std::mem::size_of::<Head>()).next_multiple_of(PAGE)
    }

    /// Makes a board from raw memory.
    ///
    /// # Safety
    ///
    /// The memory satisfies invariant B1 for `capacity` slots.
    pub unsafe fn from_raw(memory: *mut u8, capacity: usize) -> Self {
        Board { memory, capacity: capacity.min(MAX_SLOTS) }
    }

    /// The number of slots.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The owners' pids; 0 for a slot without an owner.
    fn pids(&self) -> &[AtomicI32] {
        // SAFETY: the memory stays mapped (B1), and any content is valid (B2).
        unsafe { std::slice::from_raw_parts(self.memory.cast(), self.capacity) }
    }

    /// A slot by its index.
    pub fn get(&self, index: usize) -> Option<Slot<'_>> {
        let pid = self.pids().get(index)?;
        // SAFETY: `index` is below the capacity, so head and body are in the mapped memory and
        // aligned (B1), and any content is valid (B2).
        unsafe {
            let heads: *const Head = self.memory.add(Board::heads(self.capacity)).cast();
            let bodies: *const SlotBody = self.memory.add(Board::bodies(self.capacity)).cast();
            Some(Slot::new(pid, &*heads.add(index), &*bodies.add(index)))
        }
    }

    /// The slots that have an owner, each with its index and the owner's pid.
    pub fn owned(&self) -> impl Iterator<Item = (usize, i32, Slot<'_>)> {
        // Most slots are free, and every turn of an answer looks through all of them.
        let owners = self.pids().iter().enumerate();
        let owners = owners.filter(|(_, pid)| pid.load(Ordering::Relaxed) > 0);
        owners.filter_map(|(index, pid)| {
            let pid = Some(pid.load(Ordering::Acquire)).filter(|pid| *pid > 0)?;
            Some((index, pid, self.get(index)?))
        })
    }

    /// A number that changes when a process claims a slot or leaves its own.
    pub fn membership(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.owned().filter(|(.., slot)| !slot.is_leaving()).for_each(|(index, pid, _)| {
            (index, pid).hash(&mut hasher);
        });
        hasher.finish()
    }

    /// Claims a slot for a process: one whose owner is dead, else a free one, else one whose owner
    /// is about to end. A process that serves may also take the slot of an owner that shuts down,
    /// which then has no slot. Returns the index, or `None` if there is no such slot.
    pub fn claim(&self, pid: i32, serves: bool, is_alive: impl Fn(i32) -> bool) -> Option<usize> {
        let last = if serves { SHUTTING_DOWN } else { LEAVING };
        let take_from = |is_free: &dyn Fn(i32, Slot) -> bool| {
            let mut owned = self.owned();
            let taken =
                owned.find(|(_, owner, slot)| is_free(*owner, *slot) && slot.take(*owner, pid));
            taken.map(|(index, ..)| index)
        };
        let free = || {
            let mut free = self.pids().iter().enumerate();
            let is_taken = |index| self.get(index).is_some_and(|slot| slot.take(0, pid));
            free.find(|(index, owner)| owner.load(Ordering::Relaxed) == 0 && is_taken(*index))
        };
        take_from(&|owner, _| owner == pid || !is_alive(owner))
            .or_else(|| free().map(|(index, _)| index))
            .or_else(|| {
                let mut phases = (last..=LEAVING).rev();
                phases.find_map(|wanted| take_from(&|_, slot| slot.phase() == wanted))
            })
    }
}

#[cfg(test)]
mod tests;

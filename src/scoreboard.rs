//! The shared, versioned snapshots: one slot for each process of the server.
//!
//! # What lies in the shared zone
//!
//! A [`Board`] is a list of owners, a [`Head`] for each slot, and a body for each slot. A process
//! claims a slot when it starts, by an atomic exchange of its owner, and writes that one only;
//! everybody reads all. Nothing is ever locked, so a process that dies in the middle of a write holds
//! nobody up, and its slot is the next one's to claim.
//!
//! The three are apart so that address space which no process needs is never touched: looking for
//! owners reads four bytes a slot, and only slots that have one are read further.
//!
//! # Invariants for `unsafe`
//!
//! - **B1** A `Board` is made from memory that is mapped readable and writable for the life of the
//!   process, aligned to 64 bytes, and at least [`Board::bytes`] of its capacity long.
//! - **B2** Every field of a head, every owner and every word of a body is an atomic, and every bit
//!   pattern is valid for it.

mod slot;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI32, Ordering};

pub use slot::{Asker, PublishError, ReadError, Slot, BODY_SIZE};
use slot::{Body, Head, LEAVING, SHUTTING_DOWN};

/// The most processes nginx has (`NGX_MAX_PROCESSES`).
pub const MAX_SLOTS: usize = 1024;

const PAGE: usize = 4096;

/// All slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Board {
    memory: *const u8,
    capacity: usize,
}

// SAFETY: B1, B2: what it points to is shared, and all of it atomics.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// The bytes a board of `capacity` slots takes.
    pub const fn bytes(capacity: usize) -> usize {
        Board::bodies(capacity) + capacity * BODY_SIZE
    }

    /// Where the heads begin: the owners' pids come first.
    const fn heads(capacity: usize) -> usize {
        (capacity * std::mem::size_of::<AtomicI32>()).next_multiple_of(64)
    }

    /// Where the bodies begin: on a page of their own.
    const fn bodies(capacity: usize) -> usize {
        (Board::heads(capacity) + capacity * std::mem::size_of::<Head>()).next_multiple_of(PAGE)
    }

    /// A board over raw memory.
    ///
    /// # Safety
    ///
    /// The memory holds invariant B1 for `capacity` slots.
    pub unsafe fn from_raw(memory: *mut u8, capacity: usize) -> Self {
        Board { memory, capacity: capacity.min(MAX_SLOTS) }
    }

    /// How many slots there are.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The owners' pids, 0 where there is none.
    fn pids(&self) -> &[AtomicI32] {
        // SAFETY: B1 gives the memory and its life, B2 the validity of what is in it.
        unsafe { std::slice::from_raw_parts(self.memory.cast(), self.capacity) }
    }

    /// A slot by its index.
    pub fn get(&self, index: usize) -> Option<Slot<'_>> {
        let pid = self.pids().get(index)?;
        // SAFETY: B1: `index` is below the capacity, so head and body lie in the memory, each at a
        // multiple of its alignment; B2.
        unsafe {
            let heads: *const Head = self.memory.add(Board::heads(self.capacity)).cast();
            let bodies: *const Body = self.memory.add(Board::bodies(self.capacity)).cast();
            Some(Slot::new(pid, &*heads.add(index), &*bodies.add(index)))
        }
    }

    /// The slots that have an owner, each with its index and the owner's pid.
    pub fn owned(&self) -> impl Iterator<Item = (usize, i32, Slot<'_>)> {
        let owners = self.pids().iter().enumerate();
        let owners = owners.map(|(index, pid)| (index, pid.load(Ordering::Acquire)));
        owners.filter_map(|(index, pid)| Some((index, pid, self.get(index).filter(|_| pid > 0)?)))
    }

    /// A number that is another one once a process has claimed a slot or left its own.
    pub fn membership(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.owned().filter(|(.., slot)| !slot.is_leaving()).for_each(|(index, pid, _)| {
            (index, pid).hash(&mut hasher);
        });
        hasher.finish()
    }

    /// Claims a slot for a process: one whose owner is dead, else a free one, else one whose owner is
    /// about to end; for a process that serves also one whose owner shuts down, which is then without
    /// one. `None` when there is none of these.
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

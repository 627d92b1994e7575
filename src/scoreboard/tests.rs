//! Invariants for `unsafe`: those of [`super`].

use std::thread;

use super::*;
use crate::report::model::{Process, Published};
use crate::report::sample;

/// A board in its own memory.
pub(super) struct Memory(pub Vec<u64>, usize);

impl Memory {
    pub fn new(capacity: usize) -> Self {
        let memory = vec![0u64; (Board::bytes(capacity) + 64) / 8];
        Memory(memory, capacity)
    }

    pub fn board(&mut self) -> Board {
        let start = self.0.as_mut_ptr().cast::<u8>();
        let offset = start.align_offset(64);
        // SAFETY: the memory has 64 bytes more than the board needs, for its alignment, and the
        // tests drop the board before the memory (B1).
        unsafe { Board::from_raw(start.add(offset), self.1) }
    }
}

pub(super) fn process(pid: i32) -> Published {
    let process = Process { pid, ..sample::bare() };
    Published { process, zones: Vec::new(), sharing: None }
}

#[test]
fn claims_the_slots_of_the_dead_first() {
    let mut memory = Memory::new(3);
    let board = memory.board();
    let claim = |pid, serves| board.claim(pid, serves, |pid| pid != 2);
    assert_eq!(claim(1, true), Some(0));
    assert_eq!(claim(2, true), Some(1));
    assert_eq!(claim(3, true), Some(1));
    assert_eq!(claim(1, true), Some(0), "again, as after a reload of a single process");
    assert_eq!(claim(4, true), Some(2));
    assert_eq!(claim(5, true), None);
    board.get(2).unwrap().take_wants(1, true);
    assert_eq!(claim(5, false), None);
    assert_eq!(claim(5, true), Some(2), "one that shuts down makes room");
    assert_eq!(claim(6, true), None, "nobody makes room for two");
    let nobody = |_| panic!("nobody waits");
    board.get(0).unwrap().leave(7, nobody);
    assert_eq!(claim(6, true), None, "somebody else's slot cannot be left");
    board.get(0).unwrap().leave(1, nobody);
    assert_eq!(claim(6, false), Some(0));
    assert!(!board.get(0).unwrap().is_leaving());
}

#[test]
fn who_leaves_wakes_those_who_wait() {
    let mut memory = Memory::new(2);
    let board = memory.board();
    assert_eq!(board.claim(1, true, |_| true), Some(0));
    let slot = board.get(0).unwrap();
    slot.ask(Some(1), 0);
    slot.ask(None, 0);
    let mut woken = Vec::new();
    slot.leave(1, |asker| woken.push(asker));
    assert_eq!(woken, [Asker::WithoutSlot, Asker::Slot(1)]);
    assert!(slot.is_leaving());
    assert!(slot.is_of(1), "it is still known who leaves");
}

#[test]
fn only_slots_with_an_owner_are_touched() {
    let mut memory = Memory::new(MAX_SLOTS);
    let board = memory.board();
    assert_eq!(board.claim(1, true, |_| true), Some(0));
    assert_eq!(board.owned().map(|(index, pid, _)| (index, pid)).collect::<Vec<_>>(), [(0, 1)]);
    assert!(board.get(MAX_SLOTS - 1).is_some() && board.get(MAX_SLOTS).is_none());
    assert_eq!(Board::bytes(512) - 512 * BODY_SIZE, 512 * (4 + 192) / PAGE * PAGE + PAGE);
}

#[test]
fn a_slot_is_claimed_by_one_process_only() {
    for _ in 0..if cfg!(miri) { 2 } else { 200 } {
        let mut memory = Memory::new(4);
        let board = memory.board();
        let claims: Vec<_> = thread::scope(|scope| {
            let claim = |pid| {
                let board = &board;
                scope.spawn(move || board.claim(pid, true, |_| true))
            };
            let threads: Vec<_> = (1..=6).map(claim).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut claimed: Vec<_> = claims.into_iter().flatten().collect();
        claimed.sort();
        assert_eq!(claimed, [0, 1, 2, 3]);
    }
}

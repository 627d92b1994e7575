use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;
use crate::report::model::Process;
use crate::report::sample;

/// A board in memory of its own, freed with it.
struct Memory(Vec<u64>, usize);

impl Memory {
    fn new(capacity: usize) -> Self {
        let memory = vec![0u64; (Board::bytes(capacity) + 64) / 8];
        Memory(memory, capacity)
    }

    fn board(&mut self) -> Board {
        let start = self.0.as_mut_ptr().cast::<u8>();
        let offset = start.align_offset(64);
        // SAFETY: B1: there are 64 bytes more than the slots take, and the tests end first.
        unsafe { Board::from_raw(start.add(offset), self.1) }
    }
}

fn process(pid: i32) -> Published {
    let process = Process { pid, ..sample::bare() };
    Published { process, zones: Vec::new(), sharing: None }
}

#[test]
fn carries_a_snapshot() {
    let mut memory = Memory::new(2);
    let board = memory.board();
    let slot = board.get(1).unwrap();
    assert_eq!(slot.read(), Err(ReadError::Empty));
    assert!(slot.take(0, 7));
    assert_eq!((slot.pid(), slot.read()), (Some(7), Err(ReadError::Empty)));
    slot.publish(&process(7), 5).unwrap();
    assert_eq!(slot.read(), Ok((process(7), 5)));
    assert!(!slot.take(8, 9) && slot.take(7, 9));
    assert_eq!(slot.read(), Err(ReadError::Empty), "what the last owner left is gone");
    assert!(board.get(2).is_none());
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

#[test]
fn takes_what_was_asked_for_once() {
    let mut memory = Memory::new(1);
    let board = memory.board();
    let slot = board.get(0).unwrap();
    slot.ask(Some(3), 0);
    slot.ask(Some(130), 1);
    slot.ask(None, 2);
    slot.ask(Some(MAX_SLOTS), 0);
    let taken = || {
        let mut askers = Vec::new();
        slot.take_askers(|asker| askers.push(asker));
        (slot.take_wants(1, false), askers)
    };
    let askers = vec![Asker::WithoutSlot, Asker::Slot(3), Asker::Slot(130)];
    assert_eq!(taken(), (3, askers));
    assert_eq!(taken(), (0, vec![]));
}

#[test]
fn a_writer_that_dies_leaves_a_torn_slot_to_its_successor() {
    let mut memory = Memory::new(1);
    let board = memory.board();
    let slot = board.get(0).unwrap();
    assert!(slot.take(0, 1));
    slot.publish(&process(1), 1).unwrap();
    slot.head.version.fetch_add(1, Ordering::Relaxed);
    assert_eq!(slot.read(), Err(ReadError::Torn));
    assert!(slot.take(1, 2));
    slot.publish(&process(2), 2).unwrap();
    assert_eq!(slot.read(), Ok((process(2), 2)));
}

#[test]
fn foreign_bytes_are_damage() {
    let mut random = sample::Random::new(5);
    for _ in 0..200 {
        let mut memory = Memory::new(1);
        for word in &mut memory.0 {
            *word = random.bits();
        }
        let board = memory.board();
        let slot = board.get(0).unwrap();
        slot.head.version.store(2, Ordering::Relaxed);
        slot.head.length.store(random.below(BODY_SIZE as u64 * 2), Ordering::Relaxed);
        slot.head.published_ms.store(1, Ordering::Relaxed);
        assert_eq!(slot.read(), Err(ReadError::Damaged));
    }
}

#[test]
fn too_large_a_snapshot_is_refused_and_the_last_one_stays() {
    let mut memory = Memory::new(1);
    let board = memory.board();
    let slot = board.get(0).unwrap();
    slot.publish(&process(1), 1).unwrap();
    let mut large = process(1);
    large.process.notes = vec!["x".repeat(BODY_SIZE)];
    assert_eq!(slot.publish(&large, 2), Err(PublishError::TooLarge));
    assert_eq!(slot.read(), Ok((process(1), 1)));
}

/// A writer that never rests, and readers: every snapshot read is one that was written, whole.
#[test]
fn nothing_torn_is_read() {
    let mut memory = Memory::new(1);
    let board = memory.board();
    let slot = board.get(0).unwrap();
    assert!(slot.take(0, 1));
    let writes = if cfg!(miri) { 20 } else { 20_000 };
    let done = AtomicBool::new(false);
    let whole = |process: &Process| {
        let note = process.pid.to_string().repeat(process.pid as usize % 50);
        process.notes == [note] && process.uptime_s == Some(process.pid as u64)
    };
    thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut read = 0;
                while !done.load(Ordering::Relaxed) {
                    match slot.read() {
                        Ok((Published { process, .. }, _)) => {
                            assert!(whole(&process), "{process:?}");
                            read += 1;
                        }
                        Err(error) => assert_ne!(error, ReadError::Damaged),
                    }
                }
                read
            })
        });
        for pid in 1..writes {
            let mut published = process(pid);
            published.process.uptime_s = Some(pid as u64);
            published.process.notes = vec![pid.to_string().repeat(pid as usize % 50)];
            slot.publish(&published, pid as u64).unwrap();
            if pid % 16 == 0 {
                thread::yield_now();
            }
        }
        // Whoever has not read yet reads the last one.
        thread::sleep(std::time::Duration::from_millis(20));
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}

use std::sync::atomic::AtomicBool;
use std::thread;

use super::super::tests::{process, Memory};
use super::*;
use crate::report::model::{Note, Process};
use crate::report::sample;

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
    large.process.notes = vec![Note::new("x".repeat(BODY_SIZE))];
    assert_eq!(slot.publish(&large, 2), Err(PublishError::TooLarge));
    assert_eq!(slot.read(), Ok((process(1), 1)));
}

/// While a writer writes without pause, readers read only whole snapshots that were written.
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
        process.notes == [Note::new(note)] && process.uptime_s == Some(process.pid as u64)
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
            published.process.notes = vec![Note::new(pid.to_string().repeat(pid as usize % 50))];
            slot.publish(&published, pid as u64).unwrap();
            if pid % 16 == 0 {
                thread::yield_now();
            }
        }
        // A reader that has not read yet reads the last snapshot.
        thread::sleep(std::time::Duration::from_millis(20));
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}

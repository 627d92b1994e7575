//! Tests of the encoding of a process in shared memory, which is postcard.
#![forbid(unsafe_code)]

use super::model::{Note, Process};
use super::sample::{bare, full, Random};
use crate::report::model::ProcessKind;

fn travels(process: &Process) -> Vec<u8> {
    let bytes = postcard::to_stdvec(process).unwrap();
    let (back, rest) = postcard::take_from_bytes::<Process>(&bytes).unwrap();
    assert_eq!(back, *process);
    assert!(rest.is_empty());
    bytes
}

#[test]
fn identical() {
    travels(&bare());
    travels(&full(ProcessKind::Worker, Some(0), 11));
    let mut random = Random::new(3);
    for _ in 0..5_000 {
        travels(&random.process());
    }
}

/// A truncated snapshot is refused, wherever it ends.
#[test]
fn truncated() {
    let bytes = travels(&full(ProcessKind::Worker, Some(0), 11));
    for end in 0..bytes.len() {
        assert!(postcard::from_bytes::<Process>(&bytes[..end]).is_err(), "{end}");
    }
}

/// Damaged bytes decode to a process or to an error. A process is no larger than the bytes allow,
/// whatever lengths they claim: an element takes at least one byte.
#[test]
fn damaged() {
    let mut random = Random::new(4);
    let whole = travels(&full(ProcessKind::Worker, Some(0), 11));
    for round in 0..50_000 {
        let bytes: Vec<u8> = if round % 2 == 0 {
            (0..random.below(200)).map(|_| random.bits() as u8).collect()
        } else {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.bits() as u8;
            }
            bytes
        };
        if let Ok(process) = postcard::from_bytes::<Process>(&bytes) {
            assert!(elements(&process) <= bytes.len(), "{process:?}");
        }
    }
}

/// Lengths of 2^63 and the like in front of each sequence and string are refused at once.
#[test]
fn claimed_lengths() {
    let whole = travels(&full(ProcessKind::Worker, Some(0), 11));
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for at in 0..whole.len() {
        let mut bytes = whole[..at].to_vec();
        bytes.extend(huge);
        bytes.extend(&whole[at..]);
        if let Ok(process) = postcard::from_bytes::<Process>(&bytes) {
            assert!(elements(&process) <= bytes.len(), "{process:?}");
        }
    }
}

/// The number of bytes and elements of a note's texts.
fn note_bytes(note: &Note) -> usize {
    note.reason.len() + note.fields.iter().map(|field| 1 + field.len()).sum::<usize>()
}

/// The number of bytes and elements of all parts that have a length.
fn elements(process: &Process) -> usize {
    let notes: usize = process.notes.iter().map(|note| 2 + note_bytes(note)).sum();
    let entries = process.breakdown.as_ref().map_or(0, |b| b.0.len());
    let objects = process
        .text
        .as_ref()
        .map_or(0, |text| text.objects.iter().map(|object| 1 + object.path.len()).sum());
    let zones: usize =
        process.zones.as_ref().map_or(0, |z| z.0.iter().map(|(name, _)| 1 + name.len()).sum());
    let lua = process.lua.as_ref().map_or(0, Vec::len);
    notes + entries + objects + zones + lua
}

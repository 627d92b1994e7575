#![forbid(unsafe_code)]

use super::*;
use crate::sys::memory::{Record, RECORD};

/// Memory at artificial addresses.
pub(crate) struct Fake {
    bytes: Vec<u8>,
}

impl Fake {
    const BASE: usize = 1 << 40;

    pub(crate) fn new(size: usize) -> Self {
        Fake { bytes: vec![0; size] }
    }

    pub(crate) fn base(&self) -> usize {
        Self::BASE
    }

    pub(crate) fn set(&mut self, at: usize, value: usize) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
}

impl Memory for Fake {
    fn read(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        let start = at.wrapping_sub(Self::BASE);
        let bytes = self.bytes.get(start..start.saturating_add(into.len()));
        into.copy_from_slice(bytes.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?);
        Ok(())
    }

    fn read_each(&self, at: &[usize], into: &mut [Record]) -> io::Result<usize> {
        let mut both = at.iter().zip(into);
        Ok(both
            .position(|(at, record)| self.read(*at, &mut record[..RECORD]).is_err())
            .unwrap_or(at.len()))
    }
}

const STATE_CHUNK: usize = 880;

/// A heap with two segments of four pages: the older one at page 0 with the state, two blocks and a
/// hole; the newer one at page 8 with one block, a tree of two free chunks, and the top chunk.
fn heap() -> (Fake, usize) {
    let page = page_size();
    let mut fake = Fake::new(16 * page);
    let base = fake.base();
    let mut chunk = |at: usize, size: usize, bits: usize| fake.set(at + 8, size | bits);
    let record = 4 * page - 64 + 16;
    let mut at = 0;
    for (size, bits) in [(STATE_CHUNK, 3), (64, 3), (128, 1), (256, 2)] {
        chunk(at, size, bits);
        at += size;
    }
    // The rest is free.
    chunk(at, record - 16 - at, 1);
    let old_rest = record - 16 - at;
    chunk(record - 16, 32, 2);
    let newer = 8 * page;
    let top = newer + 4096 + 64 + 2048;
    chunk(newer, 4096, 3);
    chunk(newer + 4096, 64, 1);
    chunk(newer + 4096 + 64, 2048, 2);
    let top_size = newer + 4 * page - TOP_FOOT - top;
    chunk(top, top_size, 1);

    let state = HEADER;
    fake.set(state, (1 << 8 | 1 << 16) | (1 << 9) << 32);
    fake.set(state + TOPSIZE, top_size);
    fake.set(state + TOP, base + top);
    fake.set(state + TRIM_CHECK, TRIM_THRESHOLD);
    // The root of the tree is the smaller chunk; the larger one is its left child.
    let root = STATE_CHUNK + 64;
    fake.set(state + TREEBINS + 8 * 9, base + root);
    fake.set(root + 32, base + at);
    for (i, field) in [base + newer, 4 * page, base + record].into_iter().enumerate() {
        fake.set(state + SEGMENT + 8 * i, field);
    }
    for (i, field) in [base, 4 * page, 0].into_iter().enumerate() {
        fake.set(record + 8 * i, field);
    }
    assert!(old_rest > top_size);
    (fake, base + state)
}

#[test]
fn reads_and_verifies() {
    let (fake, state) = heap();
    let page = page_size();
    let base = fake.base();
    let heap = Footprint::read(&fake, state, 10).unwrap();
    assert_eq!(heap.segments, [base + 8 * page..base + 12 * page, base..base + 4 * page]);
    assert_eq!(heap.segment_bytes(), 8 * page as u64);
    assert_eq!(heap.fixed, (STATE_CHUNK + 64 + 64) as u64);
    let used = 64 + 256 + 4096 + 2048;
    let free = 8 * page as u64 - heap.fixed - used;
    let largest = (4 * page - 64 - STATE_CHUNK - 64 - 128 - 256) as u64;
    assert_eq!(heap.largest_free, largest);
    let walk = ChunkWalk { blocks: 4, used, free, largest, holding: 0 };
    assert_eq!(heap.verify(&fake, 0).unwrap(), walk);
    // The second block of the newer segment; the chunk behind it is free.
    let block = base + 8 * page + 4096 + 64;
    for (address, holding) in
        [(block - 1, 0), (block, 2048), (block + 2047, 2048), (block + 2048, 0)]
    {
        assert_eq!(heap.verify(&fake, address).unwrap(), ChunkWalk { holding, ..walk });
    }
}

/// Checks that the top chunk may consist of its head only.
#[test]
fn smallest_top() {
    let (mut fake, state) = heap();
    let end = 12 * page_size() - TOP_FOOT;
    let (at, top) = (state - fake.base(), end - 8);
    let block = 8 * page_size() + 4096 + 64;
    fake.set(block + 8, (top - block) | 2);
    fake.set(top + 8, 8 | 1);
    fake.set(at + TOP, fake.base() + top);
    fake.set(at + TOPSIZE, 8);
    let heap = Footprint::read(&fake, state, 10).unwrap();
    assert_eq!(heap.verify(&fake, 0).unwrap().blocks, 4);
}

#[test]
fn too_many_segments() {
    let (fake, state) = heap();
    assert_eq!(Footprint::read(&fake, state, 1), Err(Unreadable::TooMany));
}

/// Checks that a wrong word either gets the heap rejected or leaves the figures unchanged.
#[test]
fn another_layout() {
    let page = page_size();
    let (fake, state) = heap();
    let whole = Footprint::read(&fake, state, 10).unwrap();
    let at = state - fake.base();
    for (offset, value) in [
        (at - 8, 880),
        (at - 8, 4096 | 3),
        (at + TRIM_CHECK, 1),
        (at + TOP, 8),
        (at + TOPSIZE, 64),
        (at + SEGMENT, fake.base() + 8),
        (at + SEGMENT + 8, 0),
        (at + SEGMENT + 8, usize::MAX),
        (at + SEGMENT + 16, fake.base() + 3 * page),
        (at + SEGMENT + 16, 8),
        (at + TREEBINS + 72, 8),
    ] {
        let (mut fake, state) = heap();
        fake.set(offset, value);
        assert!(Footprint::read(&fake, state, 10).is_err(), "{offset} {value}");
    }
    assert!(Footprint::read(&fake, state + 8, 10).is_err());
    assert!(Footprint::read(&fake, 0, 10).is_err());
    // A chunk that is too long, one that is too short, and a free one larger than all known ones.
    for (offset, value) in
        [(888, 1 << 30 | 3), (888, 24 | 3), (888, 72 | 3), (at + TREEBINS + 72, 0)]
    {
        let (mut fake, state) = heap();
        fake.set(offset, value);
        let found = Footprint::read(&fake, state, 10).and_then(|heap| heap.verify(&fake, 0));
        assert_eq!(found, Err(Unreadable::Layout), "{offset} {value}");
    }
    assert!(whole.verify(&fake, 0).is_ok());
}

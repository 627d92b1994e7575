//! Tests the walk on an artificial heap, which changes between two steps as malloc would change it.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::*;
use crate::abi::glibc::{BACKWARD, FORWARD, MIN_CHUNK};
use crate::report::sample::Random;
use crate::sys::memory::Record;

const START: usize = 0x1000_0000;
const SIZE: usize = 8 << 20;
/// The addresses of the list heads: one for each free chunk.
const HEADS: usize = 0x9000_0000_0000;

/// The words in memory, including stale ones, and the chunks that malloc knows.
struct Heap {
    words: BTreeMap<usize, usize>,
    /// Size of each chunk, and whether it is free; the last one is the top chunk.
    chunks: BTreeMap<usize, (usize, bool)>,
    /// The number of bytes that were allocated or freed.
    changed: usize,
    random: Random,
}

impl Memory for Heap {
    fn read(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        let inside = (START..START + SIZE).contains(&at) && at + into.len() <= START + SIZE;
        if !inside && at < HEADS {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        into.fill(0);
        for (word, value) in self.words.range(at..at + into.len()) {
            into[word - at..][..8].copy_from_slice(&value.to_ne_bytes());
        }
        Ok(())
    }

    fn read_each(&self, _: &[usize], _: &mut [Record]) -> io::Result<usize> {
        Ok(0)
    }
}

/// Like [`Heap`], but reads all memory between headers together with them.
struct Bulk<'a>(&'a Heap);

impl Memory for Bulk<'_> {
    const BULK: usize = 8192;

    fn read(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        self.0.read(at, into)
    }

    fn read_each(&self, at: &[usize], into: &mut [Record]) -> io::Result<usize> {
        self.0.read_each(at, into)
    }
}

impl Heap {
    /// Makes a heap of chunks of up to `most` bytes; every second one is free.
    fn new(seed: u64, most: usize) -> Heap {
        let (words, chunks) = (BTreeMap::new(), BTreeMap::new());
        let mut heap = Heap { words, chunks, changed: 0, random: Random::new(seed) };
        let mut at = START;
        while at < START + SIZE * 3 / 4 {
            let size = heap.size(most);
            let is_free = heap.chunks.len() % 2 == 1;
            heap.chunks.insert(at, (size, is_free));
            at += size;
        }
        heap.chunks.insert(at, (START + SIZE - at, true));
        let all: Vec<usize> = heap.chunks.keys().copied().collect();
        all.into_iter().for_each(|at| heap.write(at));
        heap
    }

    fn below(&mut self, most: usize) -> usize {
        self.random.below(most as u64) as usize
    }

    fn size(&mut self, most: usize) -> usize {
        (MIN_CHUNK + self.below(most)).next_multiple_of(ALIGNMENT)
    }

    fn top(&self) -> usize {
        self.chunks.last_key_value().map_or(0, |(at, _)| *at)
    }

    fn free(&self) -> usize {
        self.chunks.values().filter(|(_, free)| *free).map(|(size, _)| size).sum()
    }

    fn extent(&self) -> Extent {
        let parts = std::iter::once(START..START + SIZE).collect();
        Extent { parts, top: self.top() }
    }

    /// Writes the words that malloc has in front of, inside and behind a chunk.
    fn write(&mut self, at: usize) {
        let (size, free) = self.chunks[&at];
        let before = self.chunks.range(..at).next_back().is_none_or(|(_, (_, free))| !free);
        self.words.insert(at + 8, size | usize::from(before));
        let next = at + size;
        if at == self.top() {
            return;
        }
        if let Some(word) = self.words.get_mut(&(next + 8)) {
            *word = *word & !1 | usize::from(!free);
        }
        let head = HEADS + (at - START) * 2;
        if free {
            self.words.insert(next, size);
            self.words.extend([(at + FORWARD, head), (at + BACKWARD, head)]);
            self.words.extend([(head + FORWARD, at), (head + BACKWARD, at)]);
        } else {
            self.words.remove(&(head + FORWARD));
            self.words.remove(&(head + BACKWARD));
        }
    }

    fn unlink(&mut self, at: usize) {
        let head = HEADS + (at - START) * 2;
        self.words.remove(&(head + FORWARD));
        self.words.remove(&(head + BACKWARD));
    }

    /// Frees a chunk: it is merged with its neighbours, whose headers stay in memory.
    fn give(&mut self, mut at: usize) {
        let (mut size, free) = self.chunks[&at];
        if free {
            return;
        }
        self.changed += size;
        if let Some((next, (more, true))) =
            self.chunks.range(at + 1..).next().map(|(a, c)| (*a, *c))
        {
            self.unlink(next);
            self.chunks.remove(&next);
            size += more;
        }
        if let Some((last, (more, true))) =
            self.chunks.range(..at).next_back().map(|(a, c)| (*a, *c))
        {
            self.unlink(last);
            self.chunks.remove(&at);
            (at, size) = (last, size + more);
        }
        self.chunks.insert(at, (size, true));
        self.write(at);
    }

    /// Allocates from a free chunk, and fills the allocated memory with garbage.
    fn take(&mut self, at: usize, wanted: usize) {
        let (size, free) = self.chunks[&at];
        if !free || size < wanted + MIN_CHUNK {
            return;
        }
        self.unlink(at);
        self.changed += wanted;
        self.chunks.insert(at, (wanted, false));
        self.chunks.insert(at + wanted, (size - wanted, true));
        self.write(at);
        self.write(at + wanted);
        for _ in 0..2 {
            let word = at + 16 + self.below(wanted - 16) / 8 * 8;
            let value = [usize::MAX, 0, 33, 4096, START][self.below(5)];
            self.words.insert(word, value);
        }
    }

    /// Does what a program does between two steps.
    fn work(&mut self, calls: usize) {
        for _ in 0..calls {
            let near = START + self.below(self.top() + 1 - START);
            let Some((at, _)) = self.chunks.range(..=near).next_back() else { continue };
            let at = *at;
            if self.below(2) == 0 {
                self.give(at);
            } else {
                let wanted = self.size(2000);
                self.take(at, wanted);
            }
        }
    }
}

/// Walks the heap, which `change` changes between two steps. Returns the difference between the sum
/// and the free bytes at the end, and the number of bytes that changed meanwhile.
fn walk(
    heap: &mut Heap,
    bulk: bool,
    mut change: impl FnMut(&mut Heap, &Sweep),
) -> Result<(usize, usize), Stop> {
    let mut sweep = Sweep::default();
    sweep.begin(&heap.extent(), 1 << 20);
    heap.changed = 0;
    loop {
        let extent = heap.extent();
        let budget = Budget::new(Duration::from_micros(300));
        let progress = match bulk {
            true => sweep.step(&Bulk(heap), &extent, &budget)?,
            false => sweep.step(heap, &extent, &budget)?,
        };
        if progress == Progress::Done {
            return Ok((sweep.free().abs_diff(heap.free()), heap.changed));
        }
        change(heap, &sweep);
    }
}

#[test]
fn a_heap_that_rests_is_counted_exactly() {
    for (seed, most, bulk) in [(1, 200, true), (2, 200, false), (3, 5000, true), (4, 5000, false)] {
        assert_eq!(walk(&mut Heap::new(seed, most), bulk, |_, _| {}), Ok((0, 0)));
    }
}

#[test]
fn what_changes_meanwhile_bounds_the_error() {
    for seed in 0..6 {
        let mut heap = Heap::new(seed, [200, 3000][seed as usize % 2]);
        let (error, changed) = walk(&mut heap, seed % 3 == 0, |heap, _| heap.work(20)).unwrap();
        assert!(error <= changed, "{seed}: {error} {changed}");
    }
}

/// Before each step, every chunk at which a walk stands is merged into the one in front of it.
#[test]
fn every_place_is_taken() {
    for (seed, bulk) in [(1, false), (2, true)] {
        let mut heap = Heap::new(seed, 500);
        let mut taken = 0;
        let walked = walk(&mut heap, bulk, |heap, sweep| {
            for at in sweep.active().map(|lane| lane.place.at).collect::<Vec<_>>() {
                let around = heap.chunks.range(..=at).rev().take(4).map(|(at, _)| *at);
                for at in around.collect::<Vec<_>>() {
                    if heap.chunks.contains_key(&at) {
                        heap.give(at);
                    }
                }
                taken += usize::from(!heap.chunks.contains_key(&at));
            }
        });
        let (error, changed) = walked.unwrap();
        assert!(error <= changed, "{error} {changed}");
        assert!(taken > 0, "{seed}");
    }
}

/// The end of the heap is trimmed, together with the walks beyond it.
#[test]
fn the_end_is_given_back() {
    let mut heap = Heap::new(5, 300);
    let mut steps = 0;
    let (error, changed) = walk(&mut heap, false, |heap, _| {
        steps += 1;
        if steps == 2 {
            while let Some((at, _)) =
                heap.chunks.range(START + SIZE / 3..).find(|(_, (_, free))| !free)
            {
                let at = *at;
                heap.give(at);
            }
        }
    })
    .unwrap();
    assert!(steps >= 2 && heap.top() < START + SIZE / 2);
    assert!(error <= changed, "{error} {changed}");
}

#[test]
fn garbage_ends_in_a_refusal() {
    let mut random = Random::new(7);
    let mut refused = 0;
    for _ in 0..20 {
        let mut heap = Heap::new(3, 5000);
        for _ in 0..1 + random.below(50) {
            let word = START + random.below(SIZE as u64 / 8) as usize * 8;
            heap.words.insert(word, [0, usize::MAX, 33, START, 1 << 20][random.below(5) as usize]);
            let header = heap.chunks.keys().nth(random.below(1000) as usize).copied().unwrap();
            heap.words.insert(header + 8, random.below(1 << 22) as usize);
        }
        let walked = walk(&mut heap, random.below(2) == 0, |_, _| {});
        refused += usize::from(walked == Err(Stop::Broken));
    }
    assert!(refused > 10, "{refused}");
    let mut sweep = Sweep::default();
    let heap = Heap::new(1, 200);
    sweep.begin(&heap.extent(), 100);
    let few = sweep.step(&heap, &heap.extent(), &Budget::unlimited());
    assert_eq!(few, Err(Stop::TooMany));
}

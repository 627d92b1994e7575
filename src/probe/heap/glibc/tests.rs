//! Tests the parts that read malloc's structures, on artificial memory.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::mapped::{Finder, PageSource, PageState};
use super::walk::{Limit, Stop, Walker};
use crate::abi::glibc::{
    find_counters, find_main_arena, Arena, MallocLayout, Mmapped, ANYWHERE, BINS, IMAGE,
};
use crate::budget::{Budget, Progress};
use crate::sys::memory::{Memory, Record, BATCH};

const LAYOUT: MallocLayout = MallocLayout { head: 96, safe_linking: true };
const AT: usize = 0x7000_0000;
const HEAP: Range<usize> = 0x10_0000..0x20_0000;
const PAGE: usize = 4096;

/// Words at addresses. Other words of a page that has one are 0; other pages do not exist.
#[derive(Default, Clone)]
struct Made {
    words: BTreeMap<usize, usize>,
    reads: Cell<usize>,
}

impl Made {
    fn chunk(&mut self, at: usize, size: usize, fd: usize, bk: usize) {
        self.words.extend([(at + 8, size), (at + 16, fd), (at + 24, bk)]);
    }

    fn has(&self, page: usize) -> bool {
        let start = page / PAGE * PAGE;
        self.words.range(start..start + PAGE).next().is_some()
    }
}

impl Memory for Made {
    fn read(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        if !self.has(at) {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        for (i, bytes) in into.chunks_mut(8).enumerate() {
            let word = self.words.get(&(at + i * 8)).copied().unwrap_or(0).to_ne_bytes();
            bytes.copy_from_slice(&word[..bytes.len()]);
        }
        Ok(())
    }

    fn read_each(&self, at: &[usize], into: &mut [Record]) -> io::Result<usize> {
        let mut read = 0;
        for (at, into) in at.iter().zip(into).take(BATCH) {
            if self.read(*at, into).is_err() {
                break;
            }
            read += 1;
        }
        self.reads.set(self.reads.get() + read);
        Ok(read)
    }
}

impl PageSource for Made {
    fn piece(
        &self,
        range: &Range<usize>,
        each: &mut dyn FnMut(usize, PageState),
    ) -> io::Result<usize> {
        for page in range.clone().step_by(PAGE).take(1024) {
            each(page, if self.has(page) { PageState::Present } else { PageState::Other });
        }
        Ok(range.end.min(range.start + 1024 * PAGE))
    }
}

/// An arena with a fast bin of two chunks, a bin of `count` chunks of 64 bytes, and a top chunk of
/// 4096.
fn arena(count: usize) -> (Made, [u8; IMAGE]) {
    let mut image = [0u8; IMAGE];
    let mut put = |at: usize, word: usize| {
        image[at..at + 8].copy_from_slice(&word.to_ne_bytes());
    };
    let mut made = Made::default();
    let header = |bin: usize| AT + 96 + bin * 16;
    for bin in 0..BINS {
        put(112 + bin * 16, header(bin));
        put(120 + bin * 16, header(bin));
    }
    let chunk = |i: usize| HEAP.start + 0x1000 + i * 128;
    for i in 0..count {
        let fd = if i + 1 == count { header(3) } else { chunk(i + 1) };
        let bk = if i == 0 { header(3) } else { chunk(i - 1) };
        made.chunk(chunk(i), 64 | 1, fd, bk);
    }
    if count > 0 {
        put(112 + 3 * 16, chunk(0));
        put(120 + 3 * 16, chunk(count - 1));
    }
    let (first, second) = (HEAP.start + 0x100, HEAP.start + 0x200);
    made.chunk(first, 32 | 1, second ^ ((first + 16) >> 12), 0);
    made.chunk(second, 32 | 1, (second + 16) >> 12, 0);
    put(16, first);
    let top = HEAP.end - 4096;
    made.chunk(top, 4096 | 1, 0, 0);
    put(96, top);
    put(2160, AT);
    put(2184, HEAP.end - HEAP.start);
    put(2192, HEAP.end - HEAP.start);
    (made, image)
}

fn walk(made: &Made, image: &[u8; IMAGE], visits: usize) -> Result<usize, Stop> {
    let mut arena = Arena::new(LAYOUT);
    arena.image(AT).copy_from_slice(image);
    let mut limit = Limit { visits, budget: Budget::unlimited() };
    Walker::default().free(made, &arena, LAYOUT, &[HEAP], &mut limit)
}

#[test]
fn counts_every_free_chunk_once() {
    for count in [0, 1, 2, 3, 4, 5, 100, 501] {
        let (made, image) = arena(count);
        assert_eq!(walk(&made, &image, 1000), Ok(4096 + 2 * 32 + count * 64));
        // Each chunk of the bin is read once, and so are the two of the fast bin.
        assert_eq!(made.reads.get(), count + 2);
    }
}

#[test]
fn stops_at_the_limit() {
    let (made, image) = arena(5000);
    assert_eq!(walk(&made, &image, 1000), Err(Stop::TooMany));
    assert!(made.reads.get() <= 1000);
    let mut limit = Limit { visits: 9999, budget: Budget::new(std::time::Duration::ZERO) };
    let mut arena = Arena::new(LAYOUT);
    arena.image(AT).copy_from_slice(&image);
    let stopped = Walker::default().free(&made, &arena, LAYOUT, &[HEAP], &mut limit);
    assert_eq!(stopped, Err(Stop::TooMany));
}

#[test]
fn believes_nothing_that_does_not_fit() {
    let (good, image) = arena(50);
    let chunk = |i: usize| HEAP.start + 0x1000 + i * 128;
    let wrong: [(usize, usize); 10] = [
        (chunk(20) + 24, chunk(2)),        // not the previous chunk
        (chunk(20) + 16, chunk(3)),        // a loop
        (chunk(20) + 16, chunk(21) + 8),   // not aligned
        (chunk(20) + 16, 0x5000_0000),     // not in the heap, not readable
        (chunk(20) + 16, AT),              // not in the heap
        (chunk(20) + 8, 16),               // smaller than any chunk
        (chunk(20) + 8, 72),               // not a multiple of the alignment
        (chunk(20) + 8, 0x20_0000),        // larger than the arena
        (HEAP.start + 0x100 + 16, 0x1234), // a link of a fast bin that is not mangled
        (HEAP.end - 4096 + 8, usize::MAX), // the top chunk
    ];
    for (address, word) in wrong {
        let mut made = good.clone();
        made.words.insert(address, word);
        assert_eq!(walk(&made, &image, 1000), Err(Stop::Broken), "{address:x}: {word:x}");
    }
}

#[test]
fn a_fast_bin_that_goes_round_is_left() {
    let (mut made, image) = arena(0);
    let (first, second) = (HEAP.start + 0x100, HEAP.start + 0x200);
    made.words.insert(second + 16, first ^ ((second + 16) >> 12));
    assert_eq!(walk(&made, &image, 1000), Err(Stop::TooMany));
}

#[test]
fn finds_the_arena_and_the_counts_among_other_data() {
    let (_, image) = arena(3);
    let mut data = vec![0u8; 1000 * 8];
    data.extend_from_slice(&image);
    data.extend((0..4000u32).flat_map(|i| (i * 77).to_ne_bytes()));
    let base = AT - 8000;
    assert_eq!(find_main_arena(&data, base, LAYOUT, &HEAP), Some(AT));
    assert_eq!(find_main_arena(&data, base, LAYOUT, &ANYWHERE), Some(AT), "without a brk heap");
    assert_eq!(find_main_arena(&data, base + 16, LAYOUT, &HEAP), None);
    assert_eq!(find_main_arena(&data, base, LAYOUT, &(0..1)), None);
    assert_eq!(find_main_arena(&[], base, LAYOUT, &HEAP), None);

    let reported = Mmapped { count: 3, bytes: 0x9000 };
    for (at, padding) in [(800usize, 0usize), (804, 4)] {
        let mut data = data.clone();
        let mut fields: Vec<u8> =
            [3u32, 65536, 4, 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
        fields.extend(vec![0; padding]);
        fields.extend([0x9000usize, 0xa000, HEAP.start].iter().flat_map(|w| w.to_ne_bytes()));
        data[at..at + fields.len()].copy_from_slice(&fields);
        let found = find_counters(&data, base, reported, &[7, HEAP.start], PAGE).unwrap();
        assert_eq!((found.at, found.decode(&data[at..])), (base + at, reported));
        let other = Mmapped { count: 4, ..reported };
        assert_eq!(find_counters(&data, base, other, &[HEAP.start], PAGE), None);
        assert_eq!(find_counters(&data, base, reported, &[HEAP.end], PAGE), None);
    }
}

#[test]
fn layouts_go_by_version() {
    assert_eq!(MallocLayout::of_version("2.36"), Some(LAYOUT));
    assert_eq!(MallocLayout::of_version("2.31").map(|layout| layout.safe_linking), Some(false));
    assert_eq!(MallocLayout::of_version("2.24.1").map(|layout| layout.head), Some(88));
    assert_eq!(["2.12", "3.0", "2", "", "2.x"].map(MallocLayout::of_version), [None; 5]);
}

/// Pages of `range`, all in RAM, each with a word that is not part of a header.
fn touched(range: Range<usize>) -> Made {
    let mut made = Made::default();
    made.words.extend(range.step_by(PAGE).map(|page| (page + 64, 1)));
    made
}

fn search(finder: &mut Finder, made: &Made, segment: Range<usize>, wanted: Mmapped) -> usize {
    finder.begin(vec![segment]);
    let spent = Budget::new(std::time::Duration::ZERO);
    let mut steps = 1;
    while finder.step(made, made, &|| Some(wanted), &spent) == Progress::More {
        steps += 1;
        assert!(steps < 10_000);
    }
    steps
}

#[test]
fn finds_blocks_at_any_page() {
    let segment = 0x4000_0000..0x4000_0000 + 3000 * PAGE;
    let mut made = touched(segment.clone());
    let page = |i: usize| segment.start + i * PAGE;
    let blocks = [(0, 10), (10, 1), (500, 100), (2999, 1)];
    for (start, pages) in blocks {
        made.words.insert(page(start) + 8, pages * PAGE + 2);
    }
    made.words.insert(page(550) + 8, 2 * PAGE + 2); // inside a block
    made.words.insert(page(2000) + 8, 2000 * PAGE + 2); // longer than the mapping
    made.words.insert(page(2001) + 8, PAGE + 3); // flags of another type of block
    let wanted = Mmapped { count: 4, bytes: 112 * PAGE };
    let mut finder = Finder::default();
    search(&mut finder, &made, segment.clone(), wanted);
    assert_eq!(finder.found(), wanted);
    assert_eq!(finder.blocks()[2], page(500)..page(600));

    // All blocks are known, so nothing is searched. A freed block is dropped.
    made.reads.set(0);
    search(&mut finder, &made, segment.clone(), wanted);
    assert_eq!(made.reads.get(), 4);
    made.words.remove(&(page(500) + 8));
    made.words.remove(&(page(550) + 8));
    let fewer = Mmapped { count: 3, bytes: 12 * PAGE };
    assert_eq!(search(&mut finder, &made, segment.clone(), fewer), 1);
    assert_eq!(finder.found(), fewer);

    // A block that cannot be found: all pages are searched for it once.
    let more = Mmapped { count: 4, bytes: 13 * PAGE };
    assert!(search(&mut finder, &made, segment.clone(), more) > 10);
    made.reads.set(0);
    assert!(search(&mut finder, &made, segment, more) < 10);
    assert!(made.reads.get() < 10);
    assert_eq!(finder.found(), fewer);
}

#[test]
fn one_block_too_many_is_told_by_its_size() {
    let segment = 0x4000_0000..0x4000_0000 + 100 * PAGE;
    let mut made = touched(segment.clone());
    for (start, pages) in [(1, 3), (50, 5)] {
        made.words.insert(segment.start + start * PAGE + 8, pages * PAGE + 2);
    }
    let mut finder = Finder::default();
    let wanted = Mmapped { count: 1, bytes: 5 * PAGE };
    search(&mut finder, &made, segment.clone(), wanted);
    assert!(finder.drop_excess(wanted));
    assert_eq!(finder.found(), wanted);
    assert!(!finder.drop_excess(wanted));
}

//! Decodes the private structures of glibc's malloc from bytes.
//!
//! Source: `malloc/malloc.c` and `malloc/arena.c` of glibc, 64-bit, 2.23 and later. None of this is
//! a public interface of glibc, so each structure is found by its expected contents, and the caller
//! compares the results with `mallinfo2`.
//!
//! Offsets in `struct malloc_state` are relative to the header of its first bin (the address of
//! `top`), because only the part in front of `fastbinsY` differs between versions.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::sys::memory::{half, word};

/// The length of `fastbinsY[NFASTBINS]`, which precedes the first bin header.
const FASTBINS: usize = 10;
const FASTBINS_BYTES: usize = FASTBINS * 8;
/// The number of bins: `bins[NBINS * 2 - 2]` has a head and a tail for each of the bins 1 to 127.
pub const BINS: usize = 127;
const BINS_AT: usize = 16;
const NEXT_AT: usize = BINS_AT + BINS * 16 + 16;
const SYSTEM_MEM_AT: usize = NEXT_AT + 24;
const MAX_SYSTEM_MEM_AT: usize = NEXT_AT + 32;
/// Bytes from the first bin header to the end of the structure.
const AFTER: usize = NEXT_AT + 40;
/// The largest size of a copy of an arena, in bytes.
pub const IMAGE: usize = 96 + AFTER;
/// The minimum number of empty bins in a small, young heap. The head of an empty bin points to
/// itself.
const EMPTY_BINS: usize = 16;
/// In `flags` of `struct malloc_state`: the arena is not one contiguous range of addresses.
const NONCONTIGUOUS: u32 = 2;

/// The lowest address that is accepted.
const LOWEST: usize = 1 << 16;

/// The least size of a page, and the most that an arena of mappings is taken to have.
const PAGE: usize = 4096;
const MOST_MAPPED: usize = 1 << 40;

/// Where chunks can be: all of the address space.
pub const ANYWHERE: Range<usize> = LOWEST..1 << 47;

/// The alignment of every chunk, in bytes.
pub const ALIGNMENT: usize = 16;
/// The size of the smallest chunk, in bytes.
pub const MIN_CHUNK: usize = 32;
/// The flags in a chunk's size: previous chunk in use, own mapping, not of the main arena.
const SIZE_FLAGS: usize = 7;
const PREVIOUS_IN_USE: usize = 1;
const MMAPPED: usize = 2;

/// The layout of `struct malloc_state` in one version of glibc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MallocLayout {
    /// Bytes from the start of the structure to the header of the first bin.
    pub head: usize,
    /// Whether the links of fast bins are XORed with bits of their own address.
    pub safe_linking: bool,
}

impl MallocLayout {
    /// Returns the layout of a version such as `2.36`, or `None` if it is not described here.
    pub fn of_version(version: &str) -> Option<MallocLayout> {
        let (major, minor) = version.split_once('.')?;
        let digits = minor.split(|c: char| !c.is_ascii_digit()).next()?;
        match (major, digits.parse::<u32>().ok()?) {
            ("2", 23..=26) => Some(MallocLayout { head: 88, safe_linking: false }),
            ("2", 27..=31) => Some(MallocLayout { head: 96, safe_linking: false }),
            ("2", 32..) => Some(MallocLayout { head: 96, safe_linking: true }),
            _ => None,
        }
    }

    /// Returns the size of a copy of an arena, in bytes.
    pub fn image_size(self) -> usize {
        (self.head + AFTER).min(IMAGE)
    }
}

/// A copy of a `struct malloc_state`.
#[derive(Clone)]
pub struct Arena {
    at: usize,
    layout: MallocLayout,
    bytes: [u8; IMAGE],
}

impl Arena {
    /// Makes a copy that is still to be filled.
    pub fn new(layout: MallocLayout) -> Arena {
        Arena { at: 0, layout, bytes: [0; IMAGE] }
    }

    /// Returns the buffer to fill with the bytes at address `at`.
    pub fn image(&mut self, at: usize) -> &mut [u8] {
        self.at = at;
        let size = self.layout.image_size();
        self.bytes.get_mut(..size).unwrap_or_default()
    }

    /// Returns whether both copies are of the same address and have equal bytes.
    pub fn same(&self, other: &Arena) -> bool {
        self.at == other.at && self.bytes == other.bytes
    }

    /// Returns the address of the structure.
    pub fn at(&self) -> usize {
        self.at
    }

    fn word(&self, from_first_bin: usize) -> usize {
        word(&self.bytes, self.layout.head + from_first_bin)
    }

    /// Returns whether a thread holds the arena's lock.
    pub fn locked(&self) -> bool {
        half(&self.bytes, 0) != 0
    }

    /// Returns whether the arena is one contiguous range of addresses.
    pub fn contiguous(&self) -> bool {
        half(&self.bytes, 4) & NONCONTIGUOUS == 0
    }

    /// Iterates over the first chunks of the fast bins that are not empty.
    pub fn fast_bins(&self) -> impl Iterator<Item = usize> + '_ {
        let from = self.layout.head - FASTBINS_BYTES;
        (0..FASTBINS).map(move |i| word(&self.bytes, from + i * 8)).filter(|chunk| *chunk != 0)
    }

    /// Iterates over the other bins that are not empty: address of the header, first chunk, last
    /// chunk.
    pub fn bins(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        (0..BINS).filter_map(|i| {
            let header = self.at + self.layout.head + i * 16;
            let (first, last) = (self.word(BINS_AT + i * 16), self.word(BINS_AT + i * 16 + 8));
            (first != header || last != header).then_some((header, first, last))
        })
    }

    /// Returns the address of the top chunk, which borders the end of the arena.
    pub fn top(&self) -> usize {
        self.word(0)
    }

    /// Returns the address of the next arena in the ring of all arenas.
    pub fn next(&self) -> usize {
        self.word(NEXT_AT)
    }

    /// Returns the bytes that the arena got from the system.
    pub fn system_mem(&self) -> usize {
        self.word(SYSTEM_MEM_AT)
    }
}

/// The distance from a free chunk to its link to the next chunk of its list, in bytes.
pub const FORWARD: usize = 16;
/// The distance from a free chunk to its link to the previous chunk of its list, in bytes.
pub const BACKWARD: usize = 24;

/// The header in front of a chunk's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    previous: usize,
    word: usize,
}

impl ChunkHeader {
    /// The size of a header in bytes.
    pub const SIZE: usize = 16;

    /// Decodes a header.
    pub fn of(bytes: &[u8]) -> ChunkHeader {
        ChunkHeader { previous: word(bytes, 0), word: word(bytes, 8) }
    }

    /// Returns the size of the chunk in bytes.
    pub fn size(self) -> usize {
        self.word & !SIZE_FLAGS
    }

    /// Returns the size of the chunk in front, in bytes. Only valid if that chunk is free.
    pub fn previous_size(self) -> usize {
        self.previous
    }

    /// Returns whether the chunk in front is in use, in a fast bin, or in a thread's cache.
    pub fn previous_in_use(self) -> bool {
        self.word & PREVIOUS_IN_USE != 0
    }

    /// Returns whether the chunk has a mapping of its own.
    pub fn mapped(self) -> bool {
        self.word & MMAPPED != 0
    }
}

/// Returns the size in a chunk's header in bytes, without the flags.
pub fn chunk_size(header: &[u8]) -> usize {
    word(header, 8) & !SIZE_FLAGS
}

/// Returns the size of a block with a mapping of its own, given the bytes at the start of a page;
/// `None` if they are not the header of such a block.
pub fn mapped_size(header: &[u8], page_size: usize) -> Option<usize> {
    let (previous, size) = (word(header, 0), word(header, 8));
    let bytes = size & !SIZE_FLAGS;
    let whole = bytes != 0 && bytes % page_size == 0;
    (previous == 0 && size & SIZE_FLAGS == MMAPPED && whole).then_some(bytes)
}

/// Finds `main_arena` in the writable data of the C library. `data` is a copy of the bytes at
/// address `base`. Returns the address of the structure if exactly one candidate fits.
pub fn find_main_arena(
    data: &[u8],
    base: usize,
    layout: MallocLayout,
    heap: &Range<usize>,
) -> Option<usize> {
    let last = data.len().checked_sub(AFTER)?;
    let mut found = (layout.head..=last).step_by(8).filter(|at| {
        let top = word(data, *at);
        if !heap.contains(&top) || top % ALIGNMENT != 0 {
            return false;
        }
        let own = base..base + data.len();
        let mut empty = 0;
        let all = (0..BINS).all(|i| {
            let header = base + at + i * 16;
            let first = word(data, at + BINS_AT + i * 16);
            let last = word(data, at + BINS_AT + i * 16 + 8);
            empty += usize::from(first == header && last == header);
            (first == header) == (last == header)
                && (first == header || !(own.contains(&first) || own.contains(&last)))
        });
        let (system, next) = (word(data, at + SYSTEM_MEM_AT), word(data, at + NEXT_AT));
        all && empty >= EMPTY_BINS
            && system != 0
            && system <= heap.end.saturating_sub(heap.start)
            // Mappings are of whole pages; where the heap can be anywhere, pointers look like sizes.
            && (*heap != ANYWHERE || (system % PAGE == 0 && system <= MOST_MAPPED))
            && word(data, at + MAX_SYSTEM_MEM_AT) >= system
            && next >= LOWEST
            && next % 8 == 0
    });
    let at = found.next()?;
    found.next().is_none().then_some(base + at - layout.head)
}

/// The counters of blocks with a mapping of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mmapped {
    /// The number of blocks.
    pub count: usize,
    /// The bytes of their mappings, a multiple of the page size.
    pub bytes: usize,
}

/// The size of the fields from `n_mmaps` on, in bytes: `n_mmaps, n_mmaps_max, max_n_mmaps,
/// no_dyn_threshold` with 4 bytes each, padding to 8 bytes, `mmapped_mem, max_mmapped_mem,
/// sbrk_base`.
pub const COUNTERS: usize = 48;

/// The location of the counters in `struct malloc_par`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// The address of `n_mmaps`.
    pub at: usize,
    /// The distance from `n_mmaps` to `mmapped_mem`, in bytes.
    pub bytes_at: usize,
}

impl Counters {
    /// Decodes the counters from a copy of the bytes at `at`.
    pub fn decode(self, bytes: &[u8]) -> Mmapped {
        Mmapped { count: half(bytes, 0) as usize, bytes: word(bytes, self.bytes_at) }
    }
}

/// Finds the counters in the writable data of the C library. The values must equal those that
/// `mallinfo2` returned (`reported`), and the fields around them must be plausible, above all the
/// address at which the heap begins, one of `starts`.
pub fn find_counters(
    data: &[u8],
    base: usize,
    reported: Mmapped,
    starts: &[usize],
    page_size: usize,
) -> Option<Counters> {
    let last = data.len().checked_sub(COUNTERS)?;
    let mut found = (0..=last).step_by(4).filter_map(|at| {
        let bytes_at = if (base + at) % 8 == 0 { 16 } else { 20 };
        let counters = Counters { at: base + at, bytes_at };
        let bytes = data.get(at..)?;
        let (count, limit, peak, fixed) =
            (half(bytes, 0), half(bytes, 4), half(bytes, 8), half(bytes, 12));
        let peak_bytes = word(bytes, bytes_at + 8);
        let sbrk_base = word(bytes, bytes_at + 16);
        let good = counters.decode(bytes) == reported
            // Zeroes are common elsewhere too: without a limit, any of them would match.
            && limit > 0
            && limit >= count
            && limit <= i32::MAX as u32
            && peak >= count
            && peak <= limit
            && fixed <= 1
            && reported.bytes % page_size == 0
            && peak_bytes >= reported.bytes
            && peak_bytes % page_size == 0
            && (peak == 0) == (peak_bytes == 0)
            && sbrk_base % page_size == 0
            && starts.contains(&sbrk_base);
        good.then_some(counters)
    });
    let counters = found.next()?;
    found.next().is_none().then_some(counters)
}

//! Counts the allocations of a process in each slab pool.
//!
//! A pool's counters change only under the pool's own mutex, which every caller of a `_locked`
//! function of nginx's slab allocator holds. Therefore one thread at a time changes them, and
//! adding is a plain load and a plain store. They are atomics so that a reader without the mutex
//! sees whole numbers.
//!
//! The master has its table in memory that it shares with its children. Each child has its own
//! table, in which the pools that existed when it was forked have the same places as in the
//! master's.
//!
//! The hooks' code on x86_64 (`hook::arch::slab`) handles the most common cases itself, on the same
//! memory, in these instructions:
//!
//! - 15 to allocate: 3 to find the pool's counters if they are the same as last time; 2 to check
//!   whether the request is for whole pages; 2 to count it; 5 to call the original with the stack
//!   aligned and to keep what a failure must undo; 2 to check whether it failed; 1 to return.
//! - 5 to free: 3 to find the counters, 1 to count, 1 to jump to the original.
//!
//! If another pool was used last, finding the counters takes 9 more. The jumps from nginx's code to
//! the hook and back take another 6.
#![forbid(unsafe_code)]

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The maximum number of pools with their own counters, a power of two. A place takes memory only
/// once it is used.
pub const POOLS: usize = 2048;

/// The number of places where a pool may be: the first one depends on its address, the others
/// follow.
const PROBES: usize = 32;

/// A pool's first place is the upper bits of its address times this: 2^64 divided by the golden
/// ratio.
pub const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// The number of lower bits of the product that are dropped.
pub const SHIFT: u32 = u64::BITS - POOLS.trailing_zeros();

/// Marks the place of a pool that is gone; no pool has this address.
const RETIRED: usize = 1;

/// The calls of one process in a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlabCounts {
    /// Allocations that succeeded.
    pub allocations: u64,
    /// Freed blocks.
    pub frees: u64,
    /// Allocations that failed.
    pub failures: u64,
    /// Bytes requested by the allocations that succeeded.
    pub bytes_requested: u64,
}

/// The requests of whole pages of a pool by all processes, which nginx itself does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Requests of more than half a page.
    pub reqs: u64,
    /// The number of these requests that failed.
    pub fails: u64,
}

/// The counters of one pool, in one cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct SlabCounters {
    /// The pool's address; 0 for a place that was never taken, [`RETIRED`] for one whose pool is
    /// gone.
    pool: AtomicUsize,
    /// [`super::mappings::SharedMapping::serial`]; 0 for a pool that the master does not know.
    serial: AtomicU64,
    allocations: AtomicU64,
    frees: AtomicU64,
    failures: AtomicU64,
    bytes_requested: AtomicU64,
    /// Requests of whole pages by all processes. Used only in the master's table.
    page_reqs: AtomicU64,
    /// The number of these requests that failed. Used only in the master's table.
    page_fails: AtomicU64,
}

impl SlabCounters {
    /// The offset of the pool's address in this struct, in bytes.
    pub const POOL: usize = offset_of!(SlabCounters, pool);
    /// The offset of the number of allocations that succeeded.
    pub const ALLOCATIONS: usize = offset_of!(SlabCounters, allocations);
    /// The offset of the number of freed blocks.
    pub const FREES: usize = offset_of!(SlabCounters, frees);
    /// The offset of the number of allocations that failed.
    pub const FAILURES: usize = offset_of!(SlabCounters, failures);
    /// The offset of the requested bytes.
    pub const BYTES_REQUESTED: usize = offset_of!(SlabCounters, bytes_requested);

    const fn new() -> Self {
        SlabCounters {
            pool: AtomicUsize::new(0),
            serial: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            bytes_requested: AtomicU64::new(0),
            page_reqs: AtomicU64::new(0),
            page_fails: AtomicU64::new(0),
        }
    }

    fn clear(&self) {
        let all = [&self.allocations, &self.frees, &self.failures, &self.bytes_requested];
        all.into_iter()
            .chain([&self.page_reqs, &self.page_fails])
            .for_each(|c| c.store(0, Relaxed));
    }

    fn add(&self, counts: &SlabCounts) {
        self.allocations.fetch_add(counts.allocations, Relaxed);
        self.frees.fetch_add(counts.frees, Relaxed);
        self.failures.fetch_add(counts.failures, Relaxed);
        self.bytes_requested.fetch_add(counts.bytes_requested, Relaxed);
    }

    fn counts(&self) -> SlabCounts {
        SlabCounts {
            allocations: self.allocations.load(Relaxed),
            frees: self.frees.load(Relaxed),
            failures: self.failures.load(Relaxed),
            bytes_requested: self.bytes_requested.load(Relaxed),
        }
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
}

/// The counters of all pools. The entries are at the start. A table of zeroes is empty.
#[repr(C)]
#[derive(Debug)]
pub struct SlabTable {
    entries: [SlabCounters; POOLS],
    /// The sums of all pools without a place. Several threads may add at once.
    other: SlabCounters,
    /// A bit for each place that was ever taken, so that a walk over the table does not touch the
    /// pages of unused places.
    taken: [AtomicU64; POOLS / 64],
}

impl Default for SlabTable {
    fn default() -> Self {
        SlabTable::new()
    }
}

impl SlabTable {
    /// An empty table.
    pub const fn new() -> Self {
        SlabTable {
            entries: [const { SlabCounters::new() }; POOLS],
            other: SlabCounters::new(),
            taken: [const { AtomicU64::new(0) }; POOLS / 64],
        }
    }

    /// Counts an allocation of `size` bytes that succeeded or failed. `masters` is the master's
    /// table if whole pages were requested. Returns the pool's counters, if it has a place.
    pub fn allocated(
        &self,
        pool: usize,
        size: u64,
        succeeded: bool,
        masters: Option<&SlabTable>,
    ) -> Option<&SlabCounters> {
        let Some((place, entry)) = self.place(pool) else {
            let (counter, bytes) = match succeeded {
                true => (&self.other.allocations, size),
                false => (&self.other.failures, 0),
            };
            counter.fetch_add(1, Relaxed);
            self.other.bytes_requested.fetch_add(bytes, Relaxed);
            return None;
        };
        if succeeded {
            add(&entry.allocations, 1);
            add(&entry.bytes_requested, size);
        } else {
            add(&entry.failures, 1);
        }
        let theirs = masters.and_then(|masters| masters.entries.get(place));
        if let Some(theirs) = theirs {
            if theirs.serial.load(Relaxed) == entry.serial.load(Relaxed) {
                theirs.page_reqs.fetch_add(1, Relaxed);
                theirs.page_fails.fetch_add(u64::from(!succeeded), Relaxed);
            }
        }
        Some(entry)
    }

    /// Counts a block that is freed. Returns the pool's counters, if it has a place.
    pub fn freed(&self, pool: usize) -> Option<&SlabCounters> {
        let Some((_, entry)) = self.place(pool) else {
            self.other.frees.fetch_add(1, Relaxed);
            return None;
        };
        add(&entry.frees, 1);
        Some(entry)
    }

    /// Adds a new pool, whose counters start at 0.
    pub fn begin(&self, pool: usize, serial: u64) {
        if let Some((_, entry)) = self.place(pool) {
            entry.clear();
            entry.serial.store(serial, Relaxed);
        }
    }

    /// Removes a pool. Its place is free for another one.
    pub fn end(&self, pool: usize) {
        if let Some(entry) = self.find(pool) {
            entry.serial.store(0, Relaxed);
            entry.clear();
            entry.pool.store(RETIRED, Relaxed);
        }
    }

    /// Makes this the table of a new process: it gets the pools of `masters`, with all counters 0.
    /// Without `masters` it is empty.
    pub fn inherit(&self, masters: Option<&SlabTable>) {
        for (word, own) in self.taken.iter().enumerate() {
            let theirs = masters.and_then(|masters| masters.taken.get(word));
            let taken = theirs.map_or(0, |theirs| theirs.load(Relaxed)) | own.load(Relaxed);
            own.store(taken, Relaxed);
            for place in places(word, taken) {
                let Some(entry) = self.entries.get(place) else { continue };
                let theirs = masters.and_then(|masters| masters.entries.get(place));
                let (pool, serial) = theirs.map_or((0, 0), |theirs| {
                    (theirs.pool.load(Relaxed), theirs.serial.load(Relaxed))
                });
                entry.clear();
                entry.serial.store(serial, Relaxed);
                entry.pool.store(pool, Relaxed);
            }
        }
        self.other.clear();
    }

    /// The entries whose places were ever taken.
    fn taken(&self) -> impl Iterator<Item = &SlabCounters> {
        let words = self.taken.iter().enumerate();
        let all = words.flat_map(|(word, taken)| places(word, taken.load(Relaxed)));
        all.filter_map(|place| self.entries.get(place))
    }

    /// Adds the counts of the same process from another table, and clears them there.
    pub fn absorb(&self, other: &SlabTable) {
        for theirs in other.taken() {
            let pool = theirs.pool.load(Relaxed);
            let counts = theirs.counts();
            theirs.clear();
            if !matches!(pool, 0 | RETIRED) && counts != SlabCounts::default() {
                let entry = self.place(pool).map_or(&self.other, |(_, entry)| entry);
                entry.add(&counts);
            }
        }
        self.other.add(&other.other.counts());
        other.other.clear();
    }

    /// The counts of this process in a pool; `None` if the pool is counted among the others.
    pub fn counts(&self, pool: usize) -> Option<SlabCounts> {
        match self.find(pool) {
            Some(entry) => Some(entry.counts()),
            None => {
                self.candidates(pool).any(|(_, entry)| is_free(entry)).then(SlabCounts::default)
            }
        }
    }

    /// The requests of whole pages of a pool by all processes; `None` if they were not counted.
    /// Only the master's table has them.
    pub fn page_counts(&self, pool: usize, serial: u64) -> Option<PageCounts> {
        let entry = self.find(pool).filter(|entry| entry.serial.load(Relaxed) == serial)?;
        let fails = entry.page_fails.load(Relaxed);
        Some(PageCounts { reqs: entry.page_reqs.load(Relaxed).max(fails), fails })
    }

    /// The sum of the counts of this process in all pools for which `is_known` returns false.
    pub fn others(&self, is_known: impl Fn(usize) -> bool) -> SlabCounts {
        let unknown = self.taken().filter(|entry| {
            let pool = entry.pool.load(Relaxed);
            pool > RETIRED && !is_known(pool)
        });
        unknown.chain([&self.other]).map(SlabCounters::counts).fold(
            SlabCounts::default(),
            |sum, one| SlabCounts {
                allocations: sum.allocations.wrapping_add(one.allocations),
                frees: sum.frees.wrapping_add(one.frees),
                failures: sum.failures.wrapping_add(one.failures),
                bytes_requested: sum.bytes_requested.wrapping_add(one.bytes_requested),
            },
        )
    }

    /// The places where a pool may be.
    fn candidates(&self, pool: usize) -> impl Iterator<Item = (usize, &SlabCounters)> {
        let first = ((pool as u64).wrapping_mul(FACTOR) >> SHIFT) as usize;
        (0..PROBES).filter_map(move |step| {
            let place = first.wrapping_add(step) % POOLS;
            Some((place, self.entries.get(place)?))
        })
    }

    fn find(&self, pool: usize) -> Option<&SlabCounters> {
        self.candidates(pool)
            .map(|(_, entry)| (entry, entry.pool.load(Relaxed)))
            .take_while(|(_, owner)| *owner != 0)
            .find(|(_, owner)| *owner == pool)
            .map(|(entry, _)| entry)
    }

    /// The place of a pool. If it has none, it takes one by an atomic exchange, because threads may
    /// work in different pools at once. In one pool there is one thread at a time.
    fn place(&self, pool: usize) -> Option<(usize, &SlabCounters)> {
        for (place, entry) in self.candidates(pool) {
            match entry.pool.load(Relaxed) {
                0 => break,
                owner if owner == pool => return Some((place, entry)),
                _ => {}
            }
        }
        self.take(pool)
    }

    #[cold]
    fn take(&self, pool: usize) -> Option<(usize, &SlabCounters)> {
        if pool <= RETIRED {
            return None;
        }
        let found = self.candidates(pool).find(|(_, entry)| {
            let last = entry.pool.load(Relaxed);
            last <= RETIRED && entry.pool.compare_exchange(last, pool, Relaxed, Relaxed).is_ok()
        });
        if let Some((place, _)) = found {
            if let Some(word) = self.taken.get(place / 64) {
                word.fetch_or(1 << (place % 64), Relaxed);
            }
        }
        found
    }
}

/// The places of the bits that are set in a word of [`SlabTable::taken`].
fn places(word: usize, bits: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| word * 64 + bit)
}

fn is_free(entry: &SlabCounters) -> bool {
    entry.pool.load(Relaxed) <= RETIRED
}

#[cfg(test)]
mod tests;

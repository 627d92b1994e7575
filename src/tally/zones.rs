//! What a process did to each slab pool.
//!
//! A pool's counters change under the pool's own mutex only, which whoever calls a `_locked`
//! function of nginx's slab allocator holds. So one thread at a time changes them, and adding is a
//! plain load and a plain store; they are atomics so that a reader without the mutex sees whole
//! numbers.
//!
//! The master has its table in memory that its children share, and each child one of its own, in
//! which the pools that were known at its birth have the same places as in the master's.
//!
//! The hooks' code on x86_64 (`hook::arch::slab`) does the commonest of this itself, on the same
//! memory, in these instructions:
//!
//! - 15 to allocate: 3 to find the pool's counters, the same as last time; 2 for whether it is one of
//!   whole pages; 2 to count it; 5 to call the original with the stack aligned and what to take back
//!   kept; 2 for whether it failed; 1 to return.
//! - 5 to give back: 3 to find the counters, 1 to count it, 1 to go on to the original.
//!
//! When another pool was used last, finding takes 9 more. Six further ones are the jumps from nginx's
//! code to there and back.
#![forbid(unsafe_code)]

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The most pools that are told apart, a power of two. A place takes memory once it is used.
pub const POOLS: usize = 2048;

/// A pool's place is one of so many behind the one that its address says.
const PROBES: usize = 32;

/// A pool's first place is the upper bits of its address times this: 2^64 divided by the golden ratio.
pub const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// So many lower bits of the product are left out.
pub const SHIFT: u32 = u64::BITS - POOLS.trailing_zeros();

/// The place of a pool that is gone; no pool has this address.
const RETIRED: usize = 1;

/// What one process did to a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Allocations that succeeded.
    pub allocations: u64,
    /// Blocks given back.
    pub frees: u64,
    /// Allocations that failed.
    pub failures: u64,
    /// Bytes asked for by the allocations that succeeded.
    pub bytes_requested: u64,
}

/// What all processes together asked of a pool in whole pages, which nginx itself does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Requests of more than half a page.
    pub reqs: u64,
    /// Those of them that failed.
    pub fails: u64,
}

/// The counters of one pool: a line of the processor's cache.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Entry {
    /// The pool's address; 0 for a place that was never taken.
    pool: AtomicUsize,
    /// [`super::mappings::Mapping::serial`]; 0 for a pool that the master does not know.
    serial: AtomicU64,
    allocations: AtomicU64,
    frees: AtomicU64,
    failures: AtomicU64,
    bytes_requested: AtomicU64,
    /// The next two are used in the master's table only, by all processes.
    page_reqs: AtomicU64,
    page_fails: AtomicU64,
}

impl Entry {
    /// The offset of the pool's address in this struct, in bytes; of other fields below.
    pub const POOL: usize = offset_of!(Entry, pool);
    /// Of the allocations that succeeded.
    pub const ALLOCATIONS: usize = offset_of!(Entry, allocations);
    /// Of the blocks given back.
    pub const FREES: usize = offset_of!(Entry, frees);
    /// Of the allocations that failed.
    pub const FAILURES: usize = offset_of!(Entry, failures);
    /// Of the bytes asked for.
    pub const BYTES_REQUESTED: usize = offset_of!(Entry, bytes_requested);

    const fn new() -> Self {
        Entry {
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

    fn add(&self, counts: &Counts) {
        self.allocations.fetch_add(counts.allocations, Relaxed);
        self.frees.fetch_add(counts.frees, Relaxed);
        self.failures.fetch_add(counts.failures, Relaxed);
        self.bytes_requested.fetch_add(counts.bytes_requested, Relaxed);
    }

    fn counts(&self) -> Counts {
        Counts {
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

/// The counters of all pools, at the start those of each place. All zeroes is an empty one.
#[repr(C)]
#[derive(Debug)]
pub struct Table {
    entries: [Entry; POOLS],
    /// Of all pools for which there is no place. Several threads may add at once.
    other: Entry,
    /// A bit for each place that was ever taken: whoever goes over all places leaves the pages of
    /// the others alone.
    taken: [AtomicU64; POOLS / 64],
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
    }
}

impl Table {
    /// An empty table.
    pub const fn new() -> Self {
        Table {
            entries: [const { Entry::new() }; POOLS],
            other: Entry::new(),
            taken: [const { AtomicU64::new(0) }; POOLS / 64],
        }
    }

    /// An allocation of `size` bytes came to its end. `masters` is the master's table, for requests
    /// of whole pages. Returns the pool's counters, if it has a place.
    pub fn allocated(
        &self,
        pool: usize,
        size: u64,
        succeeded: bool,
        masters: Option<&Table>,
    ) -> Option<&Entry> {
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

    /// A block is given back. Returns the pool's counters, if it has a place.
    pub fn freed(&self, pool: usize) -> Option<&Entry> {
        let Some((_, entry)) = self.place(pool) else {
            self.other.frees.fetch_add(1, Relaxed);
            return None;
        };
        add(&entry.frees, 1);
        Some(entry)
    }

    /// A pool begins: its counters start at 0.
    pub fn begin(&self, pool: usize, serial: u64) {
        if let Some((_, entry)) = self.place(pool) {
            entry.clear();
            entry.serial.store(serial, Relaxed);
        }
    }

    /// A pool is gone; its place is free for another.
    pub fn end(&self, pool: usize) {
        if let Some(entry) = self.find(pool) {
            entry.serial.store(0, Relaxed);
            entry.clear();
            entry.pool.store(RETIRED, Relaxed);
        }
    }

    /// Becomes the table of a new process: the pools of `masters`, all counters 0. With no table,
    /// an empty one.
    pub fn inherit(&self, masters: Option<&Table>) {
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

    /// The entries that were ever taken.
    fn taken(&self) -> impl Iterator<Item = &Entry> {
        let words = self.taken.iter().enumerate();
        let all = words.flat_map(|(word, taken)| places(word, taken.load(Relaxed)));
        all.filter_map(|place| self.entries.get(place))
    }

    /// Adds what the same process has counted in another table, which has no more than that then.
    pub fn absorb(&self, other: &Table) {
        for theirs in other.taken() {
            let pool = theirs.pool.load(Relaxed);
            let counts = theirs.counts();
            theirs.clear();
            if !matches!(pool, 0 | RETIRED) && counts != Counts::default() {
                let entry = self.place(pool).map_or(&self.other, |(_, entry)| entry);
                entry.add(&counts);
            }
        }
        self.other.add(&other.other.counts());
        other.other.clear();
    }

    /// What this process did to a pool; `None` when it is counted among the others.
    pub fn counts(&self, pool: usize) -> Option<Counts> {
        match self.find(pool) {
            Some(entry) => Some(entry.counts()),
            None => self.candidates(pool).any(|(_, entry)| is_free(entry)).then(Counts::default),
        }
    }

    /// What all processes asked of a pool in whole pages; `None` when that was not counted. To be
    /// asked of the master's table.
    pub fn page_counts(&self, pool: usize, serial: u64) -> Option<PageCounts> {
        let entry = self.find(pool).filter(|entry| entry.serial.load(Relaxed) == serial)?;
        let fails = entry.page_fails.load(Relaxed);
        Some(PageCounts { reqs: entry.page_reqs.load(Relaxed).max(fails), fails })
    }

    /// What this process did to pools that are none of the known ones.
    pub fn others(&self, is_known: impl Fn(usize) -> bool) -> Counts {
        let unknown = self.taken().filter(|entry| {
            let pool = entry.pool.load(Relaxed);
            pool > RETIRED && !is_known(pool)
        });
        unknown.chain([&self.other]).map(Entry::counts).fold(Counts::default(), |sum, one| Counts {
            allocations: sum.allocations.wrapping_add(one.allocations),
            frees: sum.frees.wrapping_add(one.frees),
            failures: sum.failures.wrapping_add(one.failures),
            bytes_requested: sum.bytes_requested.wrapping_add(one.bytes_requested),
        })
    }

    /// The places where a pool may be.
    fn candidates(&self, pool: usize) -> impl Iterator<Item = (usize, &Entry)> {
        let first = ((pool as u64).wrapping_mul(FACTOR) >> SHIFT) as usize;
        (0..PROBES).filter_map(move |step| {
            let place = first.wrapping_add(step) % POOLS;
            Some((place, self.entries.get(place)?))
        })
    }

    fn find(&self, pool: usize) -> Option<&Entry> {
        self.candidates(pool)
            .map(|(_, entry)| (entry, entry.pool.load(Relaxed)))
            .take_while(|(_, owner)| *owner != 0)
            .find(|(_, owner)| *owner == pool)
            .map(|(entry, _)| entry)
    }

    /// The place of a pool, which is taken if it has none. Taking is by an exchange, for threads
    /// that work in different pools; in one pool there is one thread at a time.
    fn place(&self, pool: usize) -> Option<(usize, &Entry)> {
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
    fn take(&self, pool: usize) -> Option<(usize, &Entry)> {
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

/// The places of the bits that are set in a word of [`Table::taken`].
fn places(word: usize, bits: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| word * 64 + bit)
}

fn is_free(entry: &Entry) -> bool {
    entry.pool.load(Relaxed) <= RETIRED
}

#[cfg(test)]
mod tests;

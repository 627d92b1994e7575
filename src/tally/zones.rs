//! What a process did to each slab pool.
//!
//! A pool's counters change under the pool's own mutex only, which whoever calls a `_locked`
//! function of nginx's slab allocator holds. So one thread at a time changes them, and adding is a
//! plain load and a plain store; they are atomics so that a reader without the mutex sees whole
//! numbers.
//!
//! The master has its table in memory that its children share, and each child one of its own, in
//! which the pools that were known at its birth have the same places as in the master's.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The most pools that are told apart, a power of two.
pub const POOLS: usize = 512;

/// A pool's place is one of so many behind the one that its address says.
const PROBES: usize = 32;

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
struct Entry {
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

/// The counters of all pools. All zeroes is an empty one.
#[repr(C)]
#[derive(Debug)]
pub struct Table {
    entries: [Entry; POOLS],
    /// Of all pools for which there is no place. Several threads may add at once.
    other: Entry,
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
    }
}

impl Table {
    /// An empty table.
    pub const fn new() -> Self {
        Table { entries: [const { Entry::new() }; POOLS], other: Entry::new() }
    }

    /// An allocation of `size` bytes came to its end. `masters` is the master's table, for requests
    /// of whole pages.
    pub fn allocated(&self, pool: usize, size: u64, succeeded: bool, masters: Option<&Table>) {
        let Some((place, entry)) = self.place(pool) else {
            let (counter, bytes) = match succeeded {
                true => (&self.other.allocations, size),
                false => (&self.other.failures, 0),
            };
            counter.fetch_add(1, Relaxed);
            self.other.bytes_requested.fetch_add(bytes, Relaxed);
            return;
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
    }

    /// A block was given back.
    pub fn freed(&self, pool: usize) {
        match self.place(pool) {
            Some((_, entry)) => add(&entry.frees, 1),
            None => {
                self.other.frees.fetch_add(1, Relaxed);
            }
        }
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
        for (place, entry) in self.entries.iter().enumerate() {
            let theirs = masters.and_then(|masters| masters.entries.get(place));
            let (pool, serial) = theirs
                .map_or((0, 0), |theirs| (theirs.pool.load(Relaxed), theirs.serial.load(Relaxed)));
            if entry.pool.load(Relaxed) != 0 || pool != 0 {
                entry.clear();
                entry.serial.store(serial, Relaxed);
                entry.pool.store(pool, Relaxed);
            }
        }
        self.other.clear();
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
        let unknown = self.entries.iter().filter(|entry| {
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
        let hash = ((pool as u64) >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let first = (hash >> (64 - POOLS.trailing_zeros())) as usize;
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
        self.candidates(pool).find(|(_, entry)| {
            let last = entry.pool.load(Relaxed);
            last <= RETIRED && entry.pool.compare_exchange(last, pool, Relaxed, Relaxed).is_ok()
        })
    }
}

fn is_free(entry: &Entry) -> bool {
    entry.pool.load(Relaxed) <= RETIRED
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: usize = 0x7f00_0000_0000;

    fn counts(allocations: u64, frees: u64, failures: u64, bytes_requested: u64) -> Counts {
        Counts { allocations, frees, failures, bytes_requested }
    }

    #[test]
    fn counts_by_pool() {
        let table = Table::new();
        let pool = |i: usize| POOL + i * 0x10_0000;
        for i in 0..100 {
            for size in 0..i as u64 {
                table.allocated(pool(i), size, true, None);
            }
            table.allocated(pool(i), 1 << 40, false, None);
            table.freed(pool(i));
        }
        for i in 0..100 {
            let n = i as u64;
            assert_eq!(table.counts(pool(i)), Some(counts(n, 1, 1, n * n.saturating_sub(1) / 2)));
        }
        assert_eq!(table.counts(pool(100)), Some(Counts::default()), "it did nothing there");
        assert_eq!(table.others(|_| true), Counts::default());
        assert_eq!(table.others(|p| p != pool(7)), counts(7, 1, 1, 21));
    }

    #[test]
    fn more_pools_than_places() {
        let table = Table::new();
        let pools: Vec<usize> = (1..=3 * POOLS).map(|i| POOL + i * 4096).collect();
        for pool in &pools {
            table.allocated(*pool, 10, true, None);
            table.allocated(*pool, 10, false, None);
            table.freed(*pool);
        }
        let told: Vec<_> = pools.iter().filter_map(|pool| table.counts(*pool)).collect();
        assert!(told.len() > POOLS / 2 && told.len() <= POOLS, "{}", told.len());
        assert!(told.iter().all(|c| *c == counts(1, 1, 1, 10)));
        let rest = (pools.len() - told.len()) as u64;
        let known = |pool: usize| table.counts(pool).is_some();
        assert_eq!(table.others(known), counts(rest, rest, rest, 10 * rest));
        table.freed(0);
        table.freed(RETIRED);
        assert_eq!(table.others(known), counts(rest, rest + 2, rest, 10 * rest));
    }

    #[test]
    fn pools_come_and_go() {
        let table = Table::new();
        table.begin(POOL, 1);
        table.allocated(POOL, 5000, true, Some(&table));
        table.allocated(POOL, 8, true, None);
        table.allocated(POOL, 9000, false, Some(&table));
        assert_eq!(table.counts(POOL), Some(counts(2, 0, 1, 5008)));
        assert_eq!(table.page_counts(POOL, 1), Some(PageCounts { reqs: 2, fails: 1 }));
        assert_eq!(table.page_counts(POOL, 2), None, "another mapping at the address");
        table.end(POOL);
        assert_eq!(table.page_counts(POOL, 1), None);
        assert_eq!(table.counts(POOL), Some(Counts::default()));
        table.begin(POOL, 2);
        assert_eq!(table.page_counts(POOL, 2), Some(PageCounts::default()));
        for i in 0..100_000 {
            table.begin(POOL + i * 4096, i as u64 + 10);
            table.end(POOL + i * 4096);
        }
        table.begin(POOL, 3);
        table.allocated(POOL, 1, true, None);
        assert_eq!(table.counts(POOL), Some(counts(1, 0, 0, 1)), "places are taken again");
    }

    #[test]
    fn a_child_counts_for_itself() {
        let (masters, child, sibling) = (Table::new(), Table::new(), Table::new());
        masters.begin(POOL, 1);
        masters.begin(POOL + 4096, 2);
        masters.allocated(POOL, 100, true, None);
        for table in [&child, &sibling] {
            table.freed(POOL + 8192);
            table.freed(0);
            table.inherit(Some(&masters));
            assert_eq!(table.others(|_| false), Counts::default());
        }
        child.allocated(POOL, 4096, true, Some(&masters));
        sibling.allocated(POOL, 4096, false, Some(&masters));
        sibling.allocated(POOL + 8192, 4096, true, Some(&masters));
        assert_eq!(child.counts(POOL), Some(counts(1, 0, 0, 4096)));
        assert_eq!(sibling.counts(POOL), Some(counts(0, 0, 1, 0)));
        assert_eq!(masters.counts(POOL), Some(counts(1, 0, 0, 100)));
        assert_eq!(masters.page_counts(POOL, 1), Some(PageCounts { reqs: 2, fails: 1 }));
        // The pool of before the reload is gone in the master, not in the child.
        masters.end(POOL);
        masters.begin(POOL, 3);
        child.allocated(POOL, 4096, false, Some(&masters));
        assert_eq!(child.counts(POOL), Some(counts(1, 0, 1, 4096)));
        assert_eq!(masters.page_counts(POOL, 3), Some(PageCounts::default()));
        child.inherit(None);
        assert_eq!(child.others(|_| false), Counts::default());
    }

    #[test]
    fn threads_in_different_pools() {
        let table = Table::new();
        std::thread::scope(|scope| {
            for i in 0..8 {
                let table = &table;
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        table.allocated(POOL + i * 4096, 1, true, None);
                        table.freed(0);
                    }
                });
            }
        });
        for i in 0..8 {
            assert_eq!(table.counts(POOL + i * 4096), Some(counts(10_000, 0, 0, 10_000)));
        }
        assert_eq!(table.others(|_| true), counts(0, 80_000, 0, 0));
    }
}

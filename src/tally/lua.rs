//! What a Lua VM has got from its allocator.
//!
//! A VM is used by one thread at a time, which counts here; another one may read meanwhile. So the
//! counters are atomics that are loaded and stored, never exchanged: the code of a plain counter.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The classes of block sizes: up to 16 bytes, up to 32, and so on to 1 MiB, and what is larger.
pub const CLASSES: usize = 18;

/// The largest size of a class in bytes; `None` for the last one.
pub fn class_limit(class: usize) -> Option<u64> {
    (class < CLASSES - 1).then(|| 16 << class)
}

/// The class of a size.
fn class_of(size: u64) -> usize {
    let over = size.saturating_sub(1) >> 4;
    ((u64::BITS - over.leading_zeros()) as usize).min(CLASSES - 1)
}

/// A counter that one thread writes.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }

    fn sub(&self, less: u64) {
        self.set(self.get().wrapping_sub(less));
    }
}

/// The counters of one VM.
#[derive(Debug, Default)]
pub struct Tally {
    live: Count,
    peak: Count,
    allocations: Count,
    resizes: Count,
    frees: Count,
    failures: Count,
    chunks: Count,
    direct: Count,
    directs: Count,
    sizes: [Count; CLASSES],
}

/// The figures of one VM, or of several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes the VM has asked for and not given back.
    pub live: u64,
    /// The most it had.
    pub peak: u64,
    /// Blocks it was given.
    pub allocations: u64,
    /// Blocks that were made larger or smaller.
    pub resizes: u64,
    /// Blocks it has given back.
    pub frees: u64,
    /// Requests that were refused.
    pub failures: u64,
    /// Bytes of the chunks its blocks are in, those with a mapping of their own apart.
    pub chunks: u64,
    /// Bytes of the mappings of blocks that have one of their own.
    pub direct: u64,
    /// Such mappings.
    pub directs: u64,
    /// New sizes of blocks, given or resized, by class.
    pub sizes: [u64; CLASSES],
}

/// Where a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a chunk of so many bytes.
    Chunk(u64),
    /// In a mapping of its own of so many bytes.
    Direct(u64),
    /// In an allocator of which nothing is known.
    Unknown,
}

impl Tally {
    /// Begins anew, with a VM that has `live` bytes in `blocks` blocks; `chunks` and `directs` as in
    /// [`Figures`].
    pub fn begin(&self, live: u64, blocks: u64, chunks: u64, (direct, directs): (u64, u64)) {
        for count in [&self.resizes, &self.frees, &self.failures] {
            count.set(0);
        }
        self.sizes.iter().for_each(|count| count.set(0));
        self.live.set(live);
        self.peak.set(live);
        self.allocations.set(blocks);
        self.chunks.set(chunks);
        self.direct.set(direct);
        self.directs.set(directs);
    }

    /// A block was given.
    #[inline]
    pub fn allocated(&self, size: usize, place: Place) {
        self.allocations.add(1);
        self.grow(0, size as u64);
        self.hold(place);
    }

    /// A block was made larger or smaller, and may have moved.
    #[inline]
    pub fn resized(&self, from: (usize, Place), to: (usize, Place)) {
        self.resizes.add(1);
        self.grow(from.0 as u64, to.0 as u64);
        self.release(from.1);
        self.hold(to.1);
    }

    /// A block was given back.
    #[inline]
    pub fn freed(&self, size: usize, place: Place) {
        self.frees.add(1);
        self.live.sub(size as u64);
        self.release(place);
    }

    /// A request was refused.
    #[inline]
    pub fn failed(&self) {
        self.failures.add(1);
    }

    #[inline]
    fn grow(&self, from: u64, to: u64) {
        let live = self.live.get().wrapping_add(to).wrapping_sub(from);
        self.live.set(live);
        if live > self.peak.get() {
            self.peak.set(live);
        }
        if let Some(count) = self.sizes.get(class_of(to)) {
            count.add(1);
        }
    }

    #[inline]
    fn hold(&self, place: Place) {
        match place {
            Place::Chunk(bytes) => self.chunks.add(bytes),
            Place::Direct(bytes) => {
                self.direct.add(bytes);
                self.directs.add(1);
            }
            Place::Unknown => {}
        }
    }

    #[inline]
    fn release(&self, place: Place) {
        match place {
            Place::Chunk(bytes) => self.chunks.sub(bytes),
            Place::Direct(bytes) => {
                self.direct.sub(bytes);
                self.directs.sub(1);
            }
            Place::Unknown => {}
        }
    }

    /// Requests so far: the same before and after a reading when nothing happened in between.
    pub fn requests(&self) -> u64 {
        [&self.allocations, &self.resizes, &self.frees, &self.failures]
            .iter()
            .fold(0, |sum, count| sum.wrapping_add(count.get()))
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        Figures {
            live: self.live.get(),
            peak: self.peak.get(),
            allocations: self.allocations.get(),
            resizes: self.resizes.get(),
            frees: self.frees.get(),
            failures: self.failures.get(),
            chunks: self.chunks.get(),
            direct: self.direct.get(),
            directs: self.directs.get(),
            sizes: std::array::from_fn(|i| self.sizes.get(i).map_or(0, Count::get)),
        }
    }
}

impl Figures {
    /// Those of both; the peak is the larger one.
    pub fn add(&mut self, other: &Figures) {
        self.peak = self.peak.max(other.peak);
        for (sum, more) in [
            (&mut self.live, other.live),
            (&mut self.allocations, other.allocations),
            (&mut self.resizes, other.resizes),
            (&mut self.frees, other.frees),
            (&mut self.failures, other.failures),
            (&mut self.chunks, other.chunks),
            (&mut self.direct, other.direct),
            (&mut self.directs, other.directs),
        ] {
            *sum = sum.wrapping_add(more);
        }
        for (sum, more) in self.sizes.iter_mut().zip(other.sizes) {
            *sum = sum.wrapping_add(more);
        }
    }

    /// What is left of a VM that ends: the end frees all its blocks.
    pub fn ended(mut self) -> Figures {
        self.frees = self.frees.max(self.allocations);
        Figures { live: 0, chunks: 0, direct: 0, directs: 0, ..self }
    }
}

/// The sums over the VMs that have ended. Several threads add.
#[derive(Debug)]
pub struct Ended {
    peak: AtomicU64,
    allocations: AtomicU64,
    resizes: AtomicU64,
    frees: AtomicU64,
    failures: AtomicU64,
    sizes: [AtomicU64; CLASSES],
}

impl Ended {
    /// None.
    pub const fn new() -> Self {
        Ended {
            peak: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            resizes: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            sizes: [const { AtomicU64::new(0) }; CLASSES],
        }
    }

    /// Adds a VM.
    pub fn add(&self, figures: &Figures) {
        self.peak.fetch_max(figures.peak, Relaxed);
        self.allocations.fetch_add(figures.allocations, Relaxed);
        self.resizes.fetch_add(figures.resizes, Relaxed);
        self.frees.fetch_add(figures.frees, Relaxed);
        self.failures.fetch_add(figures.failures, Relaxed);
        for (sum, more) in self.sizes.iter().zip(figures.sizes) {
            sum.fetch_add(more, Relaxed);
        }
    }

    /// The sums.
    pub fn figures(&self) -> Figures {
        Figures {
            peak: self.peak.load(Relaxed),
            allocations: self.allocations.load(Relaxed),
            resizes: self.resizes.load(Relaxed),
            frees: self.frees.load(Relaxed),
            failures: self.failures.load(Relaxed),
            sizes: std::array::from_fn(|i| self.sizes.get(i).map_or(0, |n| n.load(Relaxed))),
            ..Figures::default()
        }
    }
}

impl Default for Ended {
    fn default() -> Self {
        Ended::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        for (size, class) in [
            (0, 0),
            (1, 0),
            (16, 0),
            (17, 1),
            (32, 1),
            (33, 2),
            (1 << 20, 16),
            ((1 << 20) + 1, 17),
            (u64::MAX, 17),
        ] {
            assert_eq!(class_of(size), class, "{size}");
        }
        for class in 0..CLASSES - 1 {
            let limit = class_limit(class).unwrap();
            assert_eq!((class_of(limit), class_of(limit + 1)), (class, class + 1));
        }
        assert_eq!(class_limit(CLASSES - 1), None);
    }

    #[test]
    fn the_life_of_a_vm() {
        let tally = Tally::default();
        tally.begin(1000, 10, 1100, (0, 0));
        tally.allocated(100, Place::Chunk(112));
        tally.allocated(200_000, Place::Direct(204_800));
        tally.resized((100, Place::Chunk(112)), (300, Place::Chunk(312)));
        tally.failed();
        tally.freed(200_000, Place::Direct(204_800));
        let mut sizes = [0; CLASSES];
        (sizes[3], sizes[5], sizes[14]) = (1, 1, 1);
        let figures = Figures {
            live: 1300,
            peak: 201_300,
            allocations: 12,
            resizes: 1,
            frees: 1,
            failures: 1,
            chunks: 1412,
            direct: 0,
            directs: 0,
            sizes,
        };
        assert_eq!(tally.figures(), figures);
        assert_eq!(tally.requests(), 15);

        let ended = Ended::new();
        ended.add(&figures.clone().ended());
        ended.add(&Figures { peak: 7, allocations: 1, frees: 1, ..Figures::default() });
        let mut sum = Figures { live: 5, peak: 6, ..Figures::default() };
        sum.add(&ended.figures());
        let expected = Figures { live: 5, allocations: 13, frees: 13, chunks: 0, ..figures };
        assert_eq!(sum, expected);

        tally.begin(7, 1, 16, (4096, 1));
        let begun = Figures {
            live: 7,
            peak: 7,
            allocations: 1,
            chunks: 16,
            direct: 4096,
            directs: 1,
            ..Figures::default()
        };
        assert_eq!(tally.figures(), begun);
    }
}

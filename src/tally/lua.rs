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

/// Tells the compiler that a branch is seldom taken.
#[cold]
#[inline]
fn seldom() {}

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

/// The largest size of a small block. Those are counted by steps of [`STEP`] bytes, of which the
/// classes are made when they are read: a step takes a shift to find.
pub const SMALL: usize = 4096;
/// The limits of the classes are multiples of it.
const STEP: usize = 16;

/// The counters of one VM, what every call changes first.
#[derive(Debug)]
#[repr(C)]
pub struct Tally {
    /// The small block that the allocator is asked for, or was last.
    asked: Count,
    /// How much more than now it had at most; below 0 where `top` is to be raised.
    room: Count,
    chunks: Count,
    frees: Count,
    top: Count,
    resizes: Count,
    failures: Count,
    /// Blocks it had when the counting began.
    born: Count,
    direct: Count,
    directs: Count,
    /// New sizes of blocks, given or resized: of small ones by step, of others by class.
    small: [Count; SMALL / STEP],
    large: [Count; CLASSES],
}

impl Default for Tally {
    fn default() -> Self {
        let zero = Count::default;
        Tally {
            asked: zero(),
            room: zero(),
            chunks: zero(),
            frees: zero(),
            top: zero(),
            resizes: zero(),
            failures: zero(),
            born: zero(),
            direct: zero(),
            directs: zero(),
            small: std::array::from_fn(|_| zero()),
            large: std::array::from_fn(|_| zero()),
        }
    }
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
        for count in [&self.room, &self.frees, &self.resizes, &self.failures] {
            count.set(0);
        }
        self.small.iter().chain(&self.large).for_each(|count| count.set(0));
        self.top.set(live);
        self.born.set(blocks);
        self.chunks.set(chunks);
        self.direct.set(direct);
        self.directs.set(directs);
    }

    /// A small block is asked for: [`Tally::given`] or [`Tally::refused`] says what came of it.
    #[inline]
    pub fn ask(&self, size: usize) {
        self.count(size, 1);
        self.asked.set(size as u64);
    }

    /// The block asked for was given, in a chunk of so many bytes.
    #[inline]
    pub fn given(&self, chunk: usize) {
        self.room.sub(self.asked.get());
        self.chunks.add(chunk as u64);
    }

    /// The block asked for was refused.
    #[cold]
    pub fn refused(&self) {
        self.count(self.asked.get() as usize, -1);
        self.failures.add(1);
    }

    /// A block was given.
    #[inline]
    pub fn allocated(&self, size: usize, place: Place) {
        self.count(size, 1);
        self.room.sub(size as u64);
        self.hold(place);
    }

    /// A block was made larger or smaller, and may have moved.
    #[inline]
    pub fn resized(&self, from: (usize, Place), to: (usize, Place)) {
        self.resizes.add(1);
        self.count(to.0, 1);
        self.raise();
        self.room.sub((to.0 as u64).wrapping_sub(from.0 as u64));
        self.release(from.1);
        self.hold(to.1);
    }

    /// A block was given back.
    #[inline]
    pub fn freed(&self, size: usize, place: Place) {
        self.release(place);
        self.raise();
        self.room.add(size as u64);
        self.frees.add(1);
    }

    /// A request was refused.
    #[inline]
    pub fn failed(&self) {
        self.failures.add(1);
    }

    /// The most it had is looked for only before it gets less.
    #[inline]
    fn raise(&self) {
        let room = self.room.get();
        if (room as i64) < 0 {
            seldom();
            self.top.sub(room);
            self.room.set(0);
        }
    }

    #[inline]
    fn count(&self, size: usize, more: i64) {
        let count = match self.small.get(size.wrapping_sub(1) / STEP) {
            Some(count) => count,
            None => match self.large.get(class_of(size as u64)) {
                Some(count) => count,
                None => return,
            },
        };
        count.add(more as u64);
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

    /// Bytes the VM has.
    pub fn live(&self) -> u64 {
        self.top.get().wrapping_sub(self.room.get())
    }

    /// The figures. While another thread counts they are of one moment if they are the same when
    /// they are read again.
    pub fn figures(&self) -> Figures {
        let mut sizes = self.large.each_ref().map(Count::get);
        for (step, count) in self.small.iter().enumerate() {
            if let Some(sum) = sizes.get_mut(class_of(((step + 1) * STEP) as u64)) {
                *sum = sum.wrapping_add(count.get());
            }
        }
        let sized = sizes.iter().fold(0u64, |sum, count| sum.wrapping_add(*count));
        let (resizes, live) = (self.resizes.get(), self.live());
        Figures {
            live,
            peak: self.top.get().max(live),
            allocations: self.born.get().wrapping_add(sized).wrapping_sub(resizes),
            resizes,
            frees: self.frees.get(),
            failures: self.failures.get(),
            chunks: self.chunks.get(),
            direct: self.direct.get(),
            directs: self.directs.get(),
            sizes,
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
mod tests;

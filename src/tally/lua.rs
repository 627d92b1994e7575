//! Counts the memory that a Lua VM has allocated.
//!
//! One thread at a time uses a VM and counts here; another thread may read meanwhile. The counters
//! are therefore atomics that are only loaded and stored, never exchanged, which compiles to the
//! code of a plain counter.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The number of classes of block sizes: up to 16 bytes, up to 32, and so on to 1 MiB, and larger
/// ones.
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

/// Marks a branch as rarely taken for the compiler.
#[cold]
#[inline]
fn unlikely() {}

/// A counter that one thread writes.
#[derive(Debug, Default)]
pub struct ThreadCounter(AtomicU64);

impl ThreadCounter {
    /// The value.
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

/// The largest size of a small block in bytes. Small blocks are counted by steps of [`STEP`] bytes,
/// because a single shift finds the step; reading the figures sums the steps to classes.
pub const SMALL: usize = 4096;
/// The bytes of a step. The limits of the classes are multiples of it.
const STEP: usize = 16;

/// The counters of one VM. Those that every call changes come first.
#[derive(Debug)]
#[repr(C)]
pub struct Tally {
    /// The size of the small block that is requested now, or was requested last.
    asked: ThreadCounter,
    /// `top` minus the live bytes. A value below 0 means that `top` has to be raised.
    room: ThreadCounter,
    chunks: ThreadCounter,
    frees: ThreadCounter,
    top: ThreadCounter,
    resizes: ThreadCounter,
    failures: ThreadCounter,
    /// The number of blocks when counting began.
    born: ThreadCounter,
    direct: ThreadCounter,
    directs: ThreadCounter,
    /// The new sizes of small blocks, allocated or resized, by step.
    small: [ThreadCounter; SMALL / STEP],
    /// The new sizes of all other blocks, by class.
    large: [ThreadCounter; CLASSES],
}

impl Default for Tally {
    fn default() -> Self {
        let zero = ThreadCounter::default;
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

/// The figures of one or several VMs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmFigures {
    /// Bytes that the VM has requested and not freed.
    pub live: u64,
    /// The largest value of `live` so far.
    pub peak: u64,
    /// Allocated blocks.
    pub allocations: u64,
    /// Blocks that were made larger or smaller.
    pub resizes: u64,
    /// Freed blocks.
    pub frees: u64,
    /// Requests that were refused.
    pub failures: u64,
    /// Bytes of the chunks that hold blocks, without the direct mappings.
    pub chunks: u64,
    /// Bytes of the direct mappings, which hold one block each.
    pub direct: u64,
    /// The number of direct mappings.
    pub directs: u64,
    /// The new sizes of blocks that were allocated or resized, by class.
    pub sizes: [u64; CLASSES],
}

/// The place of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockPlace {
    /// In a chunk, whose size in bytes is given.
    Chunk(u64),
    /// In a direct mapping, whose size in bytes is given.
    Direct(u64),
    /// In an allocator whose structures are unknown.
    Unknown,
}

impl Tally {
    /// Resets the counters for a VM that has `live` bytes in `blocks` blocks. `chunks`, `direct`
    /// and `directs` are as in [`VmFigures`].
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

    /// Counts the request of a small block. [`Tally::given`] or [`Tally::refused`] must follow.
    #[inline]
    pub fn ask(&self, size: usize) {
        self.count(size, 1);
        self.asked.set(size as u64);
    }

    /// Counts that the requested block was allocated, in a chunk of `chunk` bytes.
    #[inline]
    pub fn given(&self, chunk: usize) {
        self.room.sub(self.asked.get());
        self.chunks.add(chunk as u64);
    }

    /// Counts that the requested block was refused.
    #[cold]
    pub fn refused(&self) {
        self.count(self.asked.get() as usize, -1);
        self.failures.add(1);
    }

    /// Counts an allocated block.
    #[inline]
    pub fn allocated(&self, size: usize, place: BlockPlace) {
        self.count(size, 1);
        self.room.sub(size as u64);
        self.hold(place);
    }

    /// Counts a block that was made larger or smaller and may have moved.
    #[inline]
    pub fn resized(&self, from: (usize, BlockPlace), to: (usize, BlockPlace)) {
        self.resizes.add(1);
        self.count(to.0, 1);
        self.raise();
        self.room.sub((to.0 as u64).wrapping_sub(from.0 as u64));
        self.release(from.1);
        self.hold(to.1);
    }

    /// Counts a freed block.
    #[inline]
    pub fn freed(&self, size: usize, place: BlockPlace) {
        self.release(place);
        self.raise();
        self.room.add(size as u64);
        self.frees.add(1);
    }

    /// Counts a request that was refused.
    #[inline]
    pub fn failed(&self) {
        self.failures.add(1);
    }

    /// Raises `top` if needed. This is called only before the live bytes may decrease.
    #[inline]
    fn raise(&self) {
        let room = self.room.get();
        if (room as i64) < 0 {
            unlikely();
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
    fn hold(&self, place: BlockPlace) {
        match place {
            BlockPlace::Chunk(bytes) => self.chunks.add(bytes),
            BlockPlace::Direct(bytes) => {
                self.direct.add(bytes);
                self.directs.add(1);
            }
            BlockPlace::Unknown => {}
        }
    }

    #[inline]
    fn release(&self, place: BlockPlace) {
        match place {
            BlockPlace::Chunk(bytes) => self.chunks.sub(bytes),
            BlockPlace::Direct(bytes) => {
                self.direct.sub(bytes);
                self.directs.sub(1);
            }
            BlockPlace::Unknown => {}
        }
    }

    /// Bytes that the VM has.
    pub fn live(&self) -> u64 {
        self.top.get().wrapping_sub(self.room.get())
    }

    /// The figures. While another thread counts, they are of one moment if reading them again
    /// returns the same.
    pub fn figures(&self) -> VmFigures {
        let mut sizes = self.large.each_ref().map(ThreadCounter::get);
        for (step, count) in self.small.iter().enumerate() {
            if let Some(sum) = sizes.get_mut(class_of(((step + 1) * STEP) as u64)) {
                *sum = sum.wrapping_add(count.get());
            }
        }
        let sized = sizes.iter().fold(0u64, |sum, count| sum.wrapping_add(*count));
        let (resizes, live) = (self.resizes.get(), self.live());
        VmFigures {
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

impl VmFigures {
    /// Adds the figures of another VM. The peak is the larger one of both.
    pub fn add(&mut self, other: &VmFigures) {
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

    /// The figures of a VM that ends, which frees all its blocks.
    pub fn ended(mut self) -> VmFigures {
        self.frees = self.frees.max(self.allocations);
        VmFigures { live: 0, chunks: 0, direct: 0, directs: 0, ..self }
    }
}

/// The sums over the VMs that have ended. Several threads may add at once.
#[derive(Debug)]
pub struct EndedVms {
    peak: AtomicU64,
    allocations: AtomicU64,
    resizes: AtomicU64,
    frees: AtomicU64,
    failures: AtomicU64,
    sizes: [AtomicU64; CLASSES],
}

impl EndedVms {
    /// The sums of no VMs.
    pub const fn new() -> Self {
        EndedVms {
            peak: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            resizes: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            sizes: [const { AtomicU64::new(0) }; CLASSES],
        }
    }

    /// Adds a VM.
    pub fn add(&self, figures: &VmFigures) {
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
    pub fn figures(&self) -> VmFigures {
        VmFigures {
            peak: self.peak.load(Relaxed),
            allocations: self.allocations.load(Relaxed),
            resizes: self.resizes.load(Relaxed),
            frees: self.frees.load(Relaxed),
            failures: self.failures.load(Relaxed),
            sizes: std::array::from_fn(|i| self.sizes.get(i).map_or(0, |n| n.load(Relaxed))),
            ..VmFigures::default()
        }
    }
}

impl Default for EndedVms {
    fn default() -> Self {
        EndedVms::new()
    }
}

#[cfg(test)]
mod tests;

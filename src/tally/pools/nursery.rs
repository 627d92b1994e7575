//! The nursery: a table of young pools with one place for each, so that a pool that ends soon costs
//! as few instructions as possible.
//!
//! Most pools live for one request: they begin and end here. A pool whose place another pool needs
//! is old, and moves to [`Live`](super::Live) for good. So does every pool before figures are read:
//! no figure includes pools that are still here.
//!
//! A *kind* is a creator and the size that it requests. Its place in the table of kinds is the
//! lowest byte of the creator's *mark*, the sum of the return address of its call and the thread
//! pointer. Comparing marks therefore compares both. All blocks of a pool have the size of the
//! first one. For a pool without large allocations, the number of blocks is counted by kind when it
//! ends, and its size is computed later. Other pools are counted by kind as long as they are
//! *alike*, which means that their sizes are in one class ([`size_class`]): the size of the largest
//! one gives the class of all of them and the peak.
//!
//! The hooks' code on x86_64 (`hook::arch::pool`) handles the most common cases itself, on the same
//! memory. For a pool that ends with two blocks, as that of a small request does, it takes these
//! instructions:
//!
//! - 20 to create: 3 to call the original with the stack aligned, 2 for the mark, 1 for the address
//!   of the tables, 4 to check whether the kind is known, 3 to check whether the place is free, 1
//!   to branch if not, 2 to fill it, 3 for the time, 1 to return.
//! - 17 to destroy: 1 for the address of the tables, 2 for the place, 4 to check whether this is
//!   the main thread and the pool is in its place, 6 to check whether there are two blocks and
//!   nothing large, 2 to count it, 1 to empty the place, 1 to jump to the original.
//!
//! A pool with one block takes 1 less, and one with three blocks 11 more. A pool with one block and
//! one large allocation takes 36 to destroy, plus the C library's function that returns the size of
//! the allocation: 12 to see that it is none of the above, 5 to check whether this is the main
//! thread and the pool is in its place, 3 to check that there is only one allocation, 4 to get its
//! size with the stack aligned, 2 to add the size of the block, 3 to compute the tables and the
//! place again, 4 to check whether the pool is like those before, 3 as above. With two blocks it
//! takes 6 more. The jumps from nginx's code to the hook and back take another 6.
//!
//! A pool that frees large allocations is *looked at* (measured) first, because it may never be as
//! large again. Many pools do so with one block and one large allocation, as the pool of a
//! connection does after each request. When such a pool has been looked at, its place keeps the
//! largest size that the allocation may have ([`Nursery::enough`]) before the pool has to be looked
//! at again. The next pool that is created in the same place, young or old, overwrites this with
//! its kind. A free then takes 20 instructions, plus the C library's function that returns the
//! size: 3 for the place, 2 to check whether it is this pool, 4 to check whether it has one block
//! and one allocation, 8 to get the size, 2 to compare, 1 to jump to the original. For a young pool
//! with a few blocks and allocations, their sum is compared with the peak of its kind.
//!
//! All accesses are atomic and relaxed: another thread that gets here does no harm, but the figures
//! are wrong then. The hooks notice such a thread and stop reporting figures.
#![forbid(unsafe_code)]

use std::mem::offset_of;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::creators::{least_size, size_class};

/// The number of places for pools.
const PLACES: usize = 512;

/// A pool's place is the upper bits of the lower half of its address times this. The factor was
/// found by trial: 200 consecutive pools get 120 different places or more, at any distance up to 8
/// KB.
pub const FACTOR: u32 = 0xb6df_b51f;
/// The number of lower bits of the product that are dropped.
pub const SHIFT: u32 = u32::BITS - PLACES.trailing_zeros();

/// The number of places for kinds.
const KINDS: usize = 256;

/// Pools with up to this number of blocks and without large allocations are counted by their number
/// of blocks when they end.
const BLOCKS: usize = 3;

/// The number of bits of the lower half of a word.
const HALF: u32 = 32;

/// The content of the first place, which is that of a null pointer and is never free.
const TAKEN: usize = 1;

/// The tables.
#[derive(Debug)]
#[repr(C)]
pub struct Nursery {
    /// The pool in each place; 0 if the place is free.
    pools: [AtomicUsize; PLACES],
    /// The time of its creation, in milliseconds.
    created: [AtomicUsize; PLACES],
    /// In the lowest byte, its kind. In the upper half, the lower half of the address of the pool
    /// to which `enough` applies, which may be another one.
    kinds: [AtomicU64; PLACES],
    /// The largest size of the large allocation, in bytes, with which a pool of one block and one
    /// large allocation does not exceed the peak of its creator.
    enough: [AtomicU64; PLACES],
    /// The mark of each kind; 0 if there is none.
    marks: [AtomicUsize; KINDS],
    /// The requested size in bytes.
    sizes: [AtomicUsize; KINDS],
    /// The index of the creator.
    creators: [AtomicU16; KINDS],
    /// A lower bound of the peak of the creator, in bytes.
    peaks: [AtomicU64; KINDS],
    /// Ended pools without large allocations: those with one block, with two, and so on.
    ended: [[AtomicU64; KINDS]; BLOCKS],
    /// For the other ended pools of each kind, which are alike: the smallest size of their size
    /// class.
    least: [AtomicU64; KINDS],
    /// The size of the largest of these pools minus `least`.
    above: [AtomicU64; KINDS],
    /// The number of these pools.
    alike: [AtomicU64; KINDS],
}

/// A pool that was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Its address.
    pub pool: usize,
    /// The mark of its creator.
    pub mark: usize,
    /// The requested size in bytes.
    pub size: usize,
    /// The time of creation, in milliseconds.
    pub at: usize,
}

/// A pool that leaves the nursery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    /// Its address.
    pub pool: usize,
    /// The index of its creator.
    pub creator: usize,
    /// The time of its creation, in milliseconds.
    pub at: usize,
}

/// Pools that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedPools {
    /// The index of their creator.
    pub creator: usize,
    /// The size of the largest one in bytes; the others have this size or one of the same class.
    pub size: u64,
    /// The number of pools.
    pub count: u64,
}

impl Nursery {
    /// The offset of `pools` in this struct, in bytes.
    pub const POOLS: usize = offset_of!(Nursery, pools);
    /// The offset of `created`.
    pub const CREATED: usize = offset_of!(Nursery, created);
    /// The offset of `kinds`.
    pub const KINDS: usize = offset_of!(Nursery, kinds);
    /// The offset of the upper halves of `kinds`, which have the same distance from each other.
    pub const LOOKED_AT: usize = offset_of!(Nursery, kinds) + 4;
    /// The offset of `enough`.
    pub const ENOUGH: usize = offset_of!(Nursery, enough);
    /// The offset of `marks`.
    pub const MARKS: usize = offset_of!(Nursery, marks);
    /// The offset of `sizes`.
    pub const SIZES: usize = offset_of!(Nursery, sizes);
    /// The offset of `peaks`.
    pub const PEAKS: usize = offset_of!(Nursery, peaks);
    /// The offset of the counts of ended pools with one block.
    pub const ENDED: usize = offset_of!(Nursery, ended);
    /// The distance from these counts to those of pools with one more block, in bytes.
    pub const ENDED_NEXT: usize = size_of::<[AtomicU64; KINDS]>();
    /// The offset of `least`.
    pub const LEAST: usize = offset_of!(Nursery, least);
    /// The offset of `above`.
    pub const ABOVE: usize = offset_of!(Nursery, above);
    /// The offset of `alike`.
    pub const ALIKE: usize = offset_of!(Nursery, alike);

    /// An empty nursery. It is all zero, so its pages take no memory until they are written.
    pub const fn new() -> Self {
        Nursery {
            pools: [const { AtomicUsize::new(0) }; PLACES],
            created: [const { AtomicUsize::new(0) }; PLACES],
            kinds: [const { AtomicU64::new(0) }; PLACES],
            enough: [const { AtomicU64::new(0) }; PLACES],
            marks: [const { AtomicUsize::new(0) }; KINDS],
            sizes: [const { AtomicUsize::new(0) }; KINDS],
            peaks: [const { AtomicU64::new(0) }; KINDS],
            creators: [const { AtomicU16::new(0) }; KINDS],
            ended: [const { [const { AtomicU64::new(0) }; KINDS] }; BLOCKS],
            least: [const { AtomicU64::new(0) }; KINDS],
            above: [const { AtomicU64::new(0) }; KINDS],
            alike: [const { AtomicU64::new(0) }; KINDS],
        }
    }

    /// The kind of a pool; a new kind is added. `None` if another kind has its place.
    pub fn kind(&self, created: &Created, creator: usize) -> Option<u8> {
        if created.mark == 0 {
            return None;
        }
        let kind = created.mark as u8;
        let place = usize::from(kind);
        let (mark, size) = (self.marks.get(place)?, self.sizes.get(place)?);
        if mark.load(Relaxed) == 0 {
            self.creators.get(place)?.store(u16::try_from(creator).ok()?, Relaxed);
            size.store(created.size, Relaxed);
            self.peaks.get(place)?.store(0, Relaxed);
            mark.store(created.mark, Relaxed);
            self.begin();
            self.pools[0].store(TAKEN, Relaxed);
        }
        let is = (mark.load(Relaxed), size.load(Relaxed)) == (created.mark, created.size);
        is.then_some(kind)
    }

    /// Puts a pool in. Returns the pool that cannot be here: the older one in its place, or the new
    /// one itself.
    pub fn put(&self, created: &Created, creator: usize, kind: u8) -> Option<Leaving> {
        let itself = Leaving { pool: created.pool, creator, at: created.at };
        let place = place_of(created.pool);
        if place == 0 {
            return Some(itself);
        }
        let older = self.leave(place);
        self.created.get(place)?.store(created.at, Relaxed);
        self.kinds.get(place)?.store(kind.into(), Relaxed);
        self.pools.get(place)?.store(created.pool, Relaxed);
        older
    }

    /// Takes a pool out, if it is here.
    pub fn take(&self, pool: usize) -> Option<Leaving> {
        let place = place_of(pool);
        (self.pools.get(place)?.load(Relaxed) == pool).then(|| self.leave(place)).flatten()
    }

    /// Takes out a pool that ends with `size` bytes and counts it with those that are alike.
    /// Returns the pools that are no longer counted here because their sizes are in another class;
    /// their count may be 0. `None` if the pool is not here.
    pub fn end(&self, pool: usize, size: u64) -> Option<EndedPools> {
        let place = place_of(pool);
        let here = self.pools.get(place)?;
        if here.load(Relaxed) != pool || place == 0 {
            return None;
        }
        here.store(0, Relaxed);
        let kind = self.kind_at(place)?;
        let least = least_size(size_class(size));
        let mut others = EndedPools { creator: self.creator(kind)?, size: 0, count: 0 };
        if self.least.get(kind)?.load(Relaxed) != least {
            others = self.end_alike(kind)?;
            self.least.get(kind)?.store(least, Relaxed);
        }
        self.above.get(kind)?.fetch_max(size.saturating_sub(least), Relaxed);
        self.alike.get(kind)?.fetch_add(1, Relaxed);
        Some(others)
    }

    /// Takes all pools out.
    pub fn leave_all(&self) -> impl Iterator<Item = Leaving> + '_ {
        (0..PLACES).filter_map(|place| self.leave(place))
    }

    fn leave(&self, place: usize) -> Option<Leaving> {
        let pool = self.pools.get(place)?;
        let leaving = Leaving {
            pool: pool.load(Relaxed),
            creator: self.creator(self.kind_at(place)?)?,
            at: self.created.get(place)?.load(Relaxed),
        };
        if leaving.pool == 0 || leaving.pool == TAKEN {
            return None;
        }
        pool.store(0, Relaxed);
        Some(leaving)
    }

    fn kind_at(&self, place: usize) -> Option<usize> {
        Some(usize::from(self.kinds.get(place)?.load(Relaxed) as u8))
    }

    /// The index of the creator of a pool, if the pool is here.
    pub fn creator_of(&self, pool: usize) -> Option<usize> {
        let place = place_of(pool);
        let is_here = place != 0 && self.pools.get(place)?.load(Relaxed) == pool;
        is_here.then(|| self.creator(self.kind_at(place)?)).flatten()
    }

    /// Must be called before pools are looked at: it makes sure that no pool counts as looked at in
    /// the first place, not even one whose address ends with zeroes.
    pub fn begin(&self) {
        self.kinds[0].store(1 << HALF, Relaxed);
    }

    /// Notes that a pool was looked at. `peak` is the peak of its creator and `of_block` the size
    /// of a block, in bytes.
    pub fn looked_at(&self, pool: usize, peak: u64, of_block: u64) -> Option<()> {
        let place = place_of(pool);
        let word = self.kinds.get(place).filter(|_| place != 0)?;
        let kind = word.load(Relaxed) as u8;
        self.enough.get(place)?.store(peak.saturating_sub(of_block), Relaxed);
        word.store(u64::from(kind) | (pool as u64) << HALF, Relaxed);
        if self.pools.get(place)?.load(Relaxed) == pool {
            self.peaks.get(usize::from(kind))?.store(peak, Relaxed);
        }
        Some(())
    }

    /// Whether a pool was looked at and no other was created in its place since.
    pub fn is_looked_at(&self, pool: usize) -> bool {
        let word = self.kinds.get(place_of(pool)).map_or(0, |kind| kind.load(Relaxed));
        place_of(pool) != 0 && (word >> HALF) as u32 == pool as u32
    }

    /// Requires a new look at a pool: another one is created at its address, or it is treated as
    /// new.
    pub fn look_again(&self, pool: usize) {
        if self.is_looked_at(pool) {
            if let Some(kind) = self.kinds.get(place_of(pool)) {
                kind.store(u64::from(kind.load(Relaxed) as u8), Relaxed);
            }
        }
    }

    /// Requires a new look at all pools.
    pub fn look_at_all(&self) {
        for kind in &self.kinds {
            kind.store(u64::from(kind.load(Relaxed) as u8), Relaxed);
        }
        self.begin();
    }

    fn creator(&self, kind: usize) -> Option<usize> {
        Some(self.creators.get(kind)?.load(Relaxed).into())
    }

    /// Forgets all kinds and returns the pools of them that have ended. No pool may be here.
    pub fn end_all(&self) -> impl Iterator<Item = EndedPools> + '_ {
        let kinds = self.marks.iter().enumerate();
        let kinds = kinds.filter(|(_, mark)| mark.load(Relaxed) != 0);
        kinds.flat_map(move |(kind, mark)| {
            mark.store(0, Relaxed);
            let by_blocks = (1..).zip(&self.ended);
            let by_blocks = by_blocks.map(move |(blocks, ended)| self.ended(kind, blocks, ended));
            by_blocks.chain([self.end_alike(kind)]).flatten().filter(|ended| ended.count != 0)
        })
    }

    fn ended(&self, kind: usize, blocks: u64, ended: &[AtomicU64; KINDS]) -> Option<EndedPools> {
        let size = blocks.saturating_mul(self.sizes.get(kind)?.load(Relaxed) as u64);
        let count = ended.get(kind)?.swap(0, Relaxed);
        Some(EndedPools { creator: self.creator(kind)?, size, count })
    }

    fn end_alike(&self, kind: usize) -> Option<EndedPools> {
        let least = self.least.get(kind)?.swap(0, Relaxed);
        let size = least.saturating_add(self.above.get(kind)?.swap(0, Relaxed));
        let count = self.alike.get(kind)?.swap(0, Relaxed);
        Some(EndedPools { creator: self.creator(kind)?, size, count })
    }
}

impl Default for Nursery {
    fn default() -> Self {
        Nursery::new()
    }
}

/// The place of a pool.
fn place_of(pool: usize) -> usize {
    ((pool as u32).wrapping_mul(FACTOR) >> SHIFT) as usize
}

#[cfg(test)]
mod tests;

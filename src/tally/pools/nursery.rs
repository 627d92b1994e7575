//! Where young pools are kept: a table with one place for each, so that a pool that ends soon costs
//! as few instructions as can be.
//!
//! Most pools live for a request. They come and go here; a pool whose place another one needs is old,
//! and moves to [`Live`](super::Live) for good. So does every pool before anything is read: what is
//! here is never part of a figure.
//!
//! A *kind* is a creator and the size it asks for. Its place in the table of kinds is the lowest byte
//! of the creator's *mark*: the address that its call returns to, and the thread pointer, added up.
//! Comparing one with the mark of a kind compares both. All blocks of a pool have the size of the
//! first, so of a pool without large allocations the number of blocks is counted when it ends, by
//! kind, and what it held is worked out later. Others are counted by kind as long as they are *alike*,
//! their sizes of one class ([`size_class`]): the largest of them says the class of each, and the peak.
//!
//! The hooks' code on x86_64 (`hook::arch::pool`) does the commonest of this itself, on the same
//! memory. For a pool that ends with two blocks, as that of a small request does, it takes these
//! instructions:
//!
//! - 20 to create: 3 to call the original with the stack aligned, 2 for the mark, 1 for the address
//!   of the tables, 4 for whether the kind is known, 3 for whether the place is free, 1 to go
//!   elsewhere if not, 2 to fill it, 3 for the time, 1 to return.
//! - 17 to destroy: 1 for the address of the tables, 2 for the place, 4 for whether this is the main
//!   thread and the pool in its place, 6 for whether there are two blocks and nothing large, 2 to
//!   count it, 1 to empty the place, 1 to go on to the original.
//!
//! A pool with one block takes 1 less, one with three 11 more. With one block and one large allocation
//! it takes 36 to destroy, besides what the C library does to tell its size: 12 to see that it is none
//! of those above, 5 for whether this is the main thread and the pool in its place, 3 for whether one
//! is all, 4 to ask for its size with the stack aligned, 2 to add that of the block, 3 for the tables and
//! the place anew, 4 for whether it is like those before, 3 as above. With two blocks they are 6 more.
//! Six further ones are the jumps from nginx's code to there and back.
//!
//! A pool that gives back large allocations is *looked at* first, for it will never be as large again.
//! Many do so with one block and one large allocation, as that of a connection does after each request:
//! of such a pool that was looked at before it is kept here, in its place, how large the allocation may
//! be ([`Nursery::enough`]) before it is to be looked at again. That is gone with the next pool that is
//! created in the same place, young or old: its kind is written over it. To give back takes 20
//! instructions then, besides what the C library does to tell the size: 3 for the place, 2 for whether
//! it is this pool, 4 for whether it is of one block and one allocation, 8 to ask for its size, 2 to
//! compare, 1 to go on to the original. Of a young pool with a few of both the sum is compared with the
//! peak of its kind.
//!
//! All is atomic, and relaxed: another thread may do what it likes here, but makes no figure right.
//! That there is one is noticed by the hooks, and ends the figures.
#![forbid(unsafe_code)]

use std::mem::offset_of;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::creators::{least_size, size_class};

/// Places for pools.
const PLACES: usize = 512;

/// A pool's place is the upper bits of the lower half of its address times this. Found by trying: 200
/// pools one behind the other find 120 places or more, at any distance up to 8 KB.
pub const FACTOR: u32 = 0xb6df_b51f;
/// So many lower bits of the product are left out.
pub const SHIFT: u32 = u32::BITS - PLACES.trailing_zeros();

/// Places for kinds.
const KINDS: usize = 256;

/// Pools with up to so many blocks and nothing large are counted by blocks when they end.
const BLOCKS: usize = 3;

/// Bits of the lower half of a word.
const HALF: u32 = 32;

/// What is in the first place, which is that of a null pointer, and never free.
const TAKEN: usize = 1;

/// The tables.
#[derive(Debug)]
#[repr(C)]
pub struct Nursery {
    /// The pool in each place; 0 when it is free.
    pools: [AtomicUsize; PLACES],
    /// When it was created, in milliseconds.
    created: [AtomicUsize; PLACES],
    /// In the lowest byte, its kind; in the upper half, the lower half of the address of the pool that
    /// `enough` is about, which may be another one.
    kinds: [AtomicU64; PLACES],
    /// With one block and one large allocation, so large may that be, and the pool is no larger than
    /// the peak of its creator.
    enough: [AtomicU64; PLACES],
    /// The mark of each kind; 0 when there is none.
    marks: [AtomicUsize; KINDS],
    /// The size that is asked for.
    sizes: [AtomicUsize; KINDS],
    /// The place of the creator.
    creators: [AtomicU16; KINDS],
    /// What the largest pool of the creator had, or less.
    peaks: [AtomicU64; KINDS],
    /// Pools that ended, without large allocations: those with one block, with two, and so on.
    ended: [[AtomicU64; KINDS]; BLOCKS],
    /// Of the other pools of each kind that ended, those alike: the least size of the class that their
    /// sizes are of,
    least: [AtomicU64; KINDS],
    /// how much larger the largest was,
    above: [AtomicU64; KINDS],
    /// and how many they are.
    alike: [AtomicU64; KINDS],
}

/// A pool that was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Its address.
    pub pool: usize,
    /// The mark of its creator.
    pub mark: usize,
    /// The size asked for, in bytes.
    pub size: usize,
    /// When, in milliseconds.
    pub at: usize,
}

/// A pool that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    /// Its address.
    pub pool: usize,
    /// The place of its creator.
    pub creator: usize,
    /// When it was created, in milliseconds.
    pub at: usize,
}

/// Pools that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The place of their creator.
    pub creator: usize,
    /// What the largest held, in bytes; the others as much, or a size of the same class.
    pub size: u64,
    /// How many they are.
    pub count: u64,
}

impl Nursery {
    /// The offset of the table of pools in this struct, in bytes; of other tables below.
    pub const POOLS: usize = offset_of!(Nursery, pools);
    /// Of the times of creation.
    pub const CREATED: usize = offset_of!(Nursery, created);
    /// Of the kinds of pools.
    pub const KINDS: usize = offset_of!(Nursery, kinds);
    /// Of the upper halves there, as far from each other.
    pub const LOOKED_AT: usize = offset_of!(Nursery, kinds) + 4;
    /// Of what is enough.
    pub const ENOUGH: usize = offset_of!(Nursery, enough);
    /// Of the marks.
    pub const MARKS: usize = offset_of!(Nursery, marks);
    /// Of the sizes.
    pub const SIZES: usize = offset_of!(Nursery, sizes);
    /// Of the peaks.
    pub const PEAKS: usize = offset_of!(Nursery, peaks);
    /// Of the counts of pools that ended with one block.
    pub const ENDED: usize = offset_of!(Nursery, ended);
    /// The distance from there to those with one block more.
    pub const ENDED_NEXT: usize = size_of::<[AtomicU64; KINDS]>();
    /// The offset of the least sizes of those alike.
    pub const LEAST: usize = offset_of!(Nursery, least);
    /// Of how much larger the largest was.
    pub const ABOVE: usize = offset_of!(Nursery, above);
    /// Of how many they are.
    pub const ALIKE: usize = offset_of!(Nursery, alike);

    /// Empty, and all zero: its pages need not exist.
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

    /// The kind of a pool, new or known. `None` when another one has its place.
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

    /// Takes a pool in. Returns the one that cannot be here then: the older one that was in its place,
    /// or itself.
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

    /// Takes a pool out that ends with this size, and counts it with those alike. Returns those that
    /// are not counted here any more, maybe none: of a size of another class. `None` when the pool is
    /// not here.
    pub fn end(&self, pool: usize, size: u64) -> Option<Ended> {
        let place = place_of(pool);
        let here = self.pools.get(place)?;
        if here.load(Relaxed) != pool || place == 0 {
            return None;
        }
        here.store(0, Relaxed);
        let kind = self.kind_at(place)?;
        let least = least_size(size_class(size));
        let mut others = Ended { creator: self.creator(kind)?, size: 0, count: 0 };
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

    /// The place of the creator of a pool, if it is here.
    pub fn creator_of(&self, pool: usize) -> Option<usize> {
        let place = place_of(pool);
        let is_here = place != 0 && self.pools.get(place)?.load(Relaxed) == pool;
        is_here.then(|| self.creator(self.kind_at(place)?)).flatten()
    }

    /// To be called before pools are: in the first place nothing is looked at, not even a pool whose
    /// address ends with zeroes.
    pub fn begin(&self) {
        self.kinds[0].store(1 << HALF, Relaxed);
    }

    /// A pool was looked at; the peak of its creator, and the size of a block.
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

    /// Whether a pool was looked at, and none created in its place since.
    pub fn is_looked_at(&self, pool: usize) -> bool {
        let word = self.kinds.get(place_of(pool)).map_or(0, |kind| kind.load(Relaxed));
        place_of(pool) != 0 && (word >> HALF) as u32 == pool as u32
    }

    /// A pool is to be looked at: another one is created at its address, or it is as if it were.
    pub fn look_again(&self, pool: usize) {
        if self.is_looked_at(pool) {
            if let Some(kind) = self.kinds.get(place_of(pool)) {
                kind.store(u64::from(kind.load(Relaxed) as u8), Relaxed);
            }
        }
    }

    /// All pools are to be looked at.
    pub fn look_at_all(&self) {
        for kind in &self.kinds {
            kind.store(u64::from(kind.load(Relaxed) as u8), Relaxed);
        }
        self.begin();
    }

    fn creator(&self, kind: usize) -> Option<usize> {
        Some(self.creators.get(kind)?.load(Relaxed).into())
    }

    /// Forgets all kinds: what of them has ended. No pool may be here.
    pub fn end_all(&self) -> impl Iterator<Item = Ended> + '_ {
        let kinds = self.marks.iter().enumerate();
        let kinds = kinds.filter(|(_, mark)| mark.load(Relaxed) != 0);
        kinds.flat_map(move |(kind, mark)| {
            mark.store(0, Relaxed);
            let by_blocks = (1..).zip(&self.ended);
            let by_blocks = by_blocks.map(move |(blocks, ended)| self.ended(kind, blocks, ended));
            by_blocks.chain([self.end_alike(kind)]).flatten().filter(|ended| ended.count != 0)
        })
    }

    fn ended(&self, kind: usize, blocks: u64, ended: &[AtomicU64; KINDS]) -> Option<Ended> {
        let size = blocks.saturating_mul(self.sizes.get(kind)?.load(Relaxed) as u64);
        let count = ended.get(kind)?.swap(0, Relaxed);
        Some(Ended { creator: self.creator(kind)?, size, count })
    }

    fn end_alike(&self, kind: usize) -> Option<Ended> {
        let least = self.least.get(kind)?.swap(0, Relaxed);
        let size = least.saturating_add(self.above.get(kind)?.swap(0, Relaxed));
        let count = self.alike.get(kind)?.swap(0, Relaxed);
        Some(Ended { creator: self.creator(kind)?, size, count })
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

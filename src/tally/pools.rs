//! The live pools of a process, and what each of their creators has done.
//!
//! A creator is a place in the code that calls `ngx_create_pool`, known by its return address.
//! Pools begin in a [`Nursery`] and are counted there; [`Pools::settle`] moves all to where it is read.
//! Nothing here panics, and what needs memory and gets none is left out and counted.
#![forbid(unsafe_code)]

mod live;
mod nursery;

pub use live::{Live, Pool};
pub use nursery::{Created, Nursery, FACTOR, SHIFT};

use nursery::Ended;

/// Creators that are told apart; pools of further ones count as those of an unknown creator.
const CREATORS: usize = 512;

/// Places in the table of creators by address: at most half of them are in use.
const PLACES: usize = 2 * CREATORS;

/// Sizes are counted up to `1 << (SIZES - 1)`, larger ones with the last.
pub const SIZES: usize = 40;

/// The origin of so many pools is looked at before any of the creator goes to the nursery, where that
/// is seldom done. (Not where it is known for sure.)
const LOOKED_AT: u64 = 1024;

/// So many pools that find another kind of pool in the place of theirs make all kinds be forgotten.
const CROWD: u32 = 256;

/// The unit of a pool's time of creation: 32 ms, which 32 bits count for four years.
const TICK_BITS: u32 = 5;

/// A time in milliseconds in the unit in which pools have theirs, see [`seconds_since`].
pub fn tick(milliseconds: usize) -> u32 {
    (milliseconds >> TICK_BITS) as u32
}

/// Whole seconds from a pool's time of creation to another time.
pub fn seconds_since(created: u32, now: u32) -> u64 {
    (u64::from(now.wrapping_sub(created)) << TICK_BITS) / 1000
}

/// Where a creator's code is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// The start of an exported function: the one that the creator's code is in, or the first one
    /// up the stack. 0 when there is none.
    pub function: usize,
    /// So many calls up the stack from the creator's code: 0 is that function itself.
    pub calls: u8,
}

impl Origin {
    /// Whether the creator's code is in the function.
    pub fn is_exact(&self) -> bool {
        self.function != 0 && self.calls == 0
    }
}

/// What a creator has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creator {
    /// The return address of its call.
    pub address: usize,
    /// Where that is.
    pub origin: Origin,
    /// The size it asked for first, in bytes.
    pub first_size: usize,
    /// It creates the pools of cycles.
    pub of_cycles: bool,
    /// Its live pools.
    pub live: u64,
    /// Pools destroyed, of those created here.
    pub destroyed: u64,
    /// Resets of its pools.
    pub reset: u64,
    /// The largest of its pools ever seen, in bytes: blocks and large allocations.
    pub peak: u64,
    /// Pools by their size when they were destroyed: at place `n` those of at most `1 << n` bytes.
    pub sizes: [u64; SIZES],
    /// At so many created pools its origin is looked at again.
    check_at: u64,
}

impl Creator {
    /// Pools created.
    pub fn created(&self) -> u64 {
        self.live.saturating_add(self.destroyed)
    }

    /// Sees a pool of this size.
    pub fn see(&mut self, size: u64) {
        self.peak = self.peak.max(size);
    }

    /// Sees so many pools of a size end.
    fn ended(&mut self, size: u64, count: u64) {
        self.see(size);
        self.destroyed = self.destroyed.wrapping_add(count);
        if let Some(ended) = self.sizes.get_mut(size_class(size)) {
            *ended = ended.wrapping_add(count);
        }
    }

    /// Whether its pools may be in the nursery.
    fn has_young(&self) -> bool {
        self.check_at == u64::MAX || self.created() >= LOOKED_AT
    }

    /// What to do about its origin now.
    fn look(&mut self) -> Look {
        let created = self.created();
        if created < self.check_at {
            return Look::No;
        }
        // At each doubling: seldom enough to cost nothing, often enough to find other callers.
        self.check_at = created.saturating_mul(2);
        Look::Again
    }
}

/// What to do about a creator's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    No,
    /// Look at it again: the creator may be called from elsewhere too.
    Again,
}

/// The pools of a process.
#[derive(Debug)]
pub struct Pools {
    nursery: &'static Nursery,
    /// Pools since the last settling that found another kind in the place of theirs.
    crowd: u32,
    live: Live,
    creators: Vec<Creator>,
    /// For a hashed address, one more than the place in `creators`; 0 for none. Empty before the
    /// first creator.
    by_address: Vec<u16>,
    /// The creator that was asked for last, by its address.
    last: (usize, usize),
    /// The pools of cycles, and the generation of each.
    cycles: Vec<(usize, u64)>,
    /// Pools that were created but could not be recorded.
    unrecorded: u64,
}

impl Pools {
    /// No pools. What is in the nursery is not for others.
    pub const fn new(nursery: &'static Nursery) -> Self {
        Pools {
            nursery,
            crowd: 0,
            live: Live::new(),
            creators: Vec::new(),
            by_address: Vec::new(),
            last: (0, 0),
            cycles: Vec::new(),
            unrecorded: 0,
        }
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        self.nursery.leave_all().for_each(drop);
        self.nursery.end_all().for_each(drop);
        self.nursery.look_at_all();
        *self = Pools::new(self.nursery);
    }

    /// The creator with this return address, if it is known.
    pub fn creator(&mut self, address: usize) -> Option<usize> {
        if self.last.0 == address {
            return Some(self.last.1);
        }
        let index = self.look_up(address)?;
        self.last = (address, index);
        Some(index)
    }

    fn look_up(&self, address: usize) -> Option<usize> {
        let mut place = place_of(address);
        loop {
            let index = usize::from(*self.by_address.get(place)?).checked_sub(1)?;
            if self.creators.get(index)?.address == address {
                return Some(index);
            }
            place = (place + 1) % PLACES;
        }
    }

    /// Makes a creator known. `None` when there is no room for it.
    pub fn add_creator(&mut self, address: usize, origin: Origin, size: usize) -> Option<usize> {
        let index = self.creators.len();
        if index >= CREATORS || self.creators.try_reserve(1).is_err() {
            return None;
        }
        if self.by_address.is_empty() {
            self.by_address.try_reserve_exact(PLACES).ok()?;
            self.by_address.resize(PLACES, 0);
        }
        let mut place = place_of(address);
        while *self.by_address.get(place)? != 0 {
            place = (place + 1) % PLACES;
        }
        *self.by_address.get_mut(place)? = u16::try_from(index + 1).ok()?;
        self.creators.push(Creator {
            address,
            origin,
            first_size: size,
            of_cycles: false,
            live: 0,
            destroyed: 0,
            reset: 0,
            peak: 0,
            sizes: [0; SIZES],
            check_at: if origin.is_exact() { u64::MAX } else { 2 },
        });
        Some(index)
    }

    /// A pool was created.
    pub fn created(&mut self, created: &Created, creator: usize) -> Look {
        self.nursery.look_again(created.pool);
        let has_young = self.creators.get(creator).is_some_and(Creator::has_young);
        if !(has_young && self.nurse(created, creator)) {
            self.record(created.pool, creator, tick(created.at));
        }
        self.creators.get_mut(creator).map_or(Look::No, Creator::look)
    }

    /// Puts a pool into the nursery, if its kind has a place there; whether it does.
    fn nurse(&mut self, created: &Created, creator: usize) -> bool {
        let Some(kind) = self.nursery.kind(created, creator) else {
            self.crowd = self.crowd.saturating_add(1);
            if self.crowd >= CROWD {
                self.settle();
            }
            return false;
        };
        if let Some(pool) = self.nursery.put(created, creator, kind) {
            self.record(pool.pool, pool.creator, tick(pool.at));
        }
        true
    }

    /// Records a pool for as long as it lives.
    fn record(&mut self, pool: usize, creator: usize, now: u32) {
        if self.live.needs_room() {
            self.live.make_room();
        }
        match self.creators.get_mut(creator) {
            Some(counts) if self.live.insert(pool, creator, now) => {
                counts.live = counts.live.saturating_add(1);
            }
            _ => self.unrecorded = self.unrecorded.saturating_add(1),
        }
    }

    /// Empties the nursery, so that all pools that can be recorded are, and all is counted. What is
    /// told below is as it was then.
    pub fn settle(&mut self) {
        self.crowd = 0;
        for pool in self.nursery.leave_all() {
            self.record(pool.pool, pool.creator, tick(pool.at));
        }
        self.nursery.end_all().for_each(|ended| self.ended(&ended));
    }

    /// What a further look at a creator's origin found. An origin that is not always the same is
    /// none.
    pub fn looked(&mut self, creator: usize, origin: Origin) {
        if let Some(counts) = self.creators.get_mut(creator) {
            if counts.origin != origin {
                counts.origin = Origin::default();
                counts.check_at = u64::MAX;
            }
        }
    }

    /// A pool is about to be destroyed, with this size. Unknown pools are older than the hook.
    pub fn destroyed(&mut self, pool: usize, size: u64) {
        let young = self.nursery.end(pool, size);
        let old = || Some(Ended { creator: self.removed(pool)?, size, count: 1 });
        if let Some(ended) = young.or_else(old) {
            self.ended(&ended);
        }
    }

    fn ended(&mut self, ended: &Ended) {
        if let Some(counts) = self.creators.get_mut(ended.creator) {
            counts.ended(ended.size, ended.count);
        }
    }

    /// Forgets a pool that is not young; its creator.
    fn removed(&mut self, pool: usize) -> Option<usize> {
        self.nursery.look_again(pool);
        let creator = self.live.remove(pool)?;
        let counts = self.creators.get_mut(creator)?;
        counts.live = counts.live.saturating_sub(1);
        Some(creator)
    }

    /// A pool is about to be reset, with this size.
    pub fn reset(&mut self, pool: usize, size: impl FnOnce() -> u64) {
        let Some(creator) = self.find(pool).map(|pool| pool.creator) else { return };
        self.live.disturb(pool);
        self.nursery.look_again(pool);
        if let Some(counts) = self.creators.get_mut(creator) {
            counts.reset = counts.reset.wrapping_add(1);
            counts.see(size());
        }
    }

    /// The creator of a pool. A young one stays where it is.
    pub fn creator_of(&mut self, pool: usize) -> Option<usize> {
        self.nursery.creator_of(pool).or_else(|| Some(self.live.find(pool)?.creator))
    }

    /// Whether a pool gave back a large allocation before, as far as that is remembered.
    pub fn has_given_back(&self, pool: usize) -> bool {
        self.nursery.is_looked_at(pool)
    }

    /// A pool is about to give back a large allocation, with this size; its blocks have `of_block` each.
    pub fn gives_back(&mut self, pool: usize, creator: usize, size: u64, of_block: u64) {
        if let Some(counts) = self.creators.get_mut(creator) {
            counts.see(size);
            let _ = self.nursery.looked_at(pool, counts.peak, of_block);
        }
    }

    /// A pool by its address. It is not young any more.
    pub fn find(&mut self, pool: usize) -> Option<Pool> {
        if let Some(young) = self.nursery.take(pool) {
            self.record(young.pool, young.creator, tick(young.at));
        }
        self.live.find(pool)
    }

    /// Records a pool that is older than the hook.
    pub fn adopt(&mut self, pool: usize, creator: usize, now: u32) {
        if self.find(pool).is_none() {
            self.record(pool, creator, now);
        }
    }

    /// A pool is that of a cycle, and all pools of its creator are of cycles.
    pub fn is_of_a_cycle(&mut self, pool: usize, generation: u64) {
        let Some(found) = self.find(pool) else { return };
        if let Some(counts) = self.creators.get_mut(found.creator) {
            counts.of_cycles = true;
        }
        let live = &mut self.live;
        self.cycles.retain(|(other, _)| *other != pool && live.find(*other).is_some());
        if self.cycles.try_reserve(1).is_ok() {
            self.cycles.push((pool, generation));
        }
    }

    /// Which cycle a live pool is that of, if it is one's.
    pub fn generation(&self, pool: Pool) -> Option<u64> {
        let (_, generation) = self.cycles.iter().find(|(of, _)| *of == pool.address)?;
        self.creators.get(pool.creator)?.of_cycles.then_some(*generation)
    }

    /// The creators.
    pub fn creators(&self) -> &[Creator] {
        &self.creators
    }

    /// A creator saw a pool of this size.
    pub fn see(&mut self, creator: usize, size: u64) {
        if let Some(counts) = self.creators.get_mut(creator) {
            counts.see(size);
        }
    }

    /// The live pools that are not young.
    pub fn live(&mut self) -> &mut Live {
        &mut self.live
    }

    /// Pools that were created but could not be recorded.
    pub fn unrecorded(&self) -> u64 {
        self.unrecorded
    }
}

/// Where the search for an address starts in the table of creators.
#[inline]
fn place_of(address: usize) -> usize {
    (address as u64).wrapping_mul(live::GOLDEN) as usize >> 32 & (PLACES - 1)
}

/// The place of a size in [`Creator::sizes`].
#[inline]
pub fn size_class(size: u64) -> usize {
    let bits = 64 - size.saturating_sub(1).leading_zeros();
    (bits as usize).min(SIZES - 1)
}

/// The least size of a class.
fn least_size(class: usize) -> u64 {
    class.checked_sub(1).map_or(0, |below| (1 << below) + 1)
}

#[cfg(test)]
mod tests;

//! The live pools of a process, and the counts of each of their creators.
//!
//! A creator is a place in the code that calls `ngx_create_pool`, identified by the return address
//! of the call. Pools begin in a [`Nursery`] and are counted there; [`PoolTally::settle`] moves all
//! pools and counts to where they are read. Nothing here panics. A pool that cannot be recorded
//! because memory is refused is left out, and the number of such pools is counted.
#![forbid(unsafe_code)]

mod creators;
mod live;
mod nursery;

pub use creators::{size_class, CreatorTally, Look, Origin, SIZES};
pub use live::{Live, Pool};
pub use nursery::{Created, Nursery, FACTOR, SHIFT};

use creators::Creators;
use nursery::EndedPools;

/// After this number of pools whose place in the table of kinds has another kind, all kinds are
/// forgotten.
const CROWD: u32 = 256;

/// The unit of a pool's creation time is `1 << TICK_BITS` = 32 ms: 32 bits last for four years.
const TICK_BITS: u32 = 5;

/// Converts a time in milliseconds to the unit of a pool's creation time, see [`seconds_since`].
pub fn tick(milliseconds: usize) -> u32 {
    (milliseconds >> TICK_BITS) as u32
}

/// Whole seconds from a pool's creation time to `now`, both in that unit.
pub fn seconds_since(created: u32, now: u32) -> u64 {
    (u64::from(now.wrapping_sub(created)) << TICK_BITS) / 1000
}

/// The pools of a process.
#[derive(Debug)]
pub struct PoolTally {
    nursery: &'static Nursery,
    /// The number of pools since the last [`PoolTally::settle`] that found another kind in their
    /// place.
    crowd: u32,
    live: Live,
    creators: Creators,
    /// The pools of cycles and the generation of each.
    cycles: Vec<(usize, u64)>,
    /// Pools that were created but could not be recorded.
    unrecorded: u64,
}

impl PoolTally {
    /// No pools. Nothing else may use `nursery`.
    pub const fn new(nursery: &'static Nursery) -> Self {
        PoolTally {
            nursery,
            crowd: 0,
            live: Live::new(),
            creators: Creators::new(),
            cycles: Vec::new(),
            unrecorded: 0,
        }
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        self.nursery.leave_all().for_each(drop);
        self.nursery.end_all().for_each(drop);
        self.nursery.look_at_all();
        *self = PoolTally::new(self.nursery);
    }

    /// The creator with this return address, if it is known.
    pub fn creator(&mut self, address: usize) -> Option<usize> {
        self.creators.find(address)
    }

    /// Adds a creator whose first pool has `size` bytes. `None` if there is no room for it.
    pub fn add_creator(&mut self, address: usize, origin: Origin, size: usize) -> Option<usize> {
        self.creators.add(address, origin, size)
    }

    /// Counts a new pool. Returns whether the caller has to look at the creator's origin again.
    pub fn created(&mut self, created: &Created, creator: usize) -> Look {
        self.nursery.look_again(created.pool);
        let has_young = self.creators.get(creator).is_some_and(CreatorTally::has_young);
        if !(has_young && self.nurse(created, creator)) {
            self.record(created.pool, creator, tick(created.at));
        }
        self.creators.get_mut(creator).map_or(Look::No, CreatorTally::look)
    }

    /// Puts a pool into the nursery. Returns false if its kind has no place there.
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

    /// Records a pool until it is destroyed.
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

    /// Empties the nursery: all pools are recorded, if there is memory, and all counts are
    /// complete. The getters below return the state of this moment.
    pub fn settle(&mut self) {
        self.crowd = 0;
        for pool in self.nursery.leave_all() {
            self.record(pool.pool, pool.creator, tick(pool.at));
        }
        self.nursery.end_all().for_each(|ended| self.ended(&ended));
    }

    /// Takes the result of another look at a creator's origin. An origin that changes is dropped.
    pub fn looked(&mut self, creator: usize, origin: Origin) {
        if let Some(counts) = self.creators.get_mut(creator) {
            counts.looked(origin);
        }
    }

    /// Counts a pool that is about to be destroyed and has `size` bytes. Unknown pools are older
    /// than the hook.
    pub fn destroyed(&mut self, pool: usize, size: u64) {
        let young = self.nursery.end(pool, size);
        let old = || Some(EndedPools { creator: self.removed(pool)?, size, count: 1 });
        if let Some(ended) = young.or_else(old) {
            self.ended(&ended);
        }
    }

    fn ended(&mut self, ended: &EndedPools) {
        if let Some(counts) = self.creators.get_mut(ended.creator) {
            counts.ended(ended.size, ended.count);
        }
    }

    /// Forgets a pool that is not young. Returns its creator.
    fn removed(&mut self, pool: usize) -> Option<usize> {
        self.nursery.look_again(pool);
        let creator = self.live.remove(pool)?;
        let counts = self.creators.get_mut(creator)?;
        counts.live = counts.live.saturating_sub(1);
        Some(creator)
    }

    /// Counts a pool that is about to be reset. `size` computes its size in bytes.
    pub fn reset(&mut self, pool: usize, size: impl FnOnce() -> u64) {
        let Some(creator) = self.find(pool).map(|pool| pool.creator) else { return };
        self.live.disturb(pool);
        self.nursery.look_again(pool);
        if let Some(counts) = self.creators.get_mut(creator) {
            counts.reset = counts.reset.wrapping_add(1);
            counts.see(size());
        }
    }

    /// The creator of a pool. A young pool stays in the nursery.
    pub fn creator_of(&mut self, pool: usize) -> Option<usize> {
        self.nursery.creator_of(pool).or_else(|| Some(self.live.find(pool)?.creator))
    }

    /// Whether a pool has freed a large allocation before. Not every such pool is remembered.
    pub fn has_given_back(&self, pool: usize) -> bool {
        self.nursery.is_looked_at(pool)
    }

    /// Measures a pool that is about to free a large allocation: it has `size` bytes, and each of
    /// its blocks has `of_block` bytes.
    pub fn gives_back(&mut self, pool: usize, creator: usize, size: u64, of_block: u64) {
        if let Some(counts) = self.creators.get_mut(creator) {
            counts.see(size);
            let _ = self.nursery.looked_at(pool, counts.peak, of_block);
        }
    }

    /// Finds a pool by its address. If it is young, it leaves the nursery.
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

    /// Notes that a pool belongs to the cycle of `generation`, and that its creator creates the
    /// pools of cycles.
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

    /// The generation of the cycle that a live pool belongs to, if it belongs to one.
    pub fn generation(&self, pool: Pool) -> Option<u64> {
        let (_, generation) = self.cycles.iter().find(|(of, _)| *of == pool.address)?;
        self.creators.get(pool.creator)?.of_cycles.then_some(*generation)
    }

    /// All creators.
    pub fn creators(&self) -> &[CreatorTally] {
        self.creators.all()
    }

    /// Raises the peak of a creator to the size of one of its pools, in bytes.
    pub fn see(&mut self, creator: usize, size: u64) {
        if let Some(counts) = self.creators.get_mut(creator) {
            counts.see(size);
        }
    }

    /// The recorded live pools, without the young ones.
    pub fn live(&mut self) -> &mut Live {
        &mut self.live
    }

    /// Pools that were created but could not be recorded.
    pub fn unrecorded(&self) -> u64 {
        self.unrecorded
    }
}

#[cfg(test)]
mod tests;

//! The live pools of a process, and what each of their creators has done.
//!
//! A creator is a place in the code that calls `ngx_create_pool`, known by its return address.
//! Pools begin in a [`Nursery`] and are counted there; [`Pools::settle`] moves all to where it is read.
//! Nothing here panics, and what needs memory and gets none is left out and counted.
#![forbid(unsafe_code)]

mod creators;
mod live;
mod nursery;

pub use creators::{size_class, Creator, Look, Origin, SIZES};
pub use live::{Live, Pool};
pub use nursery::{Created, Nursery, FACTOR, SHIFT};

use creators::Creators;
use nursery::Ended;

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

/// The pools of a process.
#[derive(Debug)]
pub struct Pools {
    nursery: &'static Nursery,
    /// Pools since the last settling that found another kind in the place of theirs.
    crowd: u32,
    live: Live,
    creators: Creators,
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
        *self = Pools::new(self.nursery);
    }

    /// The creator with this return address, if it is known.
    pub fn creator(&mut self, address: usize) -> Option<usize> {
        self.creators.find(address)
    }

    /// Makes a creator known. `None` when there is no room for it.
    pub fn add_creator(&mut self, address: usize, origin: Origin, size: usize) -> Option<usize> {
        self.creators.add(address, origin, size)
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
            counts.looked(origin);
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
        self.creators.all()
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

#[cfg(test)]
mod tests;

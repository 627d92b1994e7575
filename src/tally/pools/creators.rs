//! The creators of pools: the counts of each, and a table that finds them by address.
#![forbid(unsafe_code)]

use super::live::GOLDEN;

/// The maximum number of creators; pools of all other creators cannot be recorded.
pub(super) const CREATORS: usize = 512;

/// The number of places in the table of creators by address. At most half of them are used.
const PLACES: usize = 2 * CREATORS;

/// The number of size classes: up to `1 << (SIZES - 1)` bytes; larger pools count in the last
/// class.
pub const SIZES: usize = 40;

/// A creator's pools go to the nursery only after this number of pools, because the origin is
/// rarely looked at there. Creators whose origin is certain use the nursery from the start.
const LOOKED_AT: u64 = 1024;

/// The place of a creator's code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// The address of an exported function: the one that contains the creator's code, or the first
    /// one up the stack. 0 if there is none.
    pub function: usize,
    /// The number of calls from `function` to the creator's code: 0 if `function` contains it.
    pub calls: u8,
}

impl Origin {
    /// Whether `function` contains the creator's code.
    pub fn is_exact(&self) -> bool {
        self.function != 0 && self.calls == 0
    }
}

/// A creator and its counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatorTally {
    /// The return address of its call.
    pub address: usize,
    /// The place of its code.
    pub origin: Origin,
    /// The size of its first pool as requested, in bytes.
    pub first_size: usize,
    /// Whether it creates the pools of cycles.
    pub of_cycles: bool,
    /// The number of its live pools.
    pub live: u64,
    /// The number of its pools that were destroyed.
    pub destroyed: u64,
    /// Resets of its pools.
    pub reset: u64,
    /// The largest size seen of any of its pools, in bytes: blocks and large allocations.
    pub peak: u64,
    /// Destroyed pools by their size at destruction: index `n` has those of at most `1 << n` bytes.
    pub sizes: [u64; SIZES],
    /// The number of created pools at which its origin is looked at again.
    check_at: u64,
}

impl CreatorTally {
    /// The number of pools created.
    pub fn created(&self) -> u64 {
        self.live.saturating_add(self.destroyed)
    }

    /// Raises the peak to the size of a pool, in bytes.
    pub fn see(&mut self, size: u64) {
        self.peak = self.peak.max(size);
    }

    /// Counts `count` pools that were destroyed and had `size` bytes.
    pub(super) fn ended(&mut self, size: u64, count: u64) {
        self.see(size);
        self.destroyed = self.destroyed.wrapping_add(count);
        if let Some(ended) = self.sizes.get_mut(size_class(size)) {
            *ended = ended.wrapping_add(count);
        }
    }

    /// Whether its pools may go to the nursery.
    pub(super) fn has_young(&self) -> bool {
        self.check_at == u64::MAX || self.created() >= LOOKED_AT
    }

    /// Whether its origin has to be looked at now.
    pub(super) fn look(&mut self) -> Look {
        let created = self.created();
        if created < self.check_at {
            return Look::No;
        }
        // At each doubling: rare enough to cost nothing, frequent enough to find other callers.
        self.check_at = created.saturating_mul(2);
        Look::Again
    }

    /// Takes the result of another look at the origin. An origin that changes is dropped.
    pub(super) fn looked(&mut self, origin: Origin) {
        if self.origin != origin {
            self.origin = Origin::default();
            self.check_at = u64::MAX;
        }
    }
}

/// Whether a creator's origin has to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Do not look at it now.
    No,
    /// Look at it again: the creator may also be called from elsewhere.
    Again,
}

/// All creators, with a table that finds one by its address.
#[derive(Debug)]
pub struct Creators {
    all: Vec<CreatorTally>,
    /// A hash table by address: the index in `all` plus one; 0 for an unused place. Empty before
    /// the first creator.
    by_address: Vec<u16>,
    /// The address and the index of the creator that was found last.
    last: (usize, usize),
}

impl Creators {
    /// No creators.
    pub const fn new() -> Self {
        Creators { all: Vec::new(), by_address: Vec::new(), last: (0, 0) }
    }

    /// The index of the creator with this return address, if it is known.
    pub fn find(&mut self, address: usize) -> Option<usize> {
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
            if self.all.get(index)?.address == address {
                return Some(index);
            }
            place = (place + 1) % PLACES;
        }
    }

    /// Adds a creator whose first pool has `size` bytes. Returns its index; `None` if there is no
    /// room.
    pub fn add(&mut self, address: usize, origin: Origin, size: usize) -> Option<usize> {
        let index = self.all.len();
        if index >= CREATORS || self.all.try_reserve(1).is_err() {
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
        self.all.push(CreatorTally {
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

    /// The creator at an index.
    pub fn get(&self, place: usize) -> Option<&CreatorTally> {
        self.all.get(place)
    }

    /// The creator at an index, mutable.
    pub fn get_mut(&mut self, place: usize) -> Option<&mut CreatorTally> {
        self.all.get_mut(place)
    }

    /// The bytes that are allocated for the creators and the table.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.all.capacity() * size_of::<CreatorTally>()
            + self.by_address.capacity() * size_of::<u16>()
    }

    /// The creators in the order in which they were added.
    pub fn all(&self) -> &[CreatorTally] {
        &self.all
    }
}

/// The place in the table of creators where the search for an address starts.
#[inline]
fn place_of(address: usize) -> usize {
    (address as u64).wrapping_mul(GOLDEN) as usize >> 32 & (PLACES - 1)
}

/// The index of a size in [`CreatorTally::sizes`].
#[inline]
pub fn size_class(size: u64) -> usize {
    let bits = 64 - size.saturating_sub(1).leading_zeros();
    (bits as usize).min(SIZES - 1)
}

/// The smallest size of a class in bytes.
pub(super) fn least_size(class: usize) -> u64 {
    class.checked_sub(1).map_or(0, |below| (1 << below) + 1)
}

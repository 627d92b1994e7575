//! The creators of pools: what each has done, and a table to find them by address.
#![forbid(unsafe_code)]

use super::live::GOLDEN;

/// Creators that are told apart; pools of further ones count as those of an unknown creator.
pub(super) const CREATORS: usize = 512;

/// Places in the table of creators by address: at most half of them are in use.
const PLACES: usize = 2 * CREATORS;

/// Sizes are counted up to `1 << (SIZES - 1)`, larger ones with the last.
pub const SIZES: usize = 40;

/// The origin of so many pools is looked at before any of the creator goes to the nursery, where that
/// is seldom done. (Not where it is known for sure.)
const LOOKED_AT: u64 = 1024;

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
    pub(super) fn ended(&mut self, size: u64, count: u64) {
        self.see(size);
        self.destroyed = self.destroyed.wrapping_add(count);
        if let Some(ended) = self.sizes.get_mut(size_class(size)) {
            *ended = ended.wrapping_add(count);
        }
    }

    /// Whether its pools may be in the nursery.
    pub(super) fn has_young(&self) -> bool {
        self.check_at == u64::MAX || self.created() >= LOOKED_AT
    }

    /// What to do about its origin now.
    pub(super) fn look(&mut self) -> Look {
        let created = self.created();
        if created < self.check_at {
            return Look::No;
        }
        // At each doubling: seldom enough to cost nothing, often enough to find other callers.
        self.check_at = created.saturating_mul(2);
        Look::Again
    }

    /// What a further look found. An origin that is not always the same is none.
    pub(super) fn looked(&mut self, origin: Origin) {
        if self.origin != origin {
            self.origin = Origin::default();
            self.check_at = u64::MAX;
        }
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

/// All creators, with a table that finds one by its address.
#[derive(Debug)]
pub struct Creators {
    all: Vec<Creator>,
    /// For a hashed address, one more than the place in `all`; 0 for none. Empty before the first
    /// creator.
    by_address: Vec<u16>,
    /// The creator that was asked for last: its address and its place.
    last: (usize, usize),
}

impl Creators {
    /// No creators.
    pub const fn new() -> Self {
        Creators { all: Vec::new(), by_address: Vec::new(), last: (0, 0) }
    }

    /// The creator with this return address, if it is known.
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

    /// Makes a creator known. `None` when there is no room for it.
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
        self.all.push(Creator {
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

    /// The creator in a place.
    pub fn get(&self, place: usize) -> Option<&Creator> {
        self.all.get(place)
    }

    /// The creator in a place.
    pub fn get_mut(&mut self, place: usize) -> Option<&mut Creator> {
        self.all.get_mut(place)
    }

    /// The bytes that are allocated for them, and for the table.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.all.capacity() * size_of::<Creator>() + self.by_address.capacity() * size_of::<u16>()
    }

    /// The creators in the order in which they became known.
    pub fn all(&self) -> &[Creator] {
        &self.all
    }
}

/// Where the search for an address starts in the table of creators.
#[inline]
fn place_of(address: usize) -> usize {
    (address as u64).wrapping_mul(GOLDEN) as usize >> 32 & (PLACES - 1)
}

/// The place of a size in [`Creator::sizes`].
#[inline]
pub fn size_class(size: u64) -> usize {
    let bits = 64 - size.saturating_sub(1).leading_zeros();
    (bits as usize).min(SIZES - 1)
}

/// The least size of a class.
pub(super) fn least_size(class: usize) -> u64 {
    class.checked_sub(1).map_or(0, |below| (1 << below) + 1)
}

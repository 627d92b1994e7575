//! A hash table of live pools. Its entries never move, and it grows without a pause: a table that
//! is twice as large is filled in small steps.
//!
//! An entry takes 16 bytes, and the table takes 2 to 4 bytes for each entry: about 19 bytes a pool
//! with 100,000 of them (BENCHMARKS.md, Memory). It is not a `HashMap`, because that moves all of
//! its entries in one call when it grows, which delays the request that creates a pool: measured 0.3 ms
//! for pool 14,337, and 2.7 ms for pool 114,689.
#![forbid(unsafe_code)]

/// 2^64 divided by the golden ratio: a product with it has well-mixed upper bits.
pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number of entries in a chunk.
const CHUNK: usize = 256;

/// A chunk. Its length is a constant, so an index in it needs no check.
type Chunk = Box<[LiveEntry; CHUNK]>;

/// The number of chains of the first table, a power of 2.
const FIRST: usize = 256;

/// The average number of entries in a chain at which the table grows.
const LOAD: usize = 2;

/// The number of chains that move to a larger table at each insertion.
const STEP: usize = 4;

/// The low bits of an address that are 0: pools are aligned to 16 bytes. A key omits them, which
/// leaves room for the creator above the address.
const ALIGNMENT: u32 = 4;
/// The position of the creator's bits in a key.
const CREATOR: u32 = 54;

/// A live pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Its address.
    pub address: usize,
    /// The index of its creator.
    pub creator: usize,
    /// The time of its creation, in the unit in which it was recorded.
    pub created: u32,
}

/// An entry: in use, or in the list of free entries.
#[derive(Debug, Clone, Copy, Default)]
struct LiveEntry {
    /// The pool's address and its creator; 0 if the entry is free.
    key: u64,
    /// The index of the next entry in the chain or in the list of free entries, plus one; 0 at the
    /// end.
    next: u32,
    created: u32,
}

impl LiveEntry {
    fn address(&self) -> usize {
        ((self.key & ((1 << CREATOR) - 1)) << ALIGNMENT) as usize
    }

    fn pool(&self) -> Option<Pool> {
        let creator = (self.key >> CREATOR) as usize;
        (self.key != 0).then(|| Pool { address: self.address(), creator, created: self.created })
    }
}

/// The chains of a table.
#[derive(Debug)]
struct Chains {
    /// The index of the first entry of each chain, plus one; 0 for an empty chain.
    heads: Vec<u32>,
    /// A hash shifted right by this number of bits is the index of its chain.
    shift: u32,
}

impl Chains {
    const NONE: Chains = Chains { heads: Vec::new(), shift: 63 };

    /// Makes `count` empty chains; `count` is a power of 2. `None` if memory is refused.
    fn new(count: usize) -> Option<Self> {
        let mut heads = Vec::new();
        heads.try_reserve_exact(count).ok()?;
        heads.resize(count, 0);
        Some(Chains { heads, shift: 64 - count.trailing_zeros() })
    }

    #[inline]
    fn place(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }
}

/// The live pools.
#[derive(Debug)]
pub struct Live {
    chunks: Vec<Chunk>,
    /// The index of the first free entry plus one; 0 if there is none.
    free: u32,
    count: usize,
    chains: Chains,
    /// The smaller table, while some of its chains have not moved yet.
    before: Chains,
    /// The first chain of `before` that has not moved.
    moved: usize,
    /// Whether the smaller table is still in use.
    is_growing: bool,
    /// The pool whose memory is being read in pieces; 0 if there is none or if it has changed.
    watched: usize,
}

#[inline]
fn hash(address: usize) -> u64 {
    (address as u64).wrapping_mul(GOLDEN)
}

impl Live {
    /// No pools.
    pub const fn new() -> Self {
        Live {
            chunks: Vec::new(),
            free: 0,
            count: 0,
            chains: Chains::NONE,
            before: Chains::NONE,
            moved: 0,
            is_growing: false,
            watched: 0,
        }
    }

    /// The number of pools.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the entries and the tables.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let heads = self.chains.heads.capacity() + self.before.heads.capacity();
        self.chunks.len() * CHUNK * size_of::<LiveEntry>() + heads * size_of::<u32>()
    }

    #[inline]
    fn entry(&self, index: u32) -> Option<&LiveEntry> {
        let index = index as usize;
        Some(&self.chunks.get(index / CHUNK)?[index % CHUNK])
    }

    #[inline]
    fn entry_mut(&mut self, index: u32) -> Option<&mut LiveEntry> {
        let index = index as usize;
        Some(&mut self.chunks.get_mut(index / CHUNK)?[index % CHUNK])
    }

    /// The head of the chain of a hash.
    #[inline]
    fn head(&mut self, hash: u64) -> Option<&mut u32> {
        if self.is_growing && self.before.place(hash) >= self.moved {
            return self.head_before(hash);
        }
        let place = self.chains.place(hash);
        self.chains.heads.get_mut(place)
    }

    #[cold]
    fn head_before(&mut self, hash: u64) -> Option<&mut u32> {
        let place = self.before.place(hash);
        self.before.heads.get_mut(place)
    }

    /// Whether [`Live::make_room`] has to be called before the next insertion.
    #[inline]
    pub fn needs_room(&self) -> bool {
        self.free == 0 || self.is_full() || !self.before.heads.is_empty()
    }

    fn is_full(&self) -> bool {
        self.count >= self.chains.heads.len().saturating_mul(LOAD)
    }

    /// Records a pool. Returns false if there is no room for it.
    #[inline]
    pub fn insert(&mut self, address: usize, creator: usize, created: u32) -> bool {
        let Some(index) = self.free.checked_sub(1) else { return false };
        let Some(next) = self.head_to(hash(address), index) else { return false };
        let Some(entry) = self.entry_mut(index) else { return false };
        let free = entry.next;
        let key = (address as u64 >> ALIGNMENT) | (creator as u64) << CREATOR;
        *entry = LiveEntry { key, next, created };
        self.free = free;
        self.count += 1;
        true
    }

    /// Makes an entry the head of a chain. Returns the previous head.
    #[inline]
    fn head_to(&mut self, hash: u64, index: u32) -> Option<u32> {
        let head = self.head(hash)?;
        Some(std::mem::replace(head, index + 1))
    }

    /// Forgets a pool. Returns its creator, if the pool was recorded.
    #[inline]
    pub fn remove(&mut self, address: usize) -> Option<usize> {
        self.disturb(address);
        let hash = hash(address);
        let head = self.head(hash)?;
        let mut index = head.checked_sub(1)?;
        let mut entry = *self.entry(index)?;
        if entry.address() == address {
            *self.head(hash)? = entry.next;
        } else {
            let previous = self.before_in_chain(entry.next, index, address)?;
            index = self.entry(previous)?.next.checked_sub(1)?;
            entry = *self.entry(index)?;
            self.entry_mut(previous)?.next = entry.next;
        }
        let free = std::mem::replace(&mut self.free, index + 1);
        *self.entry_mut(index)? = LiveEntry { key: 0, next: free, created: 0 };
        self.count -= 1;
        Some((entry.key >> CREATOR) as usize)
    }

    /// The entry before a pool's entry, in the chain that continues with `next` after `previous`.
    #[cold]
    fn before_in_chain(&self, mut next: u32, mut previous: u32, address: usize) -> Option<u32> {
        loop {
            let index = next.checked_sub(1)?;
            let entry = self.entry(index)?;
            if entry.address() == address {
                return Some(previous);
            }
            (previous, next) = (index, entry.next);
        }
    }

    /// Finds a pool by its address.
    pub fn find(&mut self, address: usize) -> Option<Pool> {
        let mut next = *self.head(hash(address))?;
        loop {
            let entry = self.entry(next.checked_sub(1)?)?;
            if entry.address() == address {
                return entry.pool();
            }
            next = entry.next;
        }
    }

    /// The first pool at or after an index, and the index after it.
    pub fn next(&self, place: usize) -> Option<(Pool, usize)> {
        let chunks = self.chunks.iter().enumerate().skip(place / CHUNK);
        let entries = chunks.flat_map(|(i, chunk)| {
            let first = if i == place / CHUNK { place % CHUNK } else { 0 };
            chunk.iter().enumerate().skip(first).map(move |(j, entry)| (i * CHUNK + j, entry))
        });
        entries.filter_map(|(at, entry)| Some((entry.pool()?, at + 1))).next()
    }

    /// Notes that the memory of this pool is being read in pieces.
    pub fn watch(&mut self, address: usize) {
        self.watched = address;
    }

    /// The pool that is being read; `None` if it was destroyed or reset meanwhile.
    pub fn watched(&self) -> Option<usize> {
        (self.watched != 0).then_some(self.watched)
    }

    /// Notes that the memory of a pool is about to change.
    #[inline]
    pub fn disturb(&mut self, address: usize) {
        if self.watched == address {
            self.watched = 0;
        }
    }

    /// Provides a free entry and grows the table if needed. If memory is refused, nothing changes.
    pub fn make_room(&mut self) {
        for _ in 0..STEP {
            self.move_chain();
        }
        if !self.is_growing && self.is_full() {
            let count = self.chains.heads.len().saturating_mul(2).max(FIRST);
            if let Some(larger) = Chains::new(count) {
                self.before = std::mem::replace(&mut self.chains, larger);
                self.moved = 0;
                self.is_growing = !self.before.heads.is_empty();
            }
        }
        if self.free == 0 {
            self.add_chunk();
        }
    }

    /// Moves one chain of the smaller table.
    fn move_chain(&mut self) {
        let Some(head) = self.before.heads.get_mut(self.moved) else {
            self.before = Chains::NONE;
            self.is_growing = false;
            return;
        };
        let mut next = std::mem::take(head);
        self.moved += 1;
        while let Some(index) = next.checked_sub(1) {
            let Some(address) = self.entry(index).map(LiveEntry::address) else { return };
            let Some(before) = self.head_to(hash(address), index) else { return };
            let Some(entry) = self.entry_mut(index) else { return };
            next = std::mem::replace(&mut entry.next, before);
        }
    }

    fn add_chunk(&mut self) {
        let mut chunk = Vec::new();
        let first = self.chunks.len() * CHUNK;
        let Ok(last) = u32::try_from(first + CHUNK) else { return };
        if self.chunks.try_reserve(1).is_err() || chunk.try_reserve_exact(CHUNK).is_err() {
            return;
        }
        // Each entry leads to the next one. The last one ends the list, which was empty before.
        let nexts = (first as u32 + 2..=last).chain([0]);
        chunk.extend(nexts.map(|next| LiveEntry { key: 0, next, created: 0 }));
        let Ok(chunk) = Chunk::try_from(chunk.into_boxed_slice()) else { return };
        self.chunks.push(chunk);
        self.free = first as u32 + 1;
    }
}

impl Default for Live {
    fn default() -> Self {
        Live::new()
    }
}

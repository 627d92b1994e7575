//! The shared, versioned snapshots: one slot for each process of the server.
//!
//! # What lies in the shared zone
//!
//! A [`Board`] is an array of slots. A process claims one when it starts, by an atomic exchange of
//! its owner, and writes that one only; everybody reads all. Nothing is ever locked, so a process
//! that dies in the middle of a write holds nobody up, and its slot is the next one's to claim.
//!
//! # Why a reader never sees half a snapshot
//!
//! A slot is a sequence lock over atomic words:
//!
//! 1. The writer makes `version` odd, writes the words, and makes `version` even again. A
//!    `Release` fence after the first store keeps the words behind it, a `Release` store ends it.
//! 2. The reader loads `version` with `Acquire`, copies the words, and loads `version` again behind
//!    an `Acquire` fence. Both loads the same and even: no write touched the words in between.
//! 3. Words are atomics, so a read that races with a write is defined, and thrown away by 2.
//! 4. A writer that died left `version` odd: the slot is unreadable until its successor, which
//!    takes the slot over, makes the next odd number and writes anew.
//! 5. Length and checksum are inside the protected words, and whoever decodes checks both: bytes
//!    that no writer of ours wrote come out as [`ReadError`], not as figures.
//!
//! # Invariants for `unsafe`
//!
//! - **B1** A `Board` is made from memory that is mapped readable and writable for the life of the
//!   process, aligned to 64 bytes, at least `capacity` slots long.
//! - **B2** Every field of a slot is an atomic, and every bit pattern is valid for it.

use std::sync::atomic::{fence, AtomicI32, AtomicU32, AtomicU64, Ordering};

use crate::report::model::Published;

/// The size of a slot in bytes.
pub const SLOT_SIZE: usize = 32 * 1024;

/// The most processes nginx has (`NGX_MAX_PROCESSES`).
pub const MAX_SLOTS: usize = 1024;

const HEADER_SIZE: usize = 256;
const WORDS: usize = (SLOT_SIZE - HEADER_SIZE) / 8;
const MASK_WORDS: usize = MAX_SLOTS / 64;

/// The most bytes an encoded snapshot may have.
pub const BODY_SIZE: usize = WORDS * 8;

/// One process's place.
#[repr(C, align(64))]
pub struct Slot {
    version: AtomicU64,
    /// The pid of the process that owns the slot; 0 for none.
    pid: AtomicI32,
    /// What askers want beyond a fresh snapshot.
    wants: AtomicU32,
    /// When the last snapshot was published, in milliseconds of the monotonic clock; 0 for never.
    published_ms: AtomicU64,
    /// When the owner last noticed that it was asked.
    noticed_ms: AtomicU64,
    length: AtomicU64,
    checksum: AtomicU64,
    reserved: [AtomicU64; 10],
    /// A bit for each slot whose process waits for this one.
    askers: [AtomicU64; MASK_WORDS],
    words: [AtomicU64; WORDS],
}

const _: () = assert!(std::mem::size_of::<Slot>() == SLOT_SIZE);

/// Why a snapshot can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The process has not published yet.
    #[error("it has not published yet")]
    Empty,
    /// A writer is in the middle of it, or died there.
    #[error("its snapshot is being written")]
    Torn,
    /// The bytes are no snapshot.
    #[error("its snapshot is unreadable")]
    Damaged,
}

/// Why a snapshot can't be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It is longer than a slot.
    #[error("the snapshot is larger than its slot")]
    TooLarge,
}

impl Slot {
    /// The pid of the owner.
    pub fn pid(&self) -> Option<i32> {
        Some(self.pid.load(Ordering::Acquire)).filter(|pid| *pid > 0)
    }

    /// Takes the slot from its last owner; fails when somebody else was faster. What the last owner
    /// left is forgotten.
    fn take(&self, last: i32, pid: i32) -> bool {
        if self.pid.compare_exchange(last, pid, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        self.published_ms.store(0, Ordering::Release);
        self.noticed_ms.store(0, Ordering::Release);
        self.wants.store(0, Ordering::Relaxed);
        self.write(&[]);
        true
    }

    /// Gives the slot back.
    pub fn release(&self, pid: i32) {
        let _ = self.pid.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Asks the owner for a fresh snapshot on behalf of the process in slot `asker`. The owner
    /// still has to be woken.
    pub fn ask(&self, asker: Option<usize>, wants: u32) {
        self.wants.fetch_or(wants, Ordering::AcqRel);
        if let Some(word) = asker.and_then(|asker| self.askers.get(asker / 64)) {
            word.fetch_or(1 << (asker.unwrap_or(0) % 64), Ordering::AcqRel);
        }
    }

    /// Takes what was asked for since the last call.
    pub fn take_wants(&self, now_ms: u64) -> u32 {
        self.noticed_ms.store(now_ms, Ordering::Release);
        self.wants.swap(0, Ordering::AcqRel)
    }

    /// Takes the slots whose processes wait, and hands each to `wake`.
    pub fn take_askers(&self, mut wake: impl FnMut(usize)) {
        for (i, word) in self.askers.iter().enumerate() {
            let mut bits = word.swap(0, Ordering::AcqRel);
            while bits != 0 {
                wake(i * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    /// When the last snapshot was published, on the monotonic clock in milliseconds.
    pub fn published_ms(&self) -> Option<u64> {
        Some(self.published_ms.load(Ordering::Acquire)).filter(|ms| *ms > 0)
    }

    /// When the owner last noticed that it was asked, on the monotonic clock in milliseconds.
    pub fn noticed_ms(&self) -> u64 {
        self.noticed_ms.load(Ordering::Acquire)
    }

    /// Publishes a snapshot of the calling process, which must own the slot.
    pub fn publish(&self, published: &Published, now_ms: u64) -> Result<(), PublishError> {
        let bytes = postcard::to_stdvec(published).map_err(|_| PublishError::TooLarge)?;
        if bytes.len() > BODY_SIZE {
            return Err(PublishError::TooLarge);
        }
        self.write(&bytes);
        self.published_ms.store(now_ms, Ordering::Release);
        Ok(())
    }

    /// Reads the snapshot, and when it was published.
    pub fn read(&self) -> Result<(Published, u64), ReadError> {
        let published_ms = self.published_ms().ok_or(ReadError::Empty)?;
        // A writer needs microseconds: a handful of tries outlasts any that is alive and running.
        let bytes = (0..7).find_map(|_| self.copy().ok()).map_or_else(|| self.copy(), Ok)?;
        if bytes.is_empty() {
            return Err(ReadError::Empty);
        }
        let published = postcard::from_bytes(&bytes).map_err(|_| ReadError::Damaged)?;
        Ok((published, published_ms))
    }

    fn write(&self, bytes: &[u8]) {
        let odd = self.version.load(Ordering::Relaxed) | 1;
        self.version.store(odd, Ordering::Relaxed);
        fence(Ordering::Release);
        self.length.store(bytes.len() as u64, Ordering::Relaxed);
        self.checksum.store(checksum(bytes), Ordering::Relaxed);
        for (word, chunk) in self.words.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
        }
        self.version.store(odd.wrapping_add(1), Ordering::Release);
    }

    /// One try.
    fn copy(&self) -> Result<Vec<u8>, ReadError> {
        let before = self.version.load(Ordering::Acquire);
        if before % 2 != 0 {
            std::hint::spin_loop();
            return Err(ReadError::Torn);
        }
        let length = self.length.load(Ordering::Relaxed);
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= BODY_SIZE)
        else {
            return Err(ReadError::Damaged);
        };
        let mut bytes = Vec::with_capacity(length.next_multiple_of(8));
        for word in &self.words[..length.div_ceil(8)] {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        bytes.truncate(length);
        let sum = self.checksum.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        match self.version.load(Ordering::Relaxed) == before {
            false => Err(ReadError::Torn),
            true if sum != checksum(&bytes) => Err(ReadError::Damaged),
            true => Ok(bytes),
        }
    }
}

/// FNV-1a over 64-bit words: enough to tell a snapshot from other bytes.
fn checksum(bytes: &[u8]) -> u64 {
    let seed = 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    bytes.chunks(8).fold(seed, |sum, chunk| {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_ne_bytes(padded)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

/// All slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Board {
    slots: *const Slot,
    capacity: usize,
}

// SAFETY: B1, B2: what it points to is shared, and all of it atomics.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// The bytes a board of `capacity` slots takes.
    pub const fn bytes(capacity: usize) -> usize {
        capacity * SLOT_SIZE
    }

    /// A board over raw memory.
    ///
    /// # Safety
    ///
    /// The memory holds invariant B1 for `capacity` slots.
    pub unsafe fn from_raw(memory: *mut u8, capacity: usize) -> Self {
        Board { slots: memory.cast_const().cast(), capacity: capacity.min(MAX_SLOTS) }
    }

    /// The slots.
    pub fn slots(&self) -> &[Slot] {
        // SAFETY: B1 gives the memory and its life, B2 the validity of what is in it; writes of
        // other processes go through atomics only.
        unsafe { std::slice::from_raw_parts(self.slots, self.capacity) }
    }

    /// Claims a slot for a process: one whose owner is dead, else a free one. `None` when every slot
    /// has a living owner.
    pub fn claim(&self, pid: i32, is_alive: impl Fn(i32) -> bool) -> Option<usize> {
        let slots = || self.slots().iter().enumerate();
        let dead = slots().find(|(_, slot)| {
            slot.pid()
                .is_some_and(|owner| (owner == pid || !is_alive(owner)) && slot.take(owner, pid))
        });
        dead.or_else(|| slots().find(|(_, slot)| slot.take(0, pid))).map(|(index, _)| index)
    }

    /// A slot by its index.
    pub fn get(&self, index: usize) -> Option<&Slot> {
        self.slots().get(index)
    }
}

#[cfg(test)]
mod tests;

//! A slot of the board: what one process publishes, and who waits for it.
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
//!    takes the slot over, makes the next odd number and writes its own.
//! 5. Length and checksum are inside the protected words, and whoever decodes checks both: bytes
//!    that no writer of ours wrote come out as [`ReadError`], not as figures. So do those of two
//!    writers at once, which there may be for a moment when a slot is taken from a process that
//!    shuts down (see [`Board::claim`](super::Board::claim)).
//!
//! # Why nobody waits for a process that leaves
//!
//! Who asks sets a bit and then looks whether the owner is leaving; who leaves says so and then takes
//! the bits. All four are sequentially consistent, so one of the two sees the other.
#![forbid(unsafe_code)]

use std::sync::atomic::{fence, AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::MAX_SLOTS;
use crate::report::model::Published;

/// The size of a slot's body in bytes: the most that an encoded snapshot may have.
pub const BODY_SIZE: usize = 32 * 1024;

const WORDS: usize = BODY_SIZE / 8;
const MASK_WORDS: usize = MAX_SLOTS / 64;

/// The words of an encoded snapshot.
pub(super) type Body = [AtomicU64; WORDS];

/// The owner of a slot serves.
const RUNNING: u32 = 0;
/// It finishes its last requests.
pub(super) const SHUTTING_DOWN: u32 = 1;
/// It is about to end.
pub(super) const LEAVING: u32 = 2;

/// What there is of a slot beside its owner and its body.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Head {
    version: AtomicU64,
    /// What askers want beyond a fresh snapshot.
    wants: AtomicU32,
    /// Somebody asks who has no slot, and so no bit.
    asked: AtomicU32,
    /// How far the owner is: [`RUNNING`], [`SHUTTING_DOWN`], [`LEAVING`].
    phase: AtomicU32,
    /// Not 0 while the owner does what may take long.
    away: AtomicU32,
    /// When the last snapshot was published, in milliseconds of the monotonic clock; 0 for never.
    published_ms: AtomicU64,
    /// When the owner last noticed that it was asked.
    noticed_ms: AtomicU64,
    length: AtomicU64,
    checksum: AtomicU64,
    /// A bit for each slot whose process waits for this one.
    askers: [AtomicU64; MASK_WORDS],
}

const _: () = assert!(std::mem::size_of::<Head>() == 192);

/// One process's place.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    /// The pid of the process that owns the slot; 0 for none.
    pid: &'a AtomicI32,
    head: &'a Head,
    words: &'a Body,
}

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

impl<'a> Slot<'a> {
    pub(super) fn new(pid: &'a AtomicI32, head: &'a Head, words: &'a Body) -> Self {
        Slot { pid, head, words }
    }

    /// How far the owner is.
    pub(super) fn phase(&self) -> u32 {
        self.head.phase.load(Ordering::Relaxed)
    }

    /// The pid of the owner.
    pub fn pid(&self) -> Option<i32> {
        Some(self.pid.load(Ordering::Acquire)).filter(|pid| *pid > 0)
    }

    /// Takes the slot from its last owner; fails when somebody else was faster. What the last owner
    /// left is forgotten.
    pub(super) fn take(&self, last: i32, pid: i32) -> bool {
        if self.pid.compare_exchange(last, pid, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        self.head.published_ms.store(0, Ordering::Release);
        self.head.noticed_ms.store(0, Ordering::Release);
        self.head.wants.store(0, Ordering::Relaxed);
        self.head.phase.store(RUNNING, Ordering::SeqCst);
        self.set_away(false);
        self.write(&[]);
        true
    }

    /// Whether a process owns the slot.
    pub fn is_of(&self, pid: i32) -> bool {
        self.pid() == Some(pid)
    }

    /// Says that the owner is about to end: nobody is to wait for it, and the slot can be claimed.
    /// Who waits for it by now is handed to `wake`.
    pub fn leave(&self, pid: i32, wake: impl FnMut(Asker)) {
        if self.is_of(pid) {
            self.head.phase.store(LEAVING, Ordering::SeqCst);
            self.take_askers(wake);
        }
    }

    /// Gives the slot back: its owner lives on without one, or with another.
    pub fn release(&self, pid: i32, wake: impl FnMut(Asker)) {
        if self.pid.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.take_askers(wake);
        }
    }

    /// Says whether the owner does what may take long: nobody is to wait for it meanwhile.
    pub fn set_away(&self, away: bool) {
        self.head.away.store(away.into(), Ordering::SeqCst);
    }

    /// Whether the owner does what may take long.
    pub fn is_away(&self) -> bool {
        self.head.away.load(Ordering::SeqCst) != 0
    }

    /// Whether the owner is about to end.
    pub fn is_leaving(&self) -> bool {
        self.head.phase.load(Ordering::SeqCst) == LEAVING
    }

    /// Asks the owner for a fresh snapshot on behalf of the process in slot `asker`, or of one that
    /// has none. The owner still has to be woken.
    pub fn ask(&self, asker: Option<usize>, wants: u32) {
        self.head.wants.fetch_or(wants, Ordering::AcqRel);
        match asker.map(|asker| (asker % 64, self.head.askers.get(asker / 64))) {
            Some((bit, Some(word))) => {
                word.fetch_or(1 << bit, Ordering::SeqCst);
            }
            _ => self.head.asked.store(1, Ordering::SeqCst),
        }
    }

    /// Takes what was asked for since the last call; says whether the owner shuts down.
    pub fn take_wants(&self, now_ms: u64, shuts_down: bool) -> u32 {
        let phase = if shuts_down { SHUTTING_DOWN } else { RUNNING };
        self.head.phase.store(phase, Ordering::SeqCst);
        self.head.noticed_ms.store(now_ms, Ordering::Release);
        self.head.wants.swap(0, Ordering::AcqRel)
    }

    /// Takes those who wait for a snapshot, and hands each to `wake`.
    pub fn take_askers(&self, mut wake: impl FnMut(Asker)) {
        if self.head.asked.swap(0, Ordering::SeqCst) != 0 {
            wake(Asker::WithoutSlot);
        }
        for (i, word) in self.head.askers.iter().enumerate() {
            // To look first is cheaper.
            let mut bits = word.load(Ordering::SeqCst);
            if bits != 0 {
                bits = word.swap(0, Ordering::SeqCst);
            }
            while bits != 0 {
                wake(Asker::Slot(i * 64 + bits.trailing_zeros() as usize));
                bits &= bits - 1;
            }
        }
    }

    /// When the last snapshot was published, on the monotonic clock in milliseconds.
    pub fn published_ms(&self) -> Option<u64> {
        Some(self.head.published_ms.load(Ordering::Acquire)).filter(|ms| *ms > 0)
    }

    /// When the owner last noticed that it was asked, on the monotonic clock in milliseconds.
    pub fn noticed_ms(&self) -> u64 {
        self.head.noticed_ms.load(Ordering::Acquire)
    }

    /// Publishes a snapshot of the calling process, which must own the slot.
    pub fn publish(&self, published: &Published, now_ms: u64) -> Result<(), PublishError> {
        let bytes = postcard::to_stdvec(published).map_err(|_| PublishError::TooLarge)?;
        if bytes.len() > BODY_SIZE {
            return Err(PublishError::TooLarge);
        }
        self.write(&bytes);
        self.head.published_ms.store(now_ms, Ordering::Release);
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
        let odd = self.head.version.load(Ordering::Relaxed) | 1;
        self.head.version.store(odd, Ordering::Relaxed);
        fence(Ordering::Release);
        self.head.length.store(bytes.len() as u64, Ordering::Relaxed);
        self.head.checksum.store(checksum(bytes), Ordering::Relaxed);
        for (word, chunk) in self.words.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
        }
        self.head.version.store(odd.wrapping_add(1), Ordering::Release);
    }

    /// One try.
    fn copy(&self) -> Result<Vec<u8>, ReadError> {
        let before = self.head.version.load(Ordering::Acquire);
        if before % 2 != 0 {
            std::hint::spin_loop();
            return Err(ReadError::Torn);
        }
        let length = self.head.length.load(Ordering::Relaxed);
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= BODY_SIZE)
        else {
            return Err(ReadError::Damaged);
        };
        let mut bytes = Vec::with_capacity(length.next_multiple_of(8));
        for word in &self.words[..length.div_ceil(8)] {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        bytes.truncate(length);
        let sum = self.head.checksum.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        match self.head.version.load(Ordering::Relaxed) == before {
            false => Err(ReadError::Torn),
            true if sum != checksum(&bytes) => Err(ReadError::Damaged),
            true => Ok(bytes),
        }
    }
}

/// A multiplicative checksum over 64-bit words: enough to tell a snapshot from other bytes. (The
/// constants are FNV-1a's, the words and the rotation are not.)
fn checksum(bytes: &[u8]) -> u64 {
    let seed = 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    bytes.chunks(8).fold(seed, |sum, chunk| {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_ne_bytes(padded)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

/// Who waits for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The process in this slot.
    Slot(usize),
    /// Processes that have no slot.
    WithoutSlot,
}

#[cfg(test)]
mod tests;

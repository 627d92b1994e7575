//! A slot of the board: the snapshot that one process publishes, and the processes that wait for
//! it.
//!
//! # Why a reader never sees half a snapshot
//!
//! A slot is a sequence lock over atomic words:
//!
//! 1. The writer makes `version` odd, writes the words, and makes `version` even again. A `Release`
//!    fence after the first store keeps the words behind it, and the last store is a `Release`
//!    store.
//! 2. The reader loads `version` with `Acquire`, copies the words, and loads `version` again behind
//!    an `Acquire` fence. If both loads return the same even number, no write touched the words in
//!    between.
//! 3. Words are atomics, so a read that races with a write is defined. Rule 2 discards its result.
//! 4. A writer that died may leave `version` odd: the slot is unreadable until the process that
//!    takes it over writes its own snapshot.
//! 5. Length and checksum are among the protected words, and the reader checks both: bytes that
//!    none of our writers wrote become a [`ReadError`], not figures. So do the bytes of two writers
//!    at once, which are possible for a moment when a slot is taken from a process that shuts down
//!    (see [`Board::claim`](super::Board::claim)).
//!
//! # Why no process waits for one that leaves
//!
//! An asker sets its bit and then checks whether the owner is leaving. An owner that leaves sets
//! its phase and then takes the bits. All four operations are sequentially consistent, so at least
//! one of the two sees the other.
#![forbid(unsafe_code)]

use std::sync::atomic::{fence, AtomicI32, AtomicU32, AtomicU64, Ordering};

use serde::Serialize;

use super::MAX_SLOTS;
use crate::report::model::Published;

/// The size of a slot's body in bytes: the most that an encoded snapshot may have.
pub const BODY_SIZE: usize = 32 * 1024;

const WORDS: usize = BODY_SIZE / 8;
const MASK_WORDS: usize = MAX_SLOTS / 64;

/// The words of an encoded snapshot.
pub(super) type SlotBody = [AtomicU64; WORDS];

/// The phase of an owner that serves.
const RUNNING: u32 = 0;
/// The phase of an owner that finishes its last requests.
pub(super) const SHUTTING_DOWN: u32 = 1;
/// The phase of an owner that is about to end.
pub(super) const LEAVING: u32 = 2;

/// The head of a slot: everything except its owner and its body.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Head {
    version: AtomicU64,
    /// Bits for what askers want in addition to a fresh snapshot.
    wants: AtomicU32,
    /// Not 0 if a process asks that has no slot and therefore no bit in `askers`.
    asked: AtomicU32,
    /// The phase of the owner: [`RUNNING`], [`SHUTTING_DOWN`] or [`LEAVING`].
    phase: AtomicU32,
    /// Not 0 while the owner does something that may take long.
    away: AtomicU32,
    /// The time when the last snapshot was published, in milliseconds of the monotonic clock; 0 for
    /// never.
    published_ms: AtomicU64,
    /// The time when the owner last noticed that it was asked, on the same clock.
    noticed_ms: AtomicU64,
    length: AtomicU64,
    checksum: AtomicU64,
    /// A bit for each slot whose process waits for this snapshot.
    askers: [AtomicU64; MASK_WORDS],
}

const _: () = assert!(std::mem::size_of::<Head>() == 192);

/// The slot of one process.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    /// The pid of the process that owns the slot; 0 for none.
    pid: &'a AtomicI32,
    head: &'a Head,
    words: &'a SlotBody,
}

/// Why a snapshot cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The process has not published yet.
    #[error("it has not published yet")]
    Empty,
    /// A writer is writing it, or died while writing.
    #[error("its snapshot is being written")]
    Torn,
    /// The bytes are not a snapshot.
    #[error("its snapshot is unreadable")]
    Damaged,
}

/// Why a snapshot cannot be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It is larger than the body of a slot.
    #[error("the snapshot is larger than its slot")]
    TooLarge,
}

impl<'a> Slot<'a> {
    pub(super) fn new(pid: &'a AtomicI32, head: &'a Head, words: &'a SlotBody) -> Self {
        Slot { pid, head, words }
    }

    /// The phase of the owner.
    pub(super) fn phase(&self) -> u32 {
        self.head.phase.load(Ordering::Relaxed)
    }

    /// The pid of the owner.
    pub fn pid(&self) -> Option<i32> {
        Some(self.pid.load(Ordering::Acquire)).filter(|pid| *pid > 0)
    }

    /// Takes the slot from its last owner, and clears what that owner left. Returns false if
    /// another process was faster.
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

    /// Whether this process owns the slot.
    pub fn is_of(&self, pid: i32) -> bool {
        self.pid() == Some(pid)
    }

    /// Marks the owner as about to end: no process should wait for it, and the slot can be claimed.
    /// Calls `wake` for each process that is waiting.
    pub fn leave(&self, pid: i32, wake: impl FnMut(Asker)) {
        if self.is_of(pid) {
            self.head.phase.store(LEAVING, Ordering::SeqCst);
            self.take_askers(wake);
        }
    }

    /// Releases the slot: its owner continues without a slot or with another one. Calls `wake` for
    /// each process that is waiting.
    pub fn release(&self, pid: i32, wake: impl FnMut(Asker)) {
        if self.pid.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.take_askers(wake);
        }
    }

    /// Sets whether the owner does something that may take long: no process should wait for it
    /// meanwhile.
    pub fn set_away(&self, away: bool) {
        self.head.away.store(away.into(), Ordering::SeqCst);
    }

    /// Whether the owner does something that may take long.
    pub fn is_away(&self) -> bool {
        self.head.away.load(Ordering::SeqCst) != 0
    }

    /// Whether the owner is about to end.
    pub fn is_leaving(&self) -> bool {
        self.head.phase.load(Ordering::SeqCst) == LEAVING
    }

    /// Asks the owner for a fresh snapshot on behalf of the process in slot `asker`, or of a
    /// process without a slot. This does not wake the owner.
    pub fn ask(&self, asker: Option<usize>, wants: u32) {
        self.head.wants.fetch_or(wants, Ordering::AcqRel);
        match asker.map(|asker| (asker % 64, self.head.askers.get(asker / 64))) {
            Some((bit, Some(word))) => {
                word.fetch_or(1 << bit, Ordering::SeqCst);
            }
            _ => self.head.asked.store(1, Ordering::SeqCst),
        }
    }

    /// Takes the bits of what was asked for since the last call, and sets whether the owner shuts
    /// down.
    pub fn take_wants(&self, now_ms: u64, shuts_down: bool) -> u32 {
        let phase = if shuts_down { SHUTTING_DOWN } else { RUNNING };
        self.head.phase.store(phase, Ordering::SeqCst);
        self.head.noticed_ms.store(now_ms, Ordering::Release);
        self.head.wants.swap(0, Ordering::AcqRel)
    }

    /// Takes the processes that wait for a snapshot and calls `wake` for each.
    pub fn take_askers(&self, mut wake: impl FnMut(Asker)) {
        if self.head.asked.swap(0, Ordering::SeqCst) != 0 {
            wake(Asker::WithoutSlot);
        }
        for (i, word) in self.head.askers.iter().enumerate() {
            // A load is cheaper than a swap.
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

    /// The time when the last snapshot was published, in milliseconds of the monotonic clock.
    pub fn published_ms(&self) -> Option<u64> {
        Some(self.head.published_ms.load(Ordering::Acquire)).filter(|ms| *ms > 0)
    }

    /// The time when the owner last noticed that it was asked, in milliseconds of the monotonic
    /// clock.
    pub fn noticed_ms(&self) -> u64 {
        self.head.noticed_ms.load(Ordering::Acquire)
    }

    /// Publishes a snapshot of the calling process, which must own the slot.
    ///
    /// It is a [`Published`], or a [`PublishedRef`](crate::report::model::PublishedRef) to the same.
    pub fn publish(&self, published: &impl Serialize, now_ms: u64) -> Result<(), PublishError> {
        let mut body = vec![0; BODY_SIZE];
        let bytes = postcard::to_slice(published, &mut body).map_err(|_| PublishError::TooLarge)?;
        self.write(bytes);
        self.head.published_ms.store(now_ms, Ordering::Release);
        Ok(())
    }

    /// Reads the snapshot and the time when it was published, as in [`Slot::published_ms`].
    pub fn read(&self) -> Result<(Published, u64), ReadError> {
        let published_ms = self.published_ms().ok_or(ReadError::Empty)?;
        // A write takes microseconds: a few attempts outlast every writer that is alive and
        // running.
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
        for (word, value) in self.words.iter().zip(words(bytes)) {
            word.store(value, Ordering::Relaxed);
        }
        self.head.version.store(odd.wrapping_add(1), Ordering::Release);
    }

    /// Copies the words once. Fails if they change meanwhile.
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
        let mut bytes = vec![0; length.next_multiple_of(8)];
        for (eight, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            eight.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
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

/// A multiplicative checksum over 64-bit words, which is enough to distinguish a snapshot from
/// other bytes. (The constants are those of FNV-1a; the words and the rotation are not.)
fn checksum(bytes: &[u8]) -> u64 {
    let seed = 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    words(bytes)
        .fold(seed, |sum, word| (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23))
}

/// The bytes as words; the last one is padded with zeros.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let whole = bytes.chunks_exact(8);
    let rest = Some(whole.remainder()).filter(|rest| !rest.is_empty());
    whole.chain(rest).map(|chunk| {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(padded)
    })
}

/// A process that waits for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The process in this slot.
    Slot(usize),
    /// One or several processes without a slot.
    WithoutSlot,
}

#[cfg(test)]
mod tests;

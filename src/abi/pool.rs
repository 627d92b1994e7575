//! Measures one nginx pool: its blocks and its large allocations.
//!
//! Source: `src/core/ngx_palloc.h` and `ngx_palloc.c` of nginx.
//!
//! Invariants of the unsafe code:
//!
//! 1. The address is that of a live pool with this layout, and the current thread is the one that
//!    uses it: its blocks and its list of large allocations are as nginx left them. Each function
//!    requires this of its caller.
//! 2. A large allocation that is not null came from the system allocator, which knows its size.
//! 3. The memory at the address has the size of a header, and nobody writes to it during the call.

use std::ffi::c_void;

mod gauge;

pub use gauge::{Gauge, FEW, FRONT};

/// `ngx_pool_t`. Its first four fields (`ngx_pool_data_t`) also start each further block of a pool.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolHeader {
    /// `d.last`: the end of the bytes in use.
    pub last: usize,
    /// `d.end`: the end of the block.
    pub end: usize,
    /// `d.next`: the next block.
    pub next: usize,
    /// `d.failed`: the number of allocations for which the block was too full.
    pub failed: usize,
    /// The largest size that is allocated from a block, in bytes.
    pub max: usize,
    /// The block that nginx tries first.
    pub current: usize,
    /// The list of free buffer chain links.
    pub chain: usize,
    /// The list of large allocations.
    pub large: usize,
    /// The list of cleanup handlers.
    pub cleanup: usize,
    /// The log.
    pub log: usize,
}

/// The fields at the start of every block.
#[repr(C)]
struct PoolBlock {
    last: usize,
    end: usize,
    next: *const PoolBlock,
}

/// `ngx_pool_large_t`.
#[repr(C)]
#[derive(Debug)]
pub struct Large {
    /// The next element of the list.
    pub next: *const Large,
    /// The allocation; null if it was freed.
    pub alloc: *mut c_void,
}

/// The memory that a pool holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolContents {
    /// Bytes of its blocks, including their headers.
    pub bytes: u64,
    /// Unused bytes at the ends of the blocks; part of `bytes`.
    pub unused: u64,
    /// Usable bytes of its large allocations.
    pub large_bytes: u64,
    /// The number of large allocations.
    pub large_count: u64,
}

impl PoolContents {
    /// Returns the bytes of blocks and large allocations.
    pub fn size(&self) -> u64 {
        self.bytes.saturating_add(self.large_bytes)
    }

    /// Adds the memory of another pool.
    pub fn add(&mut self, other: &PoolContents) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.unused = self.unused.saturating_add(other.unused);
        self.large_bytes = self.large_bytes.saturating_add(other.large_bytes);
        self.large_count = self.large_count.saturating_add(other.large_count);
    }
}

/// A measurement of a pool in progress: the sums so far, and where to continue.
#[derive(Debug, Clone, Copy)]
pub struct PoolReading {
    /// The sums so far.
    pub held: PoolContents,
    block: *const PoolBlock,
    large: *const Large,
}

impl PoolReading {
    /// Starts to measure a pool.
    ///
    /// # Safety
    ///
    /// `pool` satisfies 1.
    #[inline]
    pub unsafe fn of(pool: usize) -> Self {
        let header = pool as *const PoolHeader;
        // SAFETY: the caller passes a live pool that this thread uses (1).
        let large = unsafe { (*header).large } as *const Large;
        PoolReading { held: PoolContents::default(), block: header.cast(), large }
    }

    /// Counts at most `pieces` blocks and large allocations. Returns whether the measurement is
    /// done.
    ///
    /// # Safety
    ///
    /// The pool satisfies 1, and has been neither destroyed nor reset since [`PoolReading::of`].
    #[inline]
    pub unsafe fn step(&mut self, mut pieces: usize) -> bool {
        // SAFETY: blocks stay in place until the pool is destroyed, and new ones are appended (1).
        while let Some(block) = unsafe { self.block.as_ref() } {
            if pieces == 0 {
                return false;
            }
            pieces -= 1;
            let bytes = block.end.wrapping_sub(self.block as usize) as u64;
            self.held.bytes = self.held.bytes.wrapping_add(bytes);
            let unused = block.end.wrapping_sub(block.last) as u64;
            self.held.unused = self.held.unused.wrapping_add(unused);
            self.block = block.next;
        }
        // SAFETY: the list lies in the blocks, and new elements are added at its head (1).
        while let Some(large) = unsafe { self.large.as_ref() } {
            if pieces == 0 {
                return false;
            }
            pieces -= 1;
            if !large.alloc.is_null() {
                // SAFETY: the allocation is not null, so the system allocator knows it (2).
                let bytes = unsafe { libc::malloc_usable_size(large.alloc) } as u64;
                self.held.large_bytes = self.held.large_bytes.wrapping_add(bytes);
                self.held.large_count = self.held.large_count.wrapping_add(1);
            }
            self.large = large.next;
        }
        true
    }
}

/// Measures a pool completely.
///
/// # Safety
///
/// `pool` satisfies 1.
#[inline]
pub unsafe fn held(pool: usize) -> PoolContents {
    // SAFETY: the caller passes a live pool that this thread uses (1).
    let mut reading = unsafe { PoolReading::of(pool) };
    // SAFETY: nothing changes the pool between the two calls (1).
    unsafe { reading.step(usize::MAX) };
    reading.held
}

/// Returns the same as [`PoolContents::size`], but faster.
///
/// All blocks of a pool have the size of the first one: nginx computes the size of a further block
/// from it.
///
/// # Safety
///
/// `pool` satisfies 1.
#[inline]
pub unsafe fn size(pool: usize) -> u64 {
    // SAFETY: the caller passes a live pool that this thread uses (1).
    let header = unsafe { &*(pool as *const PoolHeader) };
    let of_block = header.end.wrapping_sub(pool) as u64;
    let mut size = of_block;
    let mut next = header.next as *const PoolBlock;
    // SAFETY: the blocks are linked as nginx left them (1).
    while let Some(block) = unsafe { next.as_ref() } {
        size = size.wrapping_add(of_block);
        next = block.next;
    }
    let mut next = header.large as *const Large;
    // SAFETY: the large allocations are linked as nginx left them (1).
    while let Some(large) = unsafe { next.as_ref() } {
        if !large.alloc.is_null() {
            // SAFETY: the allocation is not null, so the system allocator knows it (2).
            size = size.wrapping_add(unsafe { libc::malloc_usable_size(large.alloc) } as u64);
        }
        next = large.next;
    }
    size
}

/// Copies the header of a pool.
///
/// # Safety
///
/// `pool` satisfies 3.
pub unsafe fn header(pool: usize) -> PoolHeader {
    // SAFETY: the caller passes memory of this size that nobody writes to (3).
    unsafe { (pool as *const PoolHeader).read() }
}

/// One large allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Its address.
    pub address: usize,
    /// Its usable size in bytes.
    pub usable: usize,
}

/// Iterates over a list of large allocations, the latest first. `large` is the field of a
/// [`PoolHeader`].
///
/// # Safety
///
/// `large` is 0 or the head of such a list, and its pool does not change while the iterator is
/// used.
pub unsafe fn large(large: usize) -> impl Iterator<Item = Allocation> {
    let mut next = large as *const Large;
    std::iter::from_fn(move || loop {
        // SAFETY: the list does not change while the iterator is used, by the contract above (1).
        let large = unsafe { next.as_ref() }?;
        next = large.next;
        if !large.alloc.is_null() {
            // SAFETY: the allocation is not null, so the system allocator knows it (2).
            let usable = unsafe { libc::malloc_usable_size(large.alloc) };
            return Some(Allocation { address: large.alloc as usize, usable });
        }
    })
}

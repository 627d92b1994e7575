//! The memory of one pool: its blocks and its large allocations.
//!
//! Source: `src/core/ngx_palloc.h` and `ngx_palloc.c` of nginx.
//!
//! What the unsafe code below relies on:
//!
//! 1. The address is that of a live pool of this layout, and this is the thread that uses it: its
//!    blocks and the list of its large allocations are as nginx left them. Each function demands it
//!    of its caller.
//! 2. A large allocation that is not null came from the system allocator, which knows its size.

use std::ffi::c_void;

mod gauge;

pub use gauge::{Gauge, FEW, FRONT};

/// `ngx_pool_t`, and the start of each further block of a pool (`ngx_pool_data_t`, the first four).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// `d.last`: the end of what is in use.
    pub last: usize,
    /// `d.end`: the end of the block.
    pub end: usize,
    /// `d.next`: the next block.
    pub next: usize,
    /// `d.failed`.
    pub failed: usize,
    /// The largest allocation from a block.
    pub max: usize,
    /// The block that is tried first.
    pub current: usize,
    /// Free buffer chain links.
    pub chain: usize,
    /// The list of large allocations.
    pub large: usize,
    /// The list of cleanup handlers.
    pub cleanup: usize,
    /// The log.
    pub log: usize,
}

/// The start of a block.
#[repr(C)]
struct Block {
    last: usize,
    end: usize,
    next: *const Block,
}

/// `ngx_pool_large_t`.
#[repr(C)]
#[derive(Debug)]
pub struct Large {
    /// The next in the list.
    pub next: *const Large,
    /// The allocation; null when it was given back.
    pub alloc: *mut c_void,
}

/// What a pool holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes of its blocks, headers included.
    pub bytes: u64,
    /// Of those, bytes at the ends of blocks that are not in use.
    pub unused: u64,
    /// Usable bytes of its large allocations.
    pub large_bytes: u64,
    /// Large allocations.
    pub large_count: u64,
}

impl Held {
    /// Blocks and large allocations.
    pub fn size(&self) -> u64 {
        self.bytes.saturating_add(self.large_bytes)
    }

    /// Adds what another pool holds.
    pub fn add(&mut self, other: &Held) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.unused = self.unused.saturating_add(other.unused);
        self.large_bytes = self.large_bytes.saturating_add(other.large_bytes);
        self.large_count = self.large_count.saturating_add(other.large_count);
    }
}

/// A reading of a pool under way: what was counted, and where to go on.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// What was counted so far.
    pub held: Held,
    block: *const Block,
    large: *const Large,
}

impl Reading {
    /// Begins.
    ///
    /// # Safety
    ///
    /// `pool` is as in 1.
    #[inline]
    pub unsafe fn of(pool: usize) -> Self {
        let header = pool as *const Header;
        // SAFETY: 1.
        let large = unsafe { (*header).large } as *const Large;
        Reading { held: Held::default(), block: header.cast(), large }
    }

    /// Counts so many blocks and large allocations at most; whether it is done.
    ///
    /// # Safety
    ///
    /// The pool is as in 1, and since [`Reading::of`] it has neither been destroyed nor reset.
    #[inline]
    pub unsafe fn step(&mut self, mut pieces: usize) -> bool {
        // SAFETY: 1; blocks stay where they are until the pool ends, and new ones come at the end.
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
        // SAFETY: 1; the list is in the blocks, and new ones come at its head.
        while let Some(large) = unsafe { self.large.as_ref() } {
            if pieces == 0 {
                return false;
            }
            pieces -= 1;
            if !large.alloc.is_null() {
                // SAFETY: 2.
                let bytes = unsafe { libc::malloc_usable_size(large.alloc) } as u64;
                self.held.large_bytes = self.held.large_bytes.wrapping_add(bytes);
                self.held.large_count = self.held.large_count.wrapping_add(1);
            }
            self.large = large.next;
        }
        true
    }
}

/// What a pool holds, all at once.
///
/// # Safety
///
/// `pool` is as in 1.
#[inline]
pub unsafe fn held(pool: usize) -> Held {
    // SAFETY: by contract, here and below.
    let mut reading = unsafe { Reading::of(pool) };
    // SAFETY: as above; nothing happens to the pool meanwhile.
    unsafe { reading.step(usize::MAX) };
    reading.held
}

/// What [`Held::size`] would be, sooner. All blocks of a pool have the size of the first: nginx takes
/// that of a further one from there.
///
/// # Safety
///
/// `pool` is as in 1.
#[inline]
pub unsafe fn size(pool: usize) -> u64 {
    // SAFETY: 1.
    let header = unsafe { &*(pool as *const Header) };
    let of_block = header.end.wrapping_sub(pool) as u64;
    let mut size = of_block;
    let mut next = header.next as *const Block;
    // SAFETY: 1, here and below.
    while let Some(block) = unsafe { next.as_ref() } {
        size = size.wrapping_add(of_block);
        next = block.next;
    }
    let mut next = header.large as *const Large;
    // SAFETY: as above.
    while let Some(large) = unsafe { next.as_ref() } {
        if !large.alloc.is_null() {
            // SAFETY: 2.
            size = size.wrapping_add(unsafe { libc::malloc_usable_size(large.alloc) } as u64);
        }
        next = large.next;
    }
    size
}

/// The header of a pool.
///
/// # Safety
///
/// At `pool` is memory of this size that nobody writes meanwhile.
pub unsafe fn header(pool: usize) -> Header {
    // SAFETY: by contract.
    unsafe { (pool as *const Header).read() }
}

/// A large allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Where it is.
    pub address: usize,
    /// Its usable bytes.
    pub usable: usize,
}

/// The large allocations in a list, the latest first: what `large` of a header leads to.
///
/// # Safety
///
/// `large` is 0 or such a list, and its pool stays as it is while this is used.
pub unsafe fn large(large: usize) -> impl Iterator<Item = Allocation> {
    let mut next = large as *const Large;
    std::iter::from_fn(move || loop {
        // SAFETY: by contract.
        let large = unsafe { next.as_ref() }?;
        next = large.next;
        if !large.alloc.is_null() {
            // SAFETY: 2.
            let usable = unsafe { libc::malloc_usable_size(large.alloc) };
            return Some(Allocation { address: large.alloc as usize, usable });
        }
    })
}

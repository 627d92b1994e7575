//! The size of a pool that is measured again and again while it gives back large allocations.
//!
//! nginx puts a new large allocation at the head of the list, or into a place among the first five
//! whose own was given back. So of a list that was measured before, only what is new and the first
//! [`FRONT`] are measured again; what is behind them changes when it is given back, and only then.
//! Likewise new blocks come at the end.
//!
//! What the unsafe code below relies on: 1 and 2 of [`pool`](super).

use super::{Block, Header, Large};

/// Large allocations at the head of a list that are measured each time. The trial of the hooks
/// checks that nginx fills no place behind them.
pub const FRONT: usize = 8;

/// With no more blocks and large allocations a pool is not remembered, so that it may give back
/// something that is not measured here.
pub const FEW: usize = 24;

/// What was measured of a pool.
#[derive(Debug)]
pub struct Gauge {
    pool: usize,
    /// Its last block.
    last: *const Block,
    /// Bytes of its blocks.
    blocks: u64,
    /// The first large allocation that `behind` is about.
    mark: *const Large,
    /// Bytes of the large allocations from there on.
    behind: u64,
}

impl Gauge {
    /// Of no pool.
    pub const NONE: Gauge =
        Gauge { pool: 0, last: std::ptr::null(), blocks: 0, mark: std::ptr::null(), behind: 0 };

    /// Forgets what was measured of a pool, if this is of it.
    pub fn forget(&mut self, pool: usize) {
        if self.pool == pool {
            *self = Gauge::NONE;
        }
    }

    /// The size of a pool that is about to give back `given`, if that is one of its large allocations:
    /// blocks and large allocations. Then it must be given back next. Once a pool has more than [`FEW`] of
    /// both, this must be called each time.
    ///
    /// # Safety
    ///
    /// `pool` is as in 1, and [`Gauge::forget`] was called if it was created or reset since it was
    /// measured last.
    pub unsafe fn measure(&mut self, pool: usize, given: usize) -> Option<u64> {
        // SAFETY: 1.
        let header = unsafe { &*(pool as *const Header) };
        let head = header.large as *const Large;
        // SAFETY: by contract, here and below.
        if !unsafe { has(head, given) } {
            return None;
        }
        let of_block = header.end.wrapping_sub(pool) as u64;
        let is_known = self.pool == pool;
        if !is_known {
            *self = Gauge { pool, last: pool as *const Block, blocks: of_block, ..Gauge::NONE };
        }
        // SAFETY: 1: blocks stay where they are, and new ones come at the end.
        while let Some(next) = unsafe { self.last.as_ref().and_then(|last| last.next.as_ref()) } {
            self.last = next;
            self.blocks = self.blocks.wrapping_add(of_block);
        }
        let (mut front, mut new) = (0u64, 0u64);
        let mut left = if given == 0 { 0 } else { usable(given) };
        let (mut place, mut next, mut mark) = (0, head, self.mark);
        // SAFETY: 1.
        while let Some(large) = unsafe { next.as_ref() }.filter(|_| next != self.mark) {
            let bytes = usable(large.alloc as usize);
            if place < FRONT {
                front = front.wrapping_add(bytes);
                if large.alloc as usize == given {
                    left = 0;
                }
            } else {
                if place == FRONT {
                    mark = next;
                }
                new = new.wrapping_add(bytes);
            }
            place = place.saturating_add(1);
            next = large.next;
        }
        let behind = self.behind.wrapping_add(new);
        (self.mark, self.behind) = (mark, behind.wrapping_sub(left));
        let size = self.blocks.wrapping_add(front).wrapping_add(behind);
        let blocks = self.blocks.checked_div(of_block).unwrap_or(0);
        if !is_known && blocks.saturating_add(place as u64) <= FEW as u64 {
            *self = Gauge::NONE;
        }
        Some(size)
    }
}

/// Whether an allocation is in a list.
///
/// # Safety
///
/// `next` is null or such a list.
unsafe fn has(mut next: *const Large, given: usize) -> bool {
    // SAFETY: by contract.
    while let Some(large) = unsafe { next.as_ref() } {
        if large.alloc as usize == given {
            return true;
        }
        next = large.next;
    }
    false
}

fn usable(alloc: usize) -> u64 {
    // SAFETY: 2; of null the C library says 0.
    unsafe { libc::malloc_usable_size(alloc as *mut _) as u64 }
}

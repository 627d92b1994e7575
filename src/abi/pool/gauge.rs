//! Measures a pool repeatedly while it frees large allocations.
//!
//! nginx puts a new large allocation at the head of the list, or into one of the first five
//! elements if the allocation of that element was freed. So in a list that was measured before,
//! only new elements and the first [`FRONT`] elements are measured again. The elements behind them
//! change only when their allocation is freed. New blocks are appended in the same way.
//!
//! The unsafe code rests on invariants 1 and 2 of [`pool`](super).

use super::{Large, PoolBlock, PoolHeader};

/// The number of large allocations at the head of a list that are measured each time. The trial of
/// the hooks checks that nginx reuses no element behind them.
pub const FRONT: usize = 8;

/// A pool with at most this number of blocks and large allocations is not remembered, so that it
/// may free an allocation without being measured here.
pub const FEW: usize = 24;

/// The result of the last measurement of one pool.
#[derive(Debug)]
pub struct Gauge {
    pool: usize,
    /// The last block of the pool.
    last: *const PoolBlock,
    /// The bytes of the blocks.
    blocks: u64,
    /// The first large allocation that `behind` includes.
    mark: *const Large,
    /// The bytes of the large allocations from `mark` on.
    behind: u64,
}

impl Gauge {
    /// A gauge that remembers no pool.
    pub const NONE: Gauge =
        Gauge { pool: 0, last: std::ptr::null(), blocks: 0, mark: std::ptr::null(), behind: 0 };

    /// Discards the measurement if it is of this pool.
    pub fn forget(&mut self, pool: usize) {
        if self.pool == pool {
            *self = Gauge::NONE;
        }
    }

    /// Returns the size of a pool that is about to free `given`: blocks and large allocations, in
    /// bytes. Returns `None` if `given` is not one of its large allocations.
    ///
    /// After `Some`, the pool must free `given` next. Once a pool has more than [`FEW`] blocks and
    /// large allocations, this must be called for each allocation that the pool frees.
    ///
    /// # Safety
    ///
    /// `pool` satisfies 1, and [`Gauge::forget`] was called if the pool was created or reset since
    /// the last measurement.
    pub unsafe fn measure(&mut self, pool: usize, given: usize) -> Option<u64> {
        // SAFETY: the caller passes a live pool that this thread uses (1).
        let header = unsafe { &*(pool as *const PoolHeader) };
        let head = header.large as *const Large;
        // SAFETY: `head` is the list of that pool (1).
        if !unsafe { has(head, given) } {
            return None;
        }
        let of_block = header.end.wrapping_sub(pool) as u64;
        let is_known = self.pool == pool;
        if !is_known {
            *self = Gauge { pool, last: pool as *const PoolBlock, blocks: of_block, ..Gauge::NONE };
        }
        // SAFETY: blocks stay in place, and new ones are appended (1).
        while let Some(next) = unsafe { self.last.as_ref().and_then(|last| last.next.as_ref()) } {
            self.last = next;
            self.blocks = self.blocks.wrapping_add(of_block);
        }
        let (mut front, mut new) = (0u64, 0u64);
        let mut left = if given == 0 { 0 } else { usable(given) };
        let (mut place, mut next, mut mark) = (0, head, self.mark);
        // SAFETY: the list lies in blocks of the pool, as nginx left it (1).
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

/// Returns whether an allocation is in a list.
///
/// # Safety
///
/// `next` is null or the head of a list of large allocations.
unsafe fn has(mut next: *const Large, given: usize) -> bool {
    // SAFETY: each element of the list leads to the next or is the last (1).
    while let Some(large) = unsafe { next.as_ref() } {
        if large.alloc as usize == given {
            return true;
        }
        next = large.next;
    }
    false
}

fn usable(alloc: usize) -> u64 {
    // SAFETY: the system allocator knows the allocation; for null it returns 0 (2).
    unsafe { libc::malloc_usable_size(alloc as *mut _) as u64 }
}

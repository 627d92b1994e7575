//! The module's own allocator: it counts exactly what the module's code holds on the heap of this
//! process, and has a reserve for when the system refuses memory.
//!
//! Rust aborts the process when an allocation fails. A worker must not die because its memory is
//! being measured, so allocations that the system allocator refuses come from a reserve: a part of
//! `.bss` that has no page in RAM until then. One snapshot and its reply need less than the reserve
//! has.
//!
//! Invariants for `unsafe`:
//!
//! 1. Every function passes its arguments on to [`System`] or to the reserve, which have the same
//!    contract. An allocation goes back to the allocator it came from, which its address
//!    identifies.
//! 2. Only the heap of the reserve uses the reserve's memory, and that heap is used under its lock.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use linked_list_allocator::LockedHeap;

/// Bytes that are allocated now.
static LIVE: AtomicU64 = AtomicU64::new(0);

/// Allocations that the system refused.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// The size of the reserve in bytes.
const RESERVE: usize = 1 << 20;

#[repr(align(16))]
struct ReserveMemory(UnsafeCell<[u8; RESERVE]>);

// SAFETY: only the heap uses the memory, under its lock (2).
unsafe impl Sync for ReserveMemory {}

static MEMORY: ReserveMemory = ReserveMemory(UnsafeCell::new([0; RESERVE]));
static HEAP: LockedHeap = LockedHeap::empty();

/// Bytes that the module's code holds now.
pub fn live_bytes() -> u64 {
    LIVE.load(Relaxed)
}

/// Allocations of the module that the system has refused so far, in this process and in those it
/// was forked from.
pub fn refused() -> u64 {
    REFUSED.load(Relaxed)
}

/// The system allocator with a reserve and a count of live bytes.
pub struct CountingAllocator;

// SAFETY: each function keeps the contract of the allocator it passes its arguments on to (1).
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is that of `System` (1).
        let mut pointer = unsafe { System.alloc(layout) };
        if pointer.is_null() {
            pointer = from_reserve(layout);
        }
        if !pointer.is_null() {
            LIVE.fetch_add(layout.size() as u64, Relaxed);
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as u64, Relaxed);
        if is_reserve(pointer) {
            // SAFETY: the allocation came from the reserve (1).
            unsafe { to_reserve(pointer, layout) }
        } else {
            // SAFETY: the allocation came from `System` (1).
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !is_reserve(pointer) {
            // SAFETY: the allocation came from `System` (1).
            let moved = unsafe { System.realloc(pointer, layout, size) };
            if !moved.is_null() {
                LIVE.fetch_add(size as u64, Relaxed);
                LIVE.fetch_sub(layout.size() as u64, Relaxed);
                return moved;
            }
        }
        let Ok(larger) = Layout::from_size_align(size, layout.align()) else {
            return std::ptr::null_mut();
        };
        // SAFETY: the caller's contract says that the size is not zero (1).
        let moved = unsafe { self.alloc(larger) };
        if !moved.is_null() {
            // SAFETY: both allocations have at least that size, and the caller gives up the old one
            // (1).
            unsafe {
                std::ptr::copy_nonoverlapping(pointer, moved, layout.size().min(size));
                self.dealloc(pointer, layout);
            }
        }
        moved
    }
}

fn is_reserve(pointer: *mut u8) -> bool {
    let start = MEMORY.0.get() as usize;
    (start..start + RESERVE).contains(&(pointer as usize))
}

#[cold]
fn from_reserve(layout: Layout) -> *mut u8 {
    REFUSED.fetch_add(1, Relaxed);
    let mut heap = HEAP.lock();
    if heap.size() == 0 {
        // SAFETY: this happens once, under the lock (2).
        unsafe { heap.init(MEMORY.0.get().cast(), RESERVE) };
    }
    heap.allocate_first_fit(layout).map_or(std::ptr::null_mut(), NonNull::as_ptr)
}

/// Gives an allocation back to the reserve.
///
/// # Safety
///
/// The allocation came from the reserve, with this layout.
#[cold]
unsafe fn to_reserve(pointer: *mut u8, layout: Layout) {
    if let Some(pointer) = NonNull::new(pointer) {
        // SAFETY: the caller's contract is that of the heap, which is locked (1, 2).
        unsafe { HEAP.lock().deallocate(pointer, layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layout of `size` bytes, aligned to 8.
    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    #[test]
    fn the_reserve_serves_and_takes_back() {
        let refused_before = refused();
        let mut held: Vec<*mut u8> = Vec::new();
        for _ in 0..100 {
            for i in 1..=50 {
                let pointer = from_reserve(layout(i * 100));
                assert!(is_reserve(pointer));
                // SAFETY: the allocation has that size.
                unsafe { pointer.write_bytes(i as u8, i * 100) };
                held.push(pointer);
            }
            for (i, pointer) in (1..=50).zip(held.drain(..)) {
                // SAFETY: it was allocated above with this layout, and every byte has been written.
                unsafe {
                    assert_eq!((*pointer, *pointer.add(i * 100 - 1)), (i as u8, i as u8));
                    CountingAllocator.dealloc(pointer, layout(i * 100));
                }
                LIVE.fetch_add((i * 100) as u64, Relaxed);
            }
        }
        assert!(refused() - refused_before >= 5000);
        assert!(from_reserve(layout(RESERVE + 1)).is_null());
        assert!(!is_reserve(std::ptr::null_mut()));
    }

    #[test]
    fn what_is_in_the_reserve_can_grow() {
        let pointer = from_reserve(layout(10));
        LIVE.fetch_add(10, Relaxed);
        // SAFETY: the allocation has the old size, then the new one, and is not used once freed.
        unsafe {
            pointer.write_bytes(7, 10);
            let moved = CountingAllocator.realloc(pointer, layout(10), 10_000);
            assert!(!is_reserve(moved));
            assert_eq!(std::slice::from_raw_parts(moved, 10), [7; 10]);
            CountingAllocator.dealloc(moved, layout(10_000));
        }
    }
}

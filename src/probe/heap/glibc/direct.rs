//! Counts in a process without other threads, reading memory without the kernel.
//!
//! Invariants of the unsafe code:
//!
//! 1. The C library knows that there is no other thread (`__libc_single_threaded`), so nothing
//!    changes during the call.
//! 2. The range lies between the start of the `brk` heap and its end according to `sbrk(0)`, and
//!    was readable and writable when the mappings were last read. malloc itself reads and writes
//!    there.
#![allow(unsafe_code)]

use super::arenas::Reader;
use super::count::{ArenaCount, CountContext};
use super::walk::Stop;
use crate::budget::{Budget, Progress};
use crate::sys::memory::Direct;

/// Does one step of a count. The caller guarantees the invariants.
pub fn step(
    count: &mut ArenaCount,
    reader: &mut Reader,
    place: &CountContext,
    budget: &Budget,
) -> Result<Progress, Stop> {
    // SAFETY: the range is mapped and readable (2), no other thread changes it, and the value is
    // dropped before this returns (1).
    let memory = unsafe { Direct::new(place.heap.clone()) };
    count.step(reader, &memory, place, budget)
}

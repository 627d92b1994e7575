//! Counting in a process without other threads, which needs no help from the kernel.
//!
//! Invariants:
//! 1. The C library knows that there is no other thread (`__libc_single_threaded`), so nothing
//!    changes during the call.
//! 2. The range lies between the start of the `brk` heap and its end as `sbrk(0)` has it, and was
//!    readable and writable when the mappings were read last: malloc itself reads and writes there.
#![allow(unsafe_code)]

use super::arenas::Reader;
use super::count::{Count, Place};
use super::walk::Stop;
use crate::budget::{Budget, Progress};
use crate::sys::memory::Direct;

/// A step of a count. The caller has seen to the invariants.
pub fn step(
    count: &mut Count,
    reader: &mut Reader,
    place: &Place,
    budget: &Budget,
) -> Result<Progress, Stop> {
    // SAFETY: mapped and readable (2), with no other thread (1); dropped before this returns.
    let memory = unsafe { Direct::new(place.heap.clone()) };
    count.step(reader, &memory, place, budget)
}

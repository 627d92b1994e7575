//! The walk of a process without other threads, which needs no help from the kernel.
//!
//! Invariants:
//! 1. The C library knows that there is no other thread (`__libc_single_threaded`), so nothing
//!    changes during the call.
//! 2. The range lies between the start of the `brk` heap and its end as `sbrk(0)` has it, and was
//!    readable and writable when the measurement began: malloc itself reads and writes there.
#![allow(unsafe_code)]

use std::ops::Range;

use super::arenas::{Held, Reader, State};
use super::walk::{Limit, Stop};
use crate::sys::memory::Direct;

/// Free bytes and what the arenas hold. The caller has seen to the invariants.
pub fn free(
    reader: &mut Reader,
    state: &State,
    heap: Range<usize>,
    limit: &mut Limit,
) -> Result<(usize, Held), Stop> {
    // SAFETY: mapped and readable (2), with no other thread (1); dropped before this returns.
    let memory = unsafe { Direct::new(heap.clone()) };
    reader.free(&memory, state, &[heap], limit)
}

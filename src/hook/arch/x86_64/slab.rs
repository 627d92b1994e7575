//! The entry points of the hooked slab functions.
//!
//! The most frequent cases are handled here: the pool's counters are those that were used last, or
//! they are in the first place where they may be, and the requested size is at most half a page.
//! All other cases go on to [`alloc_locked`] and [`free_locked`], with the stack as the caller left
//! it. These handle every case.
//!
//! An allocation is counted before the original is called, and the count is undone if the original
//! fails. So fewer registers have to be saved during the call.
//!
//! What the code below relies on:
//!
//! 1. Rules 1, 2, 3 and 5 of [`slab`](crate::hook::slab).
//! 2. The caller holds the mutex of the pool, so nobody else changes the pool's counters meanwhile.

use std::arch::global_asm;
use std::ffi::c_void;

use crate::hook::slab::{alloc_locked, free_locked, ALLOC, CURRENT, FREE, HALF_PAGE, LAST};
use crate::tally::zones::{SlabCounters, FACTOR, SHIFT};

extern "C" {
    /// Replaces `ngx_slab_alloc_locked`.
    pub fn memstat_slab_alloc(pool: *mut c_void, size: usize) -> *mut c_void;

    /// Replaces `ngx_slab_free_locked`.
    pub fn memstat_slab_free(pool: *mut c_void, block: *mut c_void);
}

/// Sets rdx to the counters of the pool in rdi, if they are the ones that were used last.
macro_rules! find {
    ($function:literal) => {
        concat!(
            "mov rdx, [rip + {LAST}]
             cmp [rdx + {POOL}], rdi
             jne .L",
            $function,
            "_not_last
             .L",
            $function,
            "_found:"
        )
    };
}

/// Otherwise sets rdx to the counters in the pool's first place, if they are there; if not, goes on
/// to the other function.
macro_rules! find_first {
    ($function:literal, $or_to:literal) => {
        concat!(
            ".L",
            $function,
            "_not_last:
             movabs rdx, {FACTOR}
             imul rdx, rdi
             shr rdx, {SHIFT}
             shl rdx, {ENTRY_BITS}
             add rdx, [rip + {CURRENT}]
             cmp [rdx + {POOL}], rdi
             jne {",
            $or_to,
            "}
             mov [rip + {LAST}], rdx
             jmp .L",
            $function,
            "_found"
        )
    };
}

global_asm!(
    ".globl memstat_slab_alloc",
    ".hidden memstat_slab_alloc",
    ".type memstat_slab_alloc, @function",
    "memstat_slab_alloc:",
    ".cfi_startproc",
    find!("slab_alloc"),
    "cmp rsi, [rip + {HALF_PAGE}]",
    "ja {alloc_locked}",
    "inc qword ptr [rdx + {ALLOCATIONS}]",
    "add [rdx + {BYTES_REQUESTED}], rsi",
    // Call the original, with the stack aligned and the values for the counters saved.
    "push rsi",
    "push rdx",
    "push rdx",
    ".cfi_adjust_cfa_offset 24",
    "call [rip + {ALLOC}]",
    "test rax, rax",
    "jz .Lslab_alloc_failed",
    "add rsp, 24",
    ".cfi_adjust_cfa_offset -24",
    "ret",
    ".Lslab_alloc_failed:",
    ".cfi_adjust_cfa_offset 24",
    "pop rdx",
    "pop rdx",
    "pop rsi",
    ".cfi_adjust_cfa_offset -24",
    "dec qword ptr [rdx + {ALLOCATIONS}]",
    "sub [rdx + {BYTES_REQUESTED}], rsi",
    "inc qword ptr [rdx + {FAILURES}]",
    "ret",
    find_first!("slab_alloc", "alloc_locked"),
    ".cfi_endproc",
    ".size memstat_slab_alloc, . - memstat_slab_alloc",
    "",
    ".globl memstat_slab_free",
    ".hidden memstat_slab_free",
    ".type memstat_slab_free, @function",
    "memstat_slab_free:",
    ".cfi_startproc",
    find!("slab_free"),
    "inc qword ptr [rdx + {FREES}]",
    "jmp [rip + {FREE}]",
    find_first!("slab_free", "free_locked"),
    ".cfi_endproc",
    ".size memstat_slab_free, . - memstat_slab_free",
    ALLOC = sym ALLOC,
    FREE = sym FREE,
    LAST = sym LAST,
    CURRENT = sym CURRENT,
    HALF_PAGE = sym HALF_PAGE,
    alloc_locked = sym alloc_locked,
    free_locked = sym free_locked,
    FACTOR = const FACTOR,
    SHIFT = const SHIFT,
    ENTRY_BITS = const size_of::<SlabCounters>().trailing_zeros(),
    POOL = const SlabCounters::POOL,
    ALLOCATIONS = const SlabCounters::ALLOCATIONS,
    FREES = const SlabCounters::FREES,
    FAILURES = const SlabCounters::FAILURES,
    BYTES_REQUESTED = const SlabCounters::BYTES_REQUESTED,
);

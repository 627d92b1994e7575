//! Where calls of the hooked slab functions come in.
//!
//! The commonest cases end here: the pool's counters are those that were used last or the first of the
//! places where they may be, and what is asked for is no more than half a page. All else goes on to
//! [`alloc_locked`] and [`free_locked`], with the stack as the caller left it: they do the same and the
//! rest.
//!
//! What is asked for counts before the original is called, and is taken back when that fails: so less
//! is to be kept meanwhile.
//!
//! What the code below relies on:
//!
//! 1. What [`slab`](crate::hook::slab) relies on: 1, 2, 3 and 5.
//! 2. Who calls holds the mutex of the pool, so nobody else changes its counters meanwhile.

use std::arch::global_asm;
use std::ffi::c_void;

use crate::hook::slab::{alloc_locked, free_locked, ALLOC, CURRENT, FREE, HALF_PAGE, LAST};
use crate::tally::zones::{Entry, FACTOR, SHIFT};

extern "C" {
    /// Stands in for `ngx_slab_alloc_locked`.
    pub fn memstat_slab_alloc(pool: *mut c_void, size: usize) -> *mut c_void;

    /// Stands in for `ngx_slab_free_locked`.
    pub fn memstat_slab_free(pool: *mut c_void, block: *mut c_void);
}

/// Sets rdx to the counters of the pool in rdi, if they are those that were used last.
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

/// Else, if they are in their first place; if not, it goes on elsewhere.
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
    // The original, with the stack aligned; what counts is kept.
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
    ENTRY_BITS = const size_of::<Entry>().trailing_zeros(),
    POOL = const Entry::POOL,
    ALLOCATIONS = const Entry::ALLOCATIONS,
    FREES = const Entry::FREES,
    FAILURES = const Entry::FAILURES,
    BYTES_REQUESTED = const Entry::BYTES_REQUESTED,
);

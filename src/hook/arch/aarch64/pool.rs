//! The entry points of the hooked pool functions. They pass on the caller's return address where it
//! is needed; [`created`], [`destroy`] and [`give_back`] do the rest.
//!
//! The code below relies on rules 1 and 2 of [`pool`](crate::hook::pool).

use std::arch::global_asm;
use std::ffi::c_void;

use crate::hook::pool::{created, destroy, give_back, CREATE};

extern "C" {
    /// Replaces `ngx_create_pool`.
    pub fn memstat_create_pool(size: usize, log: *mut c_void) -> *mut c_void;

    /// Replaces `ngx_destroy_pool`.
    pub fn memstat_destroy_pool(pool: *mut c_void);

    /// Replaces `ngx_pfree`.
    pub fn memstat_pfree(pool: *mut c_void, given: *mut c_void) -> isize;
}

global_asm!(
    ".globl memstat_create_pool",
    ".hidden memstat_create_pool",
    ".type memstat_create_pool, @function",
    "memstat_create_pool:",
    ".cfi_startproc",
    "stp x29, x30, [sp, #-16]!",
    ".cfi_adjust_cfa_offset 16",
    ".cfi_offset x29, -16",
    ".cfi_offset x30, -8",
    "adrp x9, {CREATE}",
    "ldr x9, [x9, :lo12:{CREATE}]",
    "blr x9",
    "ldp x29, x30, [sp], #16",
    ".cfi_adjust_cfa_offset -16",
    ".cfi_restore x29",
    ".cfi_restore x30",
    "mov x1, x30",
    "b {created}",
    ".cfi_endproc",
    ".size memstat_create_pool, . - memstat_create_pool",
    "",
    ".globl memstat_destroy_pool",
    ".hidden memstat_destroy_pool",
    ".type memstat_destroy_pool, @function",
    "memstat_destroy_pool:",
    "b {destroy}",
    ".size memstat_destroy_pool, . - memstat_destroy_pool",
    "",
    ".globl memstat_pfree",
    ".hidden memstat_pfree",
    ".type memstat_pfree, @function",
    "memstat_pfree:",
    "b {give_back}",
    ".size memstat_pfree, . - memstat_pfree",
    CREATE = sym CREATE,
    created = sym created,
    destroy = sym destroy,
    give_back = sym give_back,
);

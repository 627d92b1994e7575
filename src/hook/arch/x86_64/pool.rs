//! The entry points of the hooked pool functions.
//!
//! The most frequent cases are handled here: a pool of a known kind is created and its place in the
//! nursery is free, or a pool in the nursery is destroyed and has a size that the nursery counts.
//! All other cases go on to [`created`], [`destroy`], [`destroy_sized`] and [`give_back`], with the
//! stack as the caller left it. These handle every case.
//!
//! What the code below relies on:
//!
//! 1. Rules 1 and 2 of [`pool`](crate::hook::pool), and rule 5 for a pool that was just created or
//!    is about to be destroyed. For the pool's large allocations, the rules of
//!    [`abi::pool`](crate::abi::pool). The C library reports 0 bytes for a large allocation that is
//!    null.
//! 2. Of `hook::pool` it uses only whole words of the nursery and of statics. Access to them is
//!    atomic, so another thread does no harm. The compared values include the thread pointer, so
//!    that calls on another thread go on to [`created`] or [`destroy`], which notice the thread.
//!    This holds for every pool in the nursery that another thread destroys. It holds for a pool
//!    that another thread creates, with one exception: if the address of its call differs from the
//!    address of a known call by exactly as much as the two threads' pointers differ, the thread is
//!    noticed later, when it destroys that pool or creates its next one.

use std::arch::global_asm;
use std::ffi::c_void;
use std::mem::offset_of;

use crate::abi::pool::{Large, PoolHeader, FEW};
use crate::hook::pool::{
    created, destroy, destroy_sized, give_back, CLOCK, CREATE, DESTROY, MAIN, NURSERY, PFREE,
};
use crate::tally::pools::{Nursery, FACTOR, SHIFT};

extern "C" {
    /// Replaces `ngx_create_pool`.
    pub fn memstat_create_pool(size: usize, log: *mut c_void) -> *mut c_void;

    /// Replaces `ngx_destroy_pool`.
    pub fn memstat_destroy_pool(pool: *mut c_void);

    /// Replaces `ngx_pfree`.
    pub fn memstat_pfree(pool: *mut c_void, given: *mut c_void) -> isize;
}

/// Sets rdx to 0 if this is the main thread and the pool is in its place in the nursery.
macro_rules! compare {
    () => {
        "mov rdx, fs:[0]
         sub rdx, [rip + {MAIN}]
         add rdx, rdi
         sub rdx, [rcx + rax*8 + {POOLS}]"
    };
}

/// Removes the pool from its place, increments one of the counts of its kind, and goes on to the
/// original.
macro_rules! end {
    ($count:literal) => {
        concat!(
            "movzx edx, byte ptr [rcx + rax*8 + {KINDS}]
             mov qword ptr [rcx + rax*8 + {POOLS}], 0
             inc qword ptr [rcx + rdx*8 + {",
            $count,
            "}]
             jmp [rip + {DESTROY}]"
        )
    };
}

/// Sets rax to the size of the only large allocation, with the stack aligned. With more than one
/// large allocation, goes on at `.Ldestroy_any`.
macro_rules! ask {
    () => {
        "mov rsi, [rdi + {LARGE}]
         cmp qword ptr [rsi + {LARGE_NEXT}], 0
         jne .Ldestroy_any
         push rdi
         .cfi_adjust_cfa_offset 8
         mov rdi, [rsi + {LARGE_ALLOC}]
         call [rip + {usable_size}@GOTPCREL]
         pop rdi
         .cfi_adjust_cfa_offset -8"
    };
}

global_asm!(
    ".globl memstat_create_pool",
    ".hidden memstat_create_pool",
    ".type memstat_create_pool, @function",
    "memstat_create_pool:",
    ".cfi_startproc",
    // Call the original, with the stack aligned and the size saved.
    "push rdi",
    ".cfi_adjust_cfa_offset 8",
    "call [rip + {CREATE}]",
    "pop rdi",
    ".cfi_adjust_cfa_offset -8",
    // The mark: the sum of the thread pointer and the return address.
    "mov rsi, fs:[0]",
    "add rsi, [rsp]",
    "lea rcx, [rip + {NURSERY}]",
    // rdi is 0 if the kind at the mark's place has this mark and size, and the pool's place is
    // free.
    "movzx edx, sil",
    "sub rsi, [rcx + rdx*8 + {MARKS}]",
    "xor rdi, [rcx + rdx*8 + {SIZES}]",
    "or rdi, rsi",
    "imul esi, eax, {FACTOR}",
    "shr esi, {SHIFT}",
    "or rdi, [rcx + rsi*8 + {POOLS}]",
    "jnz .Lcreate_unknown",
    "mov [rcx + rsi*8 + {POOLS}], rax",
    // Write the whole word, so that no pool in this place counts as looked at any more.
    "mov [rcx + rsi*8 + {KINDS}], rdx",
    "mov rdx, [rip + {CLOCK}]",
    "mov rdx, [rdx]",
    "mov [rcx + rsi*8 + {CREATED}], rdx",
    "ret",
    ".Lcreate_unknown:",
    "mov rdi, rax",
    "mov rsi, [rsp]",
    "jmp {created}",
    ".cfi_endproc",
    ".size memstat_create_pool, . - memstat_create_pool",
    "",
    ".globl memstat_destroy_pool",
    ".hidden memstat_destroy_pool",
    ".type memstat_destroy_pool, @function",
    "memstat_destroy_pool:",
    ".cfi_startproc",
    "lea rcx, [rip + {NURSERY}]",
    "imul eax, edi, {FACTOR}",
    "shr eax, {SHIFT}",
    compare!(),
    // Two blocks, and no large allocation?
    "mov rsi, [rdi + {NEXT}]",
    "test rsi, rsi",
    "jz .Ldestroy_one_block",
    "or rdx, [rsi + {NEXT}]",
    "or rdx, [rdi + {LARGE}]",
    "jnz .Ldestroy_three_blocks",
    end!("ENDED_2"),
    ".Ldestroy_one_block:", // One block, and no large allocation?
    "or rdx, [rdi + {LARGE}]",
    "jnz .Ldestroy_one_block_one_large",
    end!("ENDED_1"),
    ".Ldestroy_three_blocks:", // Three blocks, no large allocation? Repeats the checks above.
    "mov rsi, [rsi + {NEXT}]",
    "test rsi, rsi",
    "jz .Ldestroy_two_blocks_one_large",
    compare!(),
    "jnz {destroy}",
    "mov rdx, [rdi + {LARGE}]",
    "or rdx, [rsi + {NEXT}]",
    "jnz .Ldestroy_any",
    end!("ENDED_3"),
    ".Ldestroy_two_blocks_one_large:", // Two blocks, and one large allocation?
    compare!(),
    "jnz {destroy}",
    ask!(),
    "mov rsi, [rdi + {END}]",
    "sub rsi, rdi",
    "lea rax, [rax + rsi*2]",
    "jmp .Ldestroy_sized",
    ".Ldestroy_one_block_one_large:", // One block, and one large allocation?
    compare!(),
    "jnz {destroy}",
    ask!(),
    "add rax, [rdi + {END}]",
    "sub rax, rdi",
    ".Ldestroy_sized:", // Is its size, in rax, one of the counted sizes?
    "lea rcx, [rip + {NURSERY}]",
    "imul esi, edi, {FACTOR}",
    "shr esi, {SHIFT}",
    "movzx edx, byte ptr [rcx + rsi*8 + {KINDS}]",
    "sub rax, [rcx + rdx*8 + {LEAST}]",
    "cmp rax, [rcx + rdx*8 + {ABOVE}]",
    "ja .Ldestroy_unlike",
    "mov qword ptr [rcx + rsi*8 + {POOLS}], 0",
    "inc qword ptr [rcx + rdx*8 + {ALIKE}]",
    "jmp [rip + {DESTROY}]",
    ".Ldestroy_unlike:",
    "add rax, [rcx + rdx*8 + {LEAST}]",
    "mov rsi, rax",
    "jmp {destroy_sized}",
    ".Ldestroy_any:", // Any number of blocks,
    "mov rcx, [rdi + {END}]",
    "sub rcx, rdi",
    "xor eax, eax",
    "mov rsi, rdi",
    ".Ldestroy_next_block:",
    "add rax, rcx",
    "mov rsi, [rsi + {NEXT}]",
    "test rsi, rsi",
    "jnz .Ldestroy_next_block",
    // and any number of large allocations.
    "push rbx",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset rbx, 0",
    "push rdi",
    ".cfi_adjust_cfa_offset 8",
    "push rax",
    ".cfi_adjust_cfa_offset 8",
    "mov rbx, [rdi + {LARGE}]",
    "test rbx, rbx",
    "jz .Ldestroy_all_large",
    ".Ldestroy_next_large:",
    "mov rdi, [rbx + {LARGE_ALLOC}]",
    "call [rip + {usable_size}@GOTPCREL]",
    "add [rsp], rax",
    "mov rbx, [rbx + {LARGE_NEXT}]",
    "test rbx, rbx",
    "jnz .Ldestroy_next_large",
    ".Ldestroy_all_large:",
    "pop rax",
    ".cfi_adjust_cfa_offset -8",
    "pop rdi",
    ".cfi_adjust_cfa_offset -8",
    "pop rbx",
    ".cfi_adjust_cfa_offset -8",
    ".cfi_restore rbx",
    "jmp .Ldestroy_sized",
    ".cfi_endproc",
    ".size memstat_destroy_pool, . - memstat_destroy_pool",
    "",
    ".globl memstat_pfree",
    ".hidden memstat_pfree",
    ".type memstat_pfree, @function",
    "memstat_pfree:",
    ".cfi_startproc",
    "lea rcx, [rip + {NURSERY}]",
    "imul eax, edi, {FACTOR}",
    "shr eax, {SHIFT}",
    "cmp edi, [rcx + rax*8 + {LOOKED_AT}]",
    "jne .Lpfree_any_large",
    // The pool has, or had, large allocations. Does it have one block and one large allocation?
    "mov rdx, [rdi + {LARGE}]",
    "mov r8, [rdx + {LARGE_NEXT}]",
    "or r8, [rdi + {NEXT}]",
    "jnz .Lpfree_any_large",
    "push rdi",
    ".cfi_adjust_cfa_offset 8",
    "push rsi",
    ".cfi_adjust_cfa_offset 8",
    "push [rcx + rax*8 + {ENOUGH}]",
    ".cfi_adjust_cfa_offset 8",
    "mov rdi, [rdx + {LARGE_ALLOC}]",
    "call [rip + {usable_size}@GOTPCREL]",
    "pop rcx",
    ".cfi_adjust_cfa_offset -8",
    "pop rsi",
    ".cfi_adjust_cfa_offset -8",
    "pop rdi",
    ".cfi_adjust_cfa_offset -8",
    // Does the pool exceed the peak of its creator?
    "cmp rax, rcx",
    "ja {give_back}",
    "jmp [rip + {PFREE}]",
    ".Lpfree_any_large:", // Any large allocation at all?
    "mov rdx, [rdi + {LARGE}]",
    "test rdx, rdx",
    "jz .Lpfree_original",
    // rcx: the peak of its creator in bytes, as far as it is known here.
    "mov r8, [rdi + {END}]",
    "sub r8, rdi",
    "cmp edi, [rcx + rax*8 + {LOOKED_AT}]",
    "jne .Lpfree_of_nursery",
    "mov rcx, [rcx + rax*8 + {ENOUGH}]",
    "add rcx, r8",
    "jmp .Lpfree_less_blocks",
    ".Lpfree_of_nursery:",
    "cmp rdi, [rcx + rax*8 + {POOLS}]",
    "jne {give_back}",
    "movzx eax, byte ptr [rcx + rax*8 + {KINDS}]",
    "mov rcx, [rcx + rax*8 + {PEAKS}]",
    ".Lpfree_less_blocks:", // Minus its blocks,
    "mov r9d, {FEW}",
    "mov rax, rdi",
    ".Lpfree_next_block:",
    "sub rcx, r8",
    "jb {give_back}",
    "dec r9d",
    "jz {give_back}",
    "mov rax, [rax + {NEXT}]",
    "test rax, rax",
    "jnz .Lpfree_next_block",
    // and minus the large allocations.
    "push rbx",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset rbx, 0",
    "push rbp",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset rbp, 0",
    "push rdi",
    ".cfi_adjust_cfa_offset 8",
    "push rsi",
    ".cfi_adjust_cfa_offset 8",
    "push rcx",
    ".cfi_adjust_cfa_offset 8",
    "mov rbx, rdx",
    "mov ebp, r9d",
    ".Lpfree_next_large:",
    "mov rdi, [rbx + {LARGE_ALLOC}]",
    "call [rip + {usable_size}@GOTPCREL]",
    "sub [rsp], rax",
    "jb .Lpfree_compared",
    "mov rbx, [rbx + {LARGE_NEXT}]",
    "test rbx, rbx",
    "jz .Lpfree_compared",
    "dec ebp",
    "jnz .Lpfree_next_large",
    ".Lpfree_compared:", // rbx is 0 if all were subtracted, so the pool does not exceed the peak.
    "mov rax, rbx",
    "pop rcx",
    ".cfi_adjust_cfa_offset -8",
    "pop rsi",
    ".cfi_adjust_cfa_offset -8",
    "pop rdi",
    ".cfi_adjust_cfa_offset -8",
    "pop rbp",
    ".cfi_adjust_cfa_offset -8",
    ".cfi_restore rbp",
    "pop rbx",
    ".cfi_adjust_cfa_offset -8",
    ".cfi_restore rbx",
    "test rax, rax",
    "jnz {give_back}",
    ".Lpfree_original:",
    "jmp [rip + {PFREE}]",
    ".cfi_endproc",
    ".size memstat_pfree, . - memstat_pfree",
    CREATE = sym CREATE,
    DESTROY = sym DESTROY,
    PFREE = sym PFREE,
    CLOCK = sym CLOCK,
    MAIN = sym MAIN,
    NURSERY = sym NURSERY,
    created = sym created,
    destroy = sym destroy,
    destroy_sized = sym destroy_sized,
    give_back = sym give_back,
    FACTOR = const FACTOR as i32,
    SHIFT = const SHIFT,
    POOLS = const Nursery::POOLS,
    CREATED = const Nursery::CREATED,
    KINDS = const Nursery::KINDS,
    LOOKED_AT = const Nursery::LOOKED_AT,
    ENOUGH = const Nursery::ENOUGH,
    PEAKS = const Nursery::PEAKS,
    FEW = const FEW as i32,
    MARKS = const Nursery::MARKS,
    SIZES = const Nursery::SIZES,
    ENDED_1 = const Nursery::ENDED,
    ENDED_2 = const Nursery::ENDED + Nursery::ENDED_NEXT,
    ENDED_3 = const Nursery::ENDED + 2 * Nursery::ENDED_NEXT,
    LEAST = const Nursery::LEAST,
    ABOVE = const Nursery::ABOVE,
    ALIKE = const Nursery::ALIKE,
    END = const offset_of!(PoolHeader, end),
    NEXT = const offset_of!(PoolHeader, next),
    LARGE = const offset_of!(PoolHeader, large),
    LARGE_NEXT = const offset_of!(Large, next),
    LARGE_ALLOC = const offset_of!(Large, alloc),
    usable_size = sym libc::malloc_usable_size,
);

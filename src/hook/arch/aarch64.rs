//! The hooks' code for aarch64.
//!
//! It was built for Debian 13 and tested there in full emulation, with the distribution's nginx,
//! LuaJIT and glibc. On a processor without pointer authentication all hooks count. On a processor
//! with it, pools and slabs are not hooked: the trial fails, because the functions begin with
//! `paciasp`. Nothing was tested on a real machine. Builds on other processors test only the
//! contents of the detours.
//!
//! What the unsafe code below relies on:
//!
//! 1. Any code may read the register `tpidr_el0`.
//! 2. `__clear_cache` takes any mapped range, and neither reads nor writes its data.

mod detour;
pub mod lua;
pub mod pool;
pub mod slab;

pub use detour::{plan, REACH};

pub use object::elf::{R_AARCH64_GLOB_DAT as GLOB_DAT, R_AARCH64_JUMP_SLOT as JUMP_SLOT};

/// Returns the address of the thread's control block, which distinguishes threads at the cost of
/// one instruction.
#[inline(always)]
pub fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: the instruction only reads the register (1).
    unsafe {
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, pure, nomem))
    };
    pointer
}

/// Makes written code visible to the processor.
///
/// # Safety
///
/// The range is mapped.
pub unsafe fn flush(start: usize, length: usize) {
    extern "C" {
        /// A function of the compiler's runtime library.
        fn __clear_cache(start: *mut u8, end: *mut u8);
    }
    // SAFETY: the range is mapped, by contract (2).
    unsafe { __clear_cache(start as *mut u8, start.wrapping_add(length) as *mut u8) };
}

/// Finds no references: they are not implemented for this processor.
pub fn references(_code: &[u8], _at: usize, _found: impl FnMut(super::references::CodeReference)) {}

//! aarch64.
//!
//! Built for Debian 13 and tried there in full emulation, with nginx, LuaJIT and glibc of the
//! distribution. On a processor without pointer authentication all hooks count. On one that has it,
//! pools and slabs are not hooked: the trial ends, since the functions begin with `paciasp`. On a real
//! machine nothing was tried. What a build on another processor checks are the detours that are
//! written.

mod detour;
pub mod lua;
pub mod pool;
pub mod slab;

pub use detour::{plan, REACH};

/// `R_AARCH64_GLOB_DAT`.
pub const GLOB_DAT: u32 = 1025;
/// `R_AARCH64_JUMP_SLOT`.
pub const JUMP_SLOT: u32 = 1026;

/// What tells threads apart at the cost of an instruction: the address of the thread's control
/// block.
#[inline(always)]
pub fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: a register that may be read.
    unsafe {
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, pure, nomem))
    };
    pointer
}

/// Has the processor see code that was written.
///
/// # Safety
///
/// The range is mapped.
pub unsafe fn flush(start: usize, length: usize) {
    extern "C" {
        /// From the compiler's runtime library.
        fn __clear_cache(start: *mut u8, end: *mut u8);
    }
    // SAFETY: by contract; it reads and writes no data.
    unsafe { __clear_cache(start as *mut u8, start.wrapping_add(length) as *mut u8) };
}

/// What machine code refers to: not known on this processor.
pub fn references(_code: &[u8], _at: usize, _found: impl FnMut(super::references::Reference)) {}

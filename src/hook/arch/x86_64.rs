//! The hooks' code for x86_64.
//!
//! What the unsafe code below relies on:
//!
//! 1. The ABI stores the control block's own address at its start, to which `fs` points.

mod detour;
pub mod lua;
pub mod pool;
mod references;
pub mod slab;

pub use detour::{plan, REACH};
pub use references::references;

pub use object::elf::{R_X86_64_GLOB_DAT as GLOB_DAT, R_X86_64_JUMP_SLOT as JUMP_SLOT};

/// Returns the address of the thread's control block, which distinguishes threads at the cost of
/// one instruction.
#[inline(always)]
pub fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: `fs:[0]` is the control block's own address (1).
    unsafe {
        std::arch::asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, pure, readonly))
    };
    pointer
}

/// Makes written code visible to the processor. x86_64 needs nothing for this.
///
/// # Safety
///
/// The range is mapped.
pub unsafe fn flush(_start: usize, _length: usize) {}

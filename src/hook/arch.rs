//! The processor-specific parts of the hooks, under the same names on each processor.
//!
//! | name | meaning |
//! |---|---|
//! | `plan`, `REACH` | detours: how a jump replaces a function's first instructions, and its range |
//! | `flush` | makes written code visible to the processor |
//! | `references` | finds what machine code refers to |
//! | `thread_pointer` | distinguishes threads at the cost of one instruction |
//! | `GLOB_DAT`, `JUMP_SLOT` | the relocations of slots that hold the address of a function |
//! | `pool`, `slab`, `lua` | the entry points of hooked functions |
//!
//! The module comment of [`aarch64`] says what was tested on that processor.

#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64"
)))]
compile_error!("hooks are written for x86_64 and aarch64 with 64-bit pointers only");

use serde::{Deserialize, Serialize};

#[cfg(target_arch = "aarch64")]
mod aarch64;
/// Pure code, which is tested on other processors as well.
#[cfg(all(test, not(target_arch = "aarch64")))]
#[path = "arch/aarch64/detour.rs"]
mod detour_of_aarch64;
pub mod references;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

/// The size of a block in bytes.
pub const BLOCK: usize = 128;

/// The detour of a function.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detour {
    /// The number of bytes at the start of the function that stay unchanged.
    pub skip: usize,
    /// The bytes that are written after them.
    pub patch: Vec<u8>,
    /// The contents of its block, which starts with the jump to the hook.
    pub block: Vec<u8>,
    /// The offset in the block of the code that runs the original function.
    pub original: usize,
    /// Whether the block contains a call instruction, so that a call may return into the block.
    pub calls: bool,
}

//! All of the hooks that depends on the processor, under the same names for each.
//!
//! | name | what it is |
//! |---|---|
//! | `plan`, `REACH` | detours: how a function's first instructions become a jump, and how far |
//! | `flush` | what the processor needs to see code that was written |
//! | `references` | what machine code refers to |
//! | `thread_pointer` | what tells threads apart at the cost of an instruction |
//! | `GLOB_DAT`, `JUMP_SLOT` | the relocations of slots that hold the address of a function |
//! | `pool`, `slab`, `lua` | where calls of hooked functions come in |
//!
//! The module comment of [`aarch64`] says what of it was tried.

#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64"
)))]
compile_error!("hooks are written for x86_64 and aarch64 with 64-bit pointers only");

use serde::{Deserialize, Serialize};

#[cfg(target_arch = "aarch64")]
mod aarch64;
/// Pure code, tested on other processors as well.
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

/// Bytes that a block has room for.
pub const BLOCK: usize = 128;

/// What makes a detour of a function.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detour {
    /// Bytes at its start that stay.
    pub skip: usize,
    /// What is written behind them.
    pub patch: Vec<u8>,
    /// Its block: at the start, the way to the hook.
    pub block: Vec<u8>,
    /// Where in the block the way to the function itself starts.
    pub original: usize,
    /// Whether an instruction in the block is a call, which returns to it.
    pub calls: bool,
}

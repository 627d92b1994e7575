//! Hooks: code of ours that runs when the process allocates, or creates a thread.
//!
//! This floor is small because most of it is unsafe. What holds for all of it:
//!
//! - Patching happens in the master (or the single process), while it reads its configuration: one
//!   thread, before it forks. Workers inherit the patched pages and never patch.
//! - The module is pinned first ([`pin`]). It is never unloaded once something leads to it, so no
//!   hook has to be taken out in a hurry, and a reload finds the hooks in place.
//! - Where the original is, is stored before anything leads to a hook.
//! - No page is left writable that was not, and none is ever writable and executable at once.
//! - A hook is taken out only where it still is; what somebody else has put over it stays.
//! - A hook calls the original, with the arguments it got, and returns what that returned, with the
//!   errno that it left. Beyond that it counts: no system call, no lock on the path of an
//!   allocation, and when a count cannot be kept, the call still goes through.
//! - Nothing unwinds from a hook into the code that called it: hooks do nothing that can panic.
//! - A hook that cannot be is `off: reason`, never a failed start ([`refusal`]).

mod arch;
pub mod creators;
pub mod engine;
mod errno;
pub mod got;
pub mod imports;
pub mod lua;
pub mod origin;
pub mod pin;
pub mod pool;
pub mod protect;
pub mod refusal;
pub mod set;
pub mod slab;
pub mod sleep;
pub mod stacks;
pub mod state;
pub mod thread;

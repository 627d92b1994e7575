//! Hooks: our code that runs when the process allocates memory, creates a thread or puts the master
//! to sleep.
//!
//! This directory is small because most of its code is unsafe. These rules hold for all of it:
//!
//! - The master (or the single process) patches code and slots while it reads its configuration,
//!   with one thread and before it forks. Workers inherit the patched pages and never patch.
//! - The module is pinned first ([`pin`]) and never unloaded once anything leads to it. So no hook
//!   has to be removed in a hurry, and a reload finds the hooks in place.
//! - The address of the original function is stored before anything leads to a hook.
//! - A page that was read-only is read-only again afterwards. No page is ever writable and
//!   executable at once.
//! - A hook is removed only where it is still in place. If somebody else has patched over it, their
//!   patch stays.
//! - A hook calls the original with the arguments it got, and returns the original's result and
//!   errno. Apart from that it only counts: no system call and no lock on the path of an
//!   allocation. If a count cannot be kept, the call still goes through.
//! - A hook never unwinds into its caller: hooks do nothing that can panic.
//! - A hook that cannot be installed is reported as `off: reason` ([`refusal`]). It never makes
//!   nginx fail to start.

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

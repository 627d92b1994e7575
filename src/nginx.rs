//! Safe, thin wrappers over the part of nginx's C interface that this module needs.
//!
//! # Invariants for `unsafe`
//!
//! They hold in this file and in all files of this room.
//!
//! - **N1** nginx calls a module's functions only on the main thread of a process, one at a time.
//! - **N2** nginx sets its global variables (`ngx_cycle`, `ngx_processes`, `ngx_pid`, …) before it
//!   calls a module, and only the main thread changes them.
//! - **N3** What nginx passes to a callback (`ngx_conf_t`, `ngx_cycle_t`, `ngx_http_request_t`,
//!   `ngx_event_t`) is valid during the call. A request lives at least until its cleanup handlers
//!   run.
//! - **N4** Memory from a pool lives as long as the pool, and only a cleanup handler drops anything
//!   in it.
//! - **N5** The functions of nginx and its modules have the types that their headers declare. The C
//!   structures of nginx consist of numbers, pointers and optional functions, so zeroes are valid.

pub mod access;
pub mod arrays;
pub mod conf;
pub mod event;
pub mod global;
pub mod log;
pub mod lua;
mod owner;
pub mod process;
pub mod request;
pub mod shm;
pub mod trace;
pub mod zones;

/// Runs the body of a callback. If the body panics, logs one line and returns `otherwise` to nginx.
pub fn guard<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(_) => {
            log::alert("memstat: internal error, the operation was stopped");
            otherwise
        }
    }
}

//! Thin, safe wrappers over the part of nginx's C interface that this module needs.
//!
//! # Invariants for `unsafe`
//!
//! - **N1** nginx calls a module's functions on the main thread of a process only, one at a time.
//! - **N2** nginx's global variables (`ngx_cycle`, `ngx_processes`, `ngx_pid`, …) are set before it
//!   calls a module, and change on the main thread only.
//! - **N3** What nginx hands to a callback (`ngx_conf_t`, `ngx_cycle_t`, `ngx_http_request_t`,
//!   `ngx_event_t`) is valid for the call; a request lives at least until its cleanup handlers run.
//! - **N4** Memory from a pool lives as long as the pool, and nothing in it is dropped but by a cleanup
//!   handler.

pub mod access;
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

/// Runs the body of a callback. A panic ends here, with a line in the log and `otherwise` for nginx.
pub fn guard<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(_) => {
            log::alert("memstat: internal error, the operation was given up");
            otherwise
        }
    }
}

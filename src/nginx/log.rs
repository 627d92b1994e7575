//! Lines in nginx's error log.
//!
//! Invariants for `unsafe`: those of [`super`].

use nginx_sys::{ngx_cycle, NGX_LOG_ALERT, NGX_LOG_EMERG, NGX_LOG_WARN};
use ngx::ngx_log_error;

fn line(level: u32, message: &str) {
    // SAFETY: `ngx_cycle` points to the current cycle, which has a log (N2).
    let log = unsafe { (*ngx_cycle).log };
    ngx_log_error!(level, log, "{message}");
}

/// Logs an event that should not happen, at level `alert`.
pub fn alert(message: &str) {
    line(NGX_LOG_ALERT, message);
}

/// Logs an error that prevents the start, at level `emerg`.
pub fn emerg(message: &str) {
    line(NGX_LOG_EMERG, message);
}

/// Logs something that an operator should know, at level `warn`.
pub fn warn(message: &str) {
    line(NGX_LOG_WARN, message);
}

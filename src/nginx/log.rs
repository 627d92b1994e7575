//! Lines in nginx's error log.

use nginx_sys::{ngx_cycle, NGX_LOG_ALERT, NGX_LOG_EMERG, NGX_LOG_WARN};
use ngx::ngx_log_error;

fn line(level: u32, message: &str) {
    // SAFETY: N2, `ngx_cycle` points to the current cycle, which has a log.
    let log = unsafe { (*ngx_cycle).log };
    ngx_log_error!(level, log, "{message}");
}

/// Something that should not happen, at level `alert`.
pub fn alert(message: &str) {
    line(NGX_LOG_ALERT, message);
}

/// What stops the start, at level `emerg`.
pub fn emerg(message: &str) {
    line(NGX_LOG_EMERG, message);
}

/// What an operator should know, at level `warn`.
pub fn warn(message: &str) {
    line(NGX_LOG_WARN, message);
}

//! The arguments of a directive, and error messages about them.
//!
//! Invariants for `unsafe`: those of [`super`].

use std::ffi::c_char;

use nginx_sys::{ngx_conf_t, ngx_str_t, NGX_LOG_EMERG};
use ngx::ngx_conf_log_error;

/// What the function of a directive returns.
pub type Outcome = *mut c_char;

/// The directive is accepted.
pub const OK: Outcome = std::ptr::null_mut();

/// The directive is refused, and the log says why (`NGX_CONF_ERROR`).
pub const ERROR: Outcome = usize::MAX as Outcome;

/// The end of nginx's own message `"…" directive is duplicate`. It is static, so nginx may keep it.
pub const DUPLICATE: Outcome = c"is duplicate".as_ptr().cast_mut();

/// The configuration as nginx passes it to the function of a directive.
pub struct Conf(*mut ngx_conf_t);

impl Conf {
    /// Wraps nginx's pointer.
    ///
    /// # Safety
    ///
    /// `cf` is the pointer that nginx passed to a function of this module while it reads the
    /// configuration.
    pub unsafe fn from_raw(cf: *mut ngx_conf_t) -> Self {
        Conf(cf)
    }

    /// Returns nginx's pointer.
    pub fn as_ptr(&self) -> *mut ngx_conf_t {
        self.0
    }

    /// Returns the arguments, without the name of the directive.
    pub fn args(&self) -> Vec<&[u8]> {
        // SAFETY: `args` is an array of strings, and nginx has checked how many there are (N3).
        let words: &[ngx_str_t] = unsafe { (*(*self.0).args).as_slice() };
        words
            .iter()
            .skip(1)
            // SAFETY: the strings lie in the configuration's pool (N4).
            .map(|word| unsafe { std::slice::from_raw_parts(word.data, word.len) })
            .collect()
    }

    /// Returns the file and the line of the directive. nginx keeps the file's name as long as the
    /// cycle.
    pub fn position(&self) -> (ngx_str_t, usize) {
        // SAFETY: null for a directive from `-g`, otherwise the file that nginx reads (N3).
        match unsafe { (*self.0).conf_file.as_ref() } {
            Some(file) => (file.file.name, file.line),
            None => (ngx_str_t::empty(), 0),
        }
    }

    /// Logs an error with the file and the line, and returns [`ERROR`].
    pub fn error(&self, message: &str) -> Outcome {
        ngx_conf_log_error!(NGX_LOG_EMERG, self.0, "{message}");
        ERROR
    }
}

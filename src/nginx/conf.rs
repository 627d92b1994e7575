//! What a directive says, and clear errors about it.

use std::ffi::c_char;

use nginx_sys::{ngx_conf_t, ngx_str_t, NGX_LOG_EMERG};
use ngx::ngx_conf_log_error;

/// What a directive's function returns.
pub type Outcome = *mut c_char;

/// The directive is fine.
pub const OK: Outcome = std::ptr::null_mut();

/// The directive is wrong, and the log says why (`NGX_CONF_ERROR`).
pub const ERROR: Outcome = usize::MAX as Outcome;

/// A `&'static CStr` that nginx may keep, for its own message `"…" directive is duplicate`.
pub const DUPLICATE: Outcome = c"is duplicate".as_ptr().cast_mut();

/// The configuration as nginx hands it to a directive's function.
pub struct Conf(*mut ngx_conf_t);

impl Conf {
    /// # Safety
    ///
    /// `cf` is what nginx handed to a function of this module while it reads the configuration.
    pub unsafe fn from_raw(cf: *mut ngx_conf_t) -> Self {
        Conf(cf)
    }

    /// nginx's pointer.
    pub fn as_ptr(&self) -> *mut ngx_conf_t {
        self.0
    }

    /// The arguments, without the directive's name.
    pub fn args(&self) -> Vec<&[u8]> {
        // SAFETY: N3: `args` is an array of strings, of which nginx has checked the number.
        let words: &[ngx_str_t] = unsafe { (*(*self.0).args).as_slice() };
        words
            .iter()
            .skip(1)
            // SAFETY: N4: the strings lie in the configuration's pool.
            .map(|word| unsafe { std::slice::from_raw_parts(word.data, word.len) })
            .collect()
    }

    /// File and line of the directive; nginx keeps the name as long as the cycle.
    pub fn position(&self) -> (ngx_str_t, usize) {
        // SAFETY: N3: while a directive is read there is a file it comes from, but for `-g`.
        match unsafe { (*self.0).conf_file.as_ref() } {
            Some(file) => (file.file.name, file.line),
            None => (ngx_str_t::empty(), 0),
        }
    }

    /// Says what is wrong, with file and line.
    pub fn error(&self, message: &str) -> Outcome {
        ngx_conf_log_error!(NGX_LOG_EMERG, self.0, "{message}");
        ERROR
    }
}

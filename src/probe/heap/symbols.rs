//! Functions of the allocator in place, looked up at run time.
//!
//! Invariants:
//! 1. An [`Object`] defines the `malloc` in force, so it stays loaded as long as the process.
//! 2. A function's type is the documented one of the symbol's name in the object that defines it;
//!    each caller of [`Object::function`] says which.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void, CStr};

use crate::sys::symbol as loader;

/// The executable or library that defines an allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    /// The address it is loaded at.
    pub base: usize,
}

impl Object {
    /// The object whose `malloc` is in force.
    pub fn of_malloc() -> Option<Object> {
        let address = symbol(c"malloc")?;
        Some(Object { base: base_of(address)? })
    }

    /// The address of a symbol, if it is this object that defines it.
    pub fn address(self, name: &CStr) -> Option<*mut c_void> {
        symbol(name).filter(|address| base_of(*address) == Some(self.base))
    }

    /// A function of this object.
    ///
    /// # Safety
    ///
    /// `F` must be the type of the function (an `extern "C" fn`).
    pub unsafe fn function<F: Copy>(self, name: &CStr) -> Option<F> {
        let address = self.address(name)?;
        if size_of::<F>() != size_of::<*mut c_void>() {
            return None;
        }
        // SAFETY: the same size, and by the caller's promise a pointer to such a function (2), not
        // null.
        Some(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }
}

/// The address of a symbol in the order of the loader.
pub fn symbol(name: &CStr) -> Option<*mut c_void> {
    loader::address(name).map(|address| address as *mut c_void)
}

fn base_of(address: *mut c_void) -> Option<usize> {
    loader::base(address as usize)
}

/// A string of the allocator's, such as its version.
///
/// # Safety
///
/// `text` must be null or a terminated string that lasts during the call.
pub unsafe fn text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and by the caller's promise terminated.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

//! Looks up functions of the allocator in use at run time.
//!
//! Invariants of the unsafe code:
//!
//! 1. An [`AllocatorObject`] defines the `malloc` in use, so it stays loaded as long as the process
//!    lives.
//! 2. A function has the type that is documented for its name in the object that defines it; each
//!    caller of [`AllocatorObject::function`] names the source.
//! 3. A string passed to [`text`] is null, or ends in NUL and lives during the call.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void, CStr};

use crate::sys::symbol as loader;

/// The executable or library that defines an allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocatorObject {
    /// The address at which it is loaded.
    pub base: usize,
}

impl AllocatorObject {
    /// Returns the object whose `malloc` is in use.
    pub fn of_malloc() -> Option<AllocatorObject> {
        let address = symbol(c"malloc")?;
        Some(AllocatorObject { base: base_of(address)? })
    }

    /// Returns the address of a symbol if this object defines it.
    pub fn address(self, name: &CStr) -> Option<*mut c_void> {
        symbol(name).filter(|address| base_of(*address) == Some(self.base))
    }

    /// Returns a function of this object.
    ///
    /// # Safety
    ///
    /// `F` must be the type of the function (an `extern "C" fn`).
    pub unsafe fn function<F: Copy>(self, name: &CStr) -> Option<F> {
        let address = self.address(name)?;
        if size_of::<F>() != size_of::<*mut c_void>() {
            return None;
        }
        // SAFETY: the sizes are equal, and the pointer is not null and points to a function of this
        // type, as the caller guarantees (2).
        Some(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }
}

/// Returns the address of a symbol, searched in the loader's order.
pub fn symbol(name: &CStr) -> Option<*mut c_void> {
    loader::address(name).map(|address| address as *mut c_void)
}

fn base_of(address: *mut c_void) -> Option<usize> {
    loader::base(address as usize)
}

/// Copies a string of the allocator, such as its version.
///
/// # Safety
///
/// `text` must be null, or a NUL-terminated string that lives during the call.
pub unsafe fn text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the string is not null, so it ends in NUL (3).
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

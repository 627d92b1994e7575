//! Looks up functions by name and by address through the loader.
//!
//! Invariants of the unsafe code:
//!
//! 1. `dlsym` and `dladdr` read the loader's own tables; any address may be passed.
//! 2. If `dladdr` returns non-zero, it has filled its result; the strings live as long as the
//!    object that they belong to.

use std::ffi::{c_void, CStr};
use std::mem::MaybeUninit;

/// Returns the address of an exported function, searched in the loader's order.
pub fn address(name: &CStr) -> Option<usize> {
    // SAFETY: the name ends in NUL, and `dlsym` reads the loader's tables only (1).
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found as usize)
}

/// An exported function that contains an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// The address at which it starts.
    pub address: usize,
    /// Its name.
    pub name: &'a CStr,
}

/// Passes the exported function that contains an address to `use_it`.
///
/// The loader trusts the sizes of symbols: an address behind the end of a function belongs to no
/// function.
pub fn with<T>(address: usize, use_it: impl FnOnce(Symbol) -> T) -> Option<T> {
    let info = look_up(address)?;
    if info.dli_sname.is_null() || info.dli_saddr.is_null() {
        return None;
    }
    // SAFETY: the code at the address, and so its object with the string, stays during the call
    // (2).
    let name = unsafe { CStr::from_ptr(info.dli_sname) };
    Some(use_it(Symbol { address: info.dli_saddr as usize, name }))
}

/// Returns the load address of the object that contains an address.
pub fn base(address: usize) -> Option<usize> {
    look_up(address).map(|info| info.dli_fbase as usize).filter(|base| *base != 0)
}

/// Returns the path of the object that contains an address, as the loader knows it.
pub fn file(address: usize) -> Option<Vec<u8>> {
    let info = look_up(address).filter(|info| !info.dli_fname.is_null())?;
    // SAFETY: the code at the address, and so its object with the string, stays during the call
    // (2).
    Some(unsafe { CStr::from_ptr(info.dli_fname) }.to_bytes().to_vec())
}

fn look_up(address: usize) -> Option<libc::Dl_info> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: any address may be passed, and the result has room for one entry (1).
    let found = unsafe { libc::dladdr(address as *const c_void, info.as_mut_ptr()) } != 0;
    // SAFETY: `dladdr` has filled the result, and all zeroes are a valid value as well (2).
    found.then(|| unsafe { info.assume_init() })
}

/// Returns the length of the exported function at an address in bytes, or 0 if none starts there.
pub fn length(start: usize) -> usize {
    /// No function is longer than this.
    const LIMIT: usize = 1 << 20;
    let is_in =
        |offset: usize| with(start.saturating_add(offset), |symbol| symbol.address) == Some(start);
    // Offsets inside the function come first, so this searches for the first offset outside.
    let (mut low, mut high) = (0, LIMIT);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_in(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions() {
        let found = address(c"getpid").unwrap();
        let (name, start) = with(found + 1, |s| (s.name.to_owned(), s.address)).unwrap();
        assert!(name.to_bytes().ends_with(b"getpid"), "{name:?}");
        assert_eq!(start, found);
        let length = length(found);
        assert!((3..200).contains(&length), "{length}");
        assert_ne!(with(found + length, |s| s.address), Some(found));
        assert_eq!(address(c"no_such_function"), None);
        assert_eq!(with(0, |_| ()), None);
        assert_eq!(super::length(8), 0);
    }
}

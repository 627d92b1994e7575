//! Functions by name and by address, as the loader knows them.
//!
//! What the unsafe code below relies on:
//!
//! 1. `dlsym` and `dladdr` read the loader's own tables; any address may be asked for.
//! 2. `dladdr` fills its result in when it returns non-zero, with strings that last as long as the
//!    object they belong to.

use std::ffi::{c_void, CStr};
use std::mem::MaybeUninit;

/// The address of an exported function, in the order of the loader.
pub fn address(name: &CStr) -> Option<usize> {
    // SAFETY: 1.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found as usize)
}

/// An exported function that an address is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Where it starts.
    pub address: usize,
    /// Its name.
    pub name: &'a CStr,
}

/// Hands the exported function that an address is in to `use_it`. The loader believes the sizes of
/// symbols: an address behind the end of a function is in none.
pub fn with<T>(address: usize, use_it: impl FnOnce(Symbol) -> T) -> Option<T> {
    let info = look_up(address)?;
    if info.dli_sname.is_null() || info.dli_saddr.is_null() {
        return None;
    }
    // SAFETY: 2; the code at the address, and so its object, stays during the call.
    let name = unsafe { CStr::from_ptr(info.dli_sname) };
    Some(use_it(Symbol { address: info.dli_saddr as usize, name }))
}

/// Where the object is loaded that an address is in.
pub fn base(address: usize) -> Option<usize> {
    look_up(address).map(|info| info.dli_fbase as usize).filter(|base| *base != 0)
}

/// The path of the object that an address is in, as the loader has it.
pub fn file(address: usize) -> Option<Vec<u8>> {
    let info = look_up(address).filter(|info| !info.dli_fname.is_null())?;
    // SAFETY: 2; the code at the address, and so its object, stays during the call.
    Some(unsafe { CStr::from_ptr(info.dli_fname) }.to_bytes().to_vec())
}

fn look_up(address: usize) -> Option<libc::Dl_info> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: 1.
    let found = unsafe { libc::dladdr(address as *const c_void, info.as_mut_ptr()) } != 0;
    // SAFETY: 2; all zero is one too.
    found.then(|| unsafe { info.assume_init() })
}

/// How long the exported function at an address is; 0 when none is there.
pub fn length(start: usize) -> usize {
    /// No function is longer.
    const LIMIT: usize = 1 << 20;
    let is_in =
        |offset: usize| with(start.saturating_add(offset), |symbol| symbol.address) == Some(start);
    // What is in the function comes first: a search for the first offset that is not.
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

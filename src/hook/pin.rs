//! Keeps this module loaded in the process.
//!
//! nginx unloads a module together with the configuration that loaded it. Patched code would then
//! jump to unmapped memory, so the module asks the loader to keep it for good before anything is
//! patched.
//!
//! What the unsafe code below relies on:
//!
//! 1. `dladdr` accepts any address, and fills in its result when it returns non-zero.
//! 2. The path that `dladdr` returns is the path of a loaded object, and stays valid as long as the
//!    object is loaded. With `RTLD_NOLOAD`, `dlopen` finds the object by that path; it loads and
//!    runs nothing.
//! 3. On both supported architectures, an `int` is returned in a register, which a caller that
//!    expects no result ignores.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

use super::refusal::Refusal;
use crate::sys::elf::objects;

/// Keeps the object that contains `address` loaded as long as this process and its forked children
/// live. The executable is never unloaded.
pub fn pin(address: *const c_void) -> Result<(), Refusal> {
    if in_executable(address) {
        return Ok(());
    }
    let handle = open(address, libc::RTLD_NODELETE)?;
    // SAFETY: `open` returned the handle, and the object stays loaded because of `RTLD_NODELETE`
    // (2).
    unsafe { libc::dlclose(handle) };
    Ok(())
}

/// A reference that keeps an object loaded until it is released.
#[derive(Debug)]
pub struct ObjectReference(*mut c_void);

impl ObjectReference {
    /// Creates a reference to the object that contains `address`.
    pub fn of(address: *const c_void) -> Result<ObjectReference, Refusal> {
        open(address, 0).map(ObjectReference)
    }

    /// Returns a function of the C library that releases the reference, and the argument for it.
    /// Call it exactly once.
    pub fn into_parts(self) -> (unsafe extern "C" fn(*mut c_void), *mut c_void) {
        // SAFETY: the caller ignores the result (3).
        let release = unsafe {
            std::mem::transmute::<
                unsafe extern "C" fn(*mut c_void) -> c_int,
                unsafe extern "C" fn(*mut c_void),
            >(libc::dlclose)
        };
        (release, self.0)
    }
}

fn in_executable(address: *const c_void) -> bool {
    objects().first().is_some_and(|executable| executable.contains(address as usize))
}

/// Returns a handle of the loaded object that contains `address`.
fn open(address: *const c_void, flags: c_int) -> Result<*mut c_void, Refusal> {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: any address will do, and `info` has room for the result (1).
    if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
        return Err(Refusal::Pin);
    }
    // SAFETY: `dladdr` returned non-zero, so it filled in `info` (1).
    let path = unsafe { info.assume_init() }.dli_fname;
    if path.is_null() {
        return Err(Refusal::Pin);
    }
    // SAFETY: the path is that of a loaded object, and nothing is loaded (2).
    let handle = unsafe { libc::dlopen(path, libc::RTLD_NOW | libc::RTLD_NOLOAD | flags) };
    if handle.is_null() {
        return Err(Refusal::Pin);
    }
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::elf::LoadedObject;
    use crate::sys::testing::{isolated, Library};

    fn is_loaded(name: &str) -> bool {
        objects().iter().any(|object: &LoadedObject| object.name == name)
    }

    #[test]
    fn a_pinned_library_stays() {
        isolated("hook::pin::tests::a_pinned_library_stays", || {
            for pinned in [false, true] {
                let library = Library::build("pinned.so", "int answer(void) { return 42; }", &[]);
                assert!(is_loaded("pinned.so"));
                if pinned {
                    assert_eq!(pin(library.symbol(c"answer")), Ok(()));
                    assert_eq!(pin(library.symbol(c"answer")), Ok(()));
                }
                library.close();
                assert_eq!(is_loaded("pinned.so"), pinned);
            }
        });
    }

    #[test]
    fn a_reference_keeps_a_library_until_it_is_released() {
        isolated("hook::pin::tests::a_reference_keeps_a_library_until_it_is_released", || {
            let library = Library::build("kept.so", "int answer(void) { return 42; }", &[]);
            let reference = ObjectReference::of(library.symbol(c"answer")).unwrap();
            library.close();
            assert!(is_loaded("kept.so"));
            let (release, handle) = reference.into_parts();
            // SAFETY: this is the only call, with the handle it belongs to (3).
            unsafe { release(handle) };
            assert!(!is_loaded("kept.so"));
        });
    }

    #[test]
    fn other_addresses() {
        assert_eq!(pin(pin as *const c_void), Ok(()));
        assert_eq!(pin(std::ptr::null()), Err(Refusal::Pin));
        let local = 0;
        assert_eq!(pin((&raw const local).cast()), Err(Refusal::Pin));
    }
}

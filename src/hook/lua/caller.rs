//! Finds the subsystem that creates a VM, by the return address of its call to `luaL_newstate`.
//!
//! For a dynamic module the name of its file is decisive. For an executable with linked-in modules,
//! the names of its functions are. A static function has no name; it lies behind a named function
//! of the same source file or of a neighbouring one.
//!
//! Invariants for `unsafe`:
//!
//! 1. The object belongs to a caller that is running or about to run.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::report::model::lua::Subsystem;
use crate::sys::elf::objects;
use crate::sys::exports::around;

/// The answers for the addresses of earlier calls.
static KNOWN: [KnownCaller; 16] = [const { KnownCaller::new() }; 16];

struct KnownCaller {
    address: AtomicUsize,
    /// The subsystem's index in [`Subsystem::ALL`], plus one; 0: not written yet.
    answer: AtomicUsize,
}

impl KnownCaller {
    const fn new() -> Self {
        KnownCaller { address: AtomicUsize::new(0), answer: AtomicUsize::new(0) }
    }
}

/// Returns the subsystem whose code contains an address.
pub fn subsystem(address: usize) -> Subsystem {
    for known in &KNOWN {
        match known.address.load(Ordering::Acquire) {
            0 => {
                let answer = ask(address);
                let free =
                    known.address.compare_exchange(0, address, Ordering::AcqRel, Ordering::Relaxed);
                if free.is_ok() {
                    let place = Subsystem::ALL.iter().position(|s| *s == answer).unwrap_or(2);
                    known.answer.store(place + 1, Ordering::Release);
                }
                return answer;
            }
            found if found == address => {
                let place = known.answer.load(Ordering::Acquire).wrapping_sub(1);
                return Subsystem::ALL.get(place).copied().unwrap_or_else(|| ask(address));
            }
            _ => {}
        }
    }
    ask(address)
}

/// Forgets the answers, because other objects may be at the addresses now.
pub fn forget() {
    for known in &KNOWN {
        known.answer.store(0, Ordering::Release);
        known.address.store(0, Ordering::Release);
    }
}

fn ask(address: usize) -> Subsystem {
    let objects = objects();
    let Some(object) = objects.iter().find(|object| object.contains(address)) else {
        return Subsystem::Other;
    };
    let by_object = by_name(&object.name);
    // SAFETY: the object belongs to a caller that is running or about to run (1).
    let by_function =
        || unsafe { around(object, address, address) }.below.as_deref().and_then(by_name);
    by_object.or_else(by_function).unwrap_or(Subsystem::Other)
}

fn by_name(name: &str) -> Option<Subsystem> {
    if name.starts_with("ngx_http_lua_") {
        Some(Subsystem::Http)
    } else if name.starts_with("ngx_stream_lua_") {
        Some(Subsystem::Stream)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;
    use crate::sys::testing::{isolated, Library};

    #[test]
    fn names() {
        assert_eq!(by_name("ngx_http_lua_module.so"), Some(Subsystem::Http));
        assert_eq!(by_name("ngx_stream_lua_module.so"), Some(Subsystem::Stream));
        assert_eq!(by_name("nginx"), None);
        assert_eq!(by_name(""), None);
    }

    #[test]
    fn by_functions_of_an_executable() {
        isolated("hook::lua::caller::tests::by_functions_of_an_executable", || {
            let library = Library::build(
                "linked.so",
                "int ngx_other(int n) { return n; }
                 int ngx_stream_lua_first(volatile int *n) { return *n * 3 / (*n + 7) + *n * 5 / *n; }
                 static __attribute__((noinline)) int hidden(volatile int *n) { return *n += 2; }
                 void *where(void) { return hidden; }",
                &["-O1", "-fno-toplevel-reorder"],
            );
            let at = |name: &CStr| library.symbol(name) as usize;
            assert_eq!(subsystem(at(c"ngx_other")), Subsystem::Other);
            assert_eq!(subsystem(at(c"ngx_stream_lua_first")), Subsystem::Stream);
            // SAFETY: the function has this type, and its library is loaded (1).
            let hidden = unsafe {
                std::mem::transmute::<*const std::ffi::c_void, extern "C" fn() -> usize>(
                    library.symbol(c"where"),
                )
            }();
            for _ in 0..2 {
                assert_eq!(subsystem(hidden), Subsystem::Stream);
            }
            assert_eq!(subsystem(8), Subsystem::Other);
            forget();
            assert_eq!(subsystem(hidden), Subsystem::Stream);
        });
    }
}

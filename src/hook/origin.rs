//! Where in the code a call came from.
//!
//! What the unsafe code below relies on:
//!
//! 1. `_Unwind_Backtrace` calls back on this thread, before it returns, with the pointer it was
//!    given, for each frame up to where it cannot go on. It reads the stack by the tables that the
//!    objects have for that, and allocates nothing.

use std::ffi::{c_int, c_void};

use crate::sys::symbol;
use crate::tally::pools::Origin;

/// Calls up the stack that are looked at.
const CALLS: u8 = 32;

/// What a callback of `_Unwind_Backtrace` returns.
const CONTINUE: c_int = 0;
const STOP: c_int = 5;

type Trace = unsafe extern "C" fn(context: *mut c_void, argument: *mut c_void) -> c_int;

extern "C" {
    fn _Unwind_Backtrace(trace: Trace, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

/// Where the call is that returns to an address, on the stack of this thread: the exported function
/// it is in, or else the nearest one up the stack that is in the same object.
pub fn of(return_address: usize) -> Origin {
    // The address behind a call may belong to the next function already.
    let call = return_address.wrapping_sub(1);
    if let Some(function) = symbol::with(call, |symbol| symbol.address) {
        return Origin { function, calls: 0 };
    }
    let mut search = Search { return_address, base: symbol::base(call), found: None, calls: None };
    // SAFETY: 1; `step` takes the pointer for what it is.
    unsafe { _Unwind_Backtrace(step, (&raw mut search).cast()) };
    match (search.found, search.calls) {
        (Some(function), Some(calls)) => Origin { function, calls },
        _ => Origin::default(),
    }
}

struct Search {
    return_address: usize,
    /// The object.
    base: Option<usize>,
    found: Option<usize>,
    /// Calls from the frame that is looked at down to that of the creator; `None` below that.
    calls: Option<u8>,
}

unsafe extern "C" fn step(context: *mut c_void, search: *mut c_void) -> c_int {
    // SAFETY: 1: the search of `of`, which nothing else uses now.
    let search = unsafe { &mut *search.cast::<Search>() };
    // SAFETY: 1.
    let address = unsafe { _Unwind_GetIP(context) };
    search.calls = match search.calls {
        None if address != search.return_address => return CONTINUE,
        None => Some(0),
        Some(calls) => calls.checked_add(1),
    };
    let call = address.wrapping_sub(1);
    if search.calls.is_none_or(|calls| calls > CALLS) || symbol::base(call) != search.base {
        return STOP;
    }
    search.found = symbol::with(call, |symbol| symbol.address);
    if search.found.is_some() {
        STOP
    } else {
        CONTINUE
    }
}

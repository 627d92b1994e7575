//! Finds the function that a call came from.
//!
//! What the unsafe code below relies on:
//!
//! 1. `_Unwind_Backtrace` calls its callback on this thread before it returns, with the pointer it
//!    was given, once for each frame, until it cannot unwind any further. It finds the frames by
//!    the objects' unwind tables, and allocates nothing.

use std::ffi::{c_int, c_void};

use crate::sys::symbol;
use crate::tally::pools::Origin;

/// The highest number of calls up the stack to search.
const CALLS: u8 = 32;

/// The return values of a callback of `_Unwind_Backtrace`.
const CONTINUE: c_int = 0;
const STOP: c_int = 5;

type Trace = unsafe extern "C" fn(context: *mut c_void, argument: *mut c_void) -> c_int;

extern "C" {
    fn _Unwind_Backtrace(trace: Trace, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

/// Returns the origin of the call on this thread's stack that returns to `return_address`: the
/// exported function that contains the call, or else the nearest exported function up the stack in
/// the same object.
pub fn of(return_address: usize) -> Origin {
    // The return address may already belong to the next function.
    let call = return_address.wrapping_sub(1);
    if let Some(function) = symbol::with(call, |symbol| symbol.address) {
        return Origin { function, calls: 0 };
    }
    let mut search = Search { return_address, base: symbol::base(call), found: None, calls: None };
    // SAFETY: `step` expects a pointer to a `Search`, and `search` outlives the call (1).
    unsafe { _Unwind_Backtrace(step, (&raw mut search).cast()) };
    match (search.found, search.calls) {
        (Some(function), Some(calls)) => Origin { function, calls },
        _ => Origin::default(),
    }
}

struct Search {
    return_address: usize,
    /// The base address of the object that contains the call.
    base: Option<usize>,
    found: Option<usize>,
    /// The number of calls between the current frame and the creator's frame; `None` below the
    /// creator's frame.
    calls: Option<u8>,
}

unsafe extern "C" fn step(context: *mut c_void, search: *mut c_void) -> c_int {
    // SAFETY: the pointer is that of `search` in `of`, which nothing else uses during the call (1).
    let search = unsafe { &mut *search.cast::<Search>() };
    // SAFETY: the context is the one that the unwinder passed to this call (1).
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

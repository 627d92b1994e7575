//! Preserves errno across our own bookkeeping.
//!
//! Invariant for `unsafe`: **E1** the address of errno is valid for as long as its thread lives.

/// Runs `f`, and restores errno afterwards, so that the program does not see what `f` did to it.
pub fn keep_errno<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: the call has no preconditions and returns a valid address (E1).
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address of this thread's errno is valid (E1).
    let kept = unsafe { errno.read() };
    let result = f();
    // SAFETY: the address of this thread's errno is valid (E1).
    unsafe { errno.write(kept) };
    result
}

/// Sets errno, for a hook that replaces a function which sets it.
pub fn set_errno(errno: libc::c_int) {
    // SAFETY: the call has no preconditions and returns a valid address (E1).
    unsafe { libc::__errno_location().write(errno) };
}

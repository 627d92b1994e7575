//! Doing something beside what the program does.
//!
//! Invariant for `unsafe`: **E1** the address of errno is good for as long as its thread is.

/// Does something that the program must not see the errno of.
pub fn keep_errno<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: E1; the call has no preconditions.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: E1.
    let kept = unsafe { errno.read() };
    let result = f();
    // SAFETY: E1.
    unsafe { errno.write(kept) };
    result
}

/// Sets errno, for a hook that stands in for a function that would.
pub fn set_errno(errno: libc::c_int) {
    // SAFETY: E1; the call has no preconditions.
    unsafe { libc::__errno_location().write(errno) };
}

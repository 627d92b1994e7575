//! Values of a process that only its main thread uses.
//!
//! Invariants for `unsafe`: those of [`super`].

use std::cell::RefCell;

/// A value that only the main thread touches.
pub struct MainThread<T>(RefCell<T>);

// SAFETY: code that can name such a value runs on the main thread: other modules' threads cannot
// reach it, and this module's hooks that run on other threads do not use it (N1).
unsafe impl<T> Sync for MainThread<T> {}

impl<T> MainThread<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        MainThread(RefCell::new(value))
    }

    /// Calls `body` with the value. Returns `None` if a caller further up the stack is using the
    /// value.
    pub fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        Some(body(&mut *self.0.try_borrow_mut().ok()?))
    }
}

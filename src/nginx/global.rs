//! State of a process, used on its main thread.

use std::cell::RefCell;

/// A value that only the main thread touches.
pub struct MainThread<T>(RefCell<T>);

// SAFETY: N1, whoever can name such a value runs on the main thread. Threads of other modules have
// no way to it, and this module gives its own hooks on threads none.
unsafe impl<T> Sync for MainThread<T> {}

impl<T> MainThread<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        MainThread(RefCell::new(value))
    }

    /// Uses the value; `None` when it is in use already, further up the stack.
    pub fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        Some(body(&mut *self.0.try_borrow_mut().ok()?))
    }
}

//! The stacks of this process's live threads that were created through the hook.
//!
//! A forked child has only the thread that forked, and another thread of the parent may have held
//! the lock at that moment. So each process creates a registry of its own when it first needs one,
//! and leaves the registry inherited from its parent untouched.
//!
//! What the unsafe code below relies on:
//!
//! 1. `CURRENT` is null or points to a registry that is initialised, shared and never freed.
//! 2. A block of memory that this code allocated and has not yet stored in `CURRENT` is used by
//!    nobody else.

use std::alloc::Layout;
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The stacks of hooked threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThreadStacks {
    /// The stack of each live hooked thread, without its guard. The main thread is not included.
    pub seen: Vec<Range<usize>>,
    /// The number of threads that could not be recorded, ever, in this process and the processes
    /// that it was forked from.
    pub unseen: u64,
}

/// The threads of one process.
struct Registry {
    pid: u32,
    /// Each thread's id (`pthread_self`) and its stack.
    live: Mutex<Vec<(usize, Range<usize>)>>,
}

static CURRENT: AtomicPtr<Registry> = AtomicPtr::new(std::ptr::null_mut());
static UNSEEN: AtomicU64 = AtomicU64::new(0);

impl Registry {
    /// Returns the registry of this process, if one was created.
    fn current() -> Option<&'static Registry> {
        // SAFETY: the pointer is null or leads to a registry that is never freed (1).
        let found = unsafe { CURRENT.load(Ordering::Acquire).as_ref() }?;
        (found.pid == std::process::id()).then_some(found)
    }

    /// Returns the registry of this process, and creates it if necessary. Returns `None` if there
    /// is no memory for it.
    fn make() -> Option<&'static Registry> {
        let found = CURRENT.load(Ordering::Acquire);
        if let Some(registry) = Self::current() {
            return Some(registry);
        }
        let layout = Layout::new::<Registry>();
        // SAFETY: the size of the type is not 0, and the block is ours (2).
        let fresh = unsafe { std::alloc::alloc(layout) }.cast::<Registry>();
        if fresh.is_null() {
            return None;
        }
        // SAFETY: the block was allocated above for this type (2).
        unsafe { fresh.write(Registry { pid: std::process::id(), live: Mutex::default() }) };
        if CURRENT.compare_exchange(found, fresh, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // Another thread of this process was faster.
            // SAFETY: nobody else has seen the block, and its empty vector owns no memory (2).
            unsafe { std::alloc::dealloc(fresh.cast(), layout) };
        }
        Self::current()
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<(usize, Range<usize>)>) -> T) -> T {
        f(&mut self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Records a thread. If that fails, counts it as unseen.
pub fn add(thread: usize, stack: Range<usize>) {
    let added = Registry::make().is_some_and(|registry| {
        registry.with(|live| {
            // A thread that ended by a bare system call has left its entry behind.
            live.retain(|(other, _)| *other != thread);
            let room = live.try_reserve(1).is_ok();
            if room {
                live.push((thread, stack));
            }
            room
        })
    });
    if !added {
        miss();
    }
}

/// Removes a thread, if it is recorded.
pub fn remove(thread: usize) {
    if let Some(registry) = Registry::current() {
        registry.with(|live| live.retain(|(other, _)| *other != thread));
    }
}

/// Counts a thread that could not be recorded.
pub fn miss() {
    UNSEEN.fetch_add(1, Ordering::Relaxed);
}

/// Returns the stacks of the live threads of this process.
pub fn read() -> ThreadStacks {
    let seen = Registry::current().map_or_else(Vec::new, |registry| {
        registry.with(|live| live.iter().map(|(_, stack)| stack.clone()).collect())
    });
    ThreadStacks { seen, unseen: UNSEEN.load(Ordering::Relaxed) }
}

/// Holds the lock of this process's registry, as another thread might during a fork.
#[cfg(test)]
pub fn lock_for_test() -> impl Sized {
    Registry::current().map(|registry| registry.live.lock())
}

//! The hook on `pthread_create`: records where the stacks of threads are.
//!
//! It covers the calls that loaded objects make through their global offset tables. It does not see
//! threads that the C library creates for itself, `thrd_create`, calls through a pointer from
//! `dlsym`, and objects that were loaded after the last [`install`]. The kernel's thread count
//! shows how many threads were missed.
//!
//! What the unsafe code below relies on:
//!
//! 1. The wrapper has the type of `pthread_create`, and is called with valid arguments.
//! 2. `REAL` is null or holds the function that the slots held before. It is set before the first
//!    slot changes.
//! 3. A record is allocated by `malloc`. It belongs to its thread once the thread was created, and
//!    to the creator if creation failed.
//! 4. No code here can unwind: there is no indexing, no arithmetic that can overflow and no
//!    `unwrap`, and vectors grow by `try_reserve`. The one exception is the thread's own routine:
//!    `pthread_exit` and cancellation unwind it through `run`, which is `C-unwind` and has nothing
//!    to drop by then.
//! 5. The calls of libc below have no preconditions but valid pointers.

use std::ffi::{c_int, c_void, CStr};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::{pthread_attr_t, pthread_key_t, pthread_t};
use procfs::process::{MMapPath, MemoryMap};

use super::errno::keep_errno;
use super::got;
use super::refusal::Refusal;
use super::stacks::{self, ThreadStacks};
use super::state::Hooked;
use crate::sys::elf::{objects, LoadedObject};

const SYMBOL: &CStr = c"pthread_create";
const PTHREAD_CANCEL_DISABLE: c_int = 1;

type Routine = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;
type CreateThread = unsafe extern "C" fn(
    *mut pthread_t,
    *const pthread_attr_t,
    Option<Routine>,
    *mut c_void,
) -> c_int;

/// The original function, to which the slots led.
static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
/// The thread-specific key whose destructor runs at the end of a thread.
static KEY: OnceLock<pthread_key_t> = OnceLock::new();
static STATE: Mutex<Hooked> = Mutex::new(Hooked::NotInstalled);

extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

/// The routine of a thread, and its argument.
struct ThreadStart {
    routine: Routine,
    argument: *mut c_void,
}

/// Hooks all loaded objects that import `pthread_create`. May be called again after objects were
/// loaded. After an error, some objects may be hooked nevertheless.
///
/// Call it while the process has one thread, with the module pinned (see [`super::pin`]).
pub fn install() -> Result<(), Refusal> {
    let result = hook_all();
    set_state(Hooked::from(&result));
    result
}

/// Removes the hook from all slots that still hold it. Threads that were created through it stay
/// recorded until they end.
///
/// Call it while the process has one thread.
pub fn uninstall() -> Result<(), Refusal> {
    let real = REAL.load(Ordering::Acquire);
    if real.is_null() {
        return Ok(());
    }
    // SAFETY: the list of objects is current, this thread is the only one, and `patch` found `real`
    // (2).
    let restored = unsafe { got::restore(&objects(), SYMBOL, wrapper(), real) };
    restored?.complete()?;
    set_state(Hooked::NotInstalled);
    Ok(())
}

/// Returns whether the hook is in place, as of the last [`install`].
pub fn state() -> Hooked {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Returns the stacks of this process's live threads that were created through the hook.
pub fn stacks() -> ThreadStacks {
    stacks::read()
}

/// Returns the stack of the main thread.
pub fn main_stack(maps: &[MemoryMap]) -> Option<Range<usize>> {
    let stack = maps.iter().find(|map| map.pathname == MMapPath::Stack)?;
    Some(usize::try_from(stack.address.0).ok()?..usize::try_from(stack.address.1).ok()?)
}

fn set_state(state: Hooked) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = state;
}

fn hook_all() -> Result<(), Refusal> {
    if KEY.get().is_none() {
        let mut key = 0;
        // SAFETY: the pointer is valid, and `leave` is never unloaded (5).
        if unsafe { libc::pthread_key_create(&mut key, Some(leave)) } != 0 {
            return Err(Refusal::Key);
        }
        // Nobody else sets it, because there is one thread.
        let _ = KEY.set(key);
    }
    let objects = objects();
    let wanted = objects.iter().enumerate().filter(|(i, o)| *i == 0 || !is_exempt(o));
    // SAFETY: the list of objects is current, and this thread is the only one. The wrapper has the
    // type of `pthread_create` (1), and `REAL` is used for nothing else (2).
    let patched = unsafe { got::patch(wanted.map(|(_, o)| o), SYMBOL, wrapper(), &REAL) };
    patched?.complete()
}

/// Returns whether a library must not be hooked: the C library, the loader, and this module.
fn is_exempt(object: &LoadedObject) -> bool {
    const OF_C: [&str; 5] = ["libc.so", "libc-", "libc.musl-", "libpthread", "ld-"];
    OF_C.iter().any(|start| object.name.starts_with(start)) || object.contains(wrapper() as usize)
}

fn wrapper() -> *const c_void {
    pthread_create as CreateThread as *const c_void
}

/// Replaces `pthread_create`.
unsafe extern "C" fn pthread_create(
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    routine: Option<Routine>,
    argument: *mut c_void,
) -> c_int {
    let real = REAL.load(Ordering::Acquire);
    if real.is_null() {
        // Not reachable (2).
        return libc::EAGAIN;
    }
    // SAFETY: `REAL` holds the original function, which has this type (2).
    let real = unsafe { std::mem::transmute::<*mut c_void, CreateThread>(real) };
    let record =
        routine.map_or(std::ptr::null_mut(), |routine| make(ThreadStart { routine, argument }));
    if record.is_null() {
        stacks::miss();
        // SAFETY: these are the caller's arguments (1).
        return unsafe { real(thread, attributes, routine, argument) };
    }
    // SAFETY: the arguments are the caller's (1), and `run` takes over the record (3).
    let result = unsafe { real(thread, attributes, Some(run), record.cast()) };
    if result != 0 {
        // SAFETY: no thread was created, so the record is still ours (3).
        keep_errno(|| unsafe { libc::free(record.cast()) });
    }
    result
}

/// Allocates memory for a record and fills it in. Returns null if there is no memory.
fn make(record: ThreadStart) -> *mut ThreadStart {
    // SAFETY: the call has no preconditions (5).
    let memory =
        keep_errno(|| unsafe { libc::malloc(size_of::<ThreadStart>()) }).cast::<ThreadStart>();
    if !memory.is_null() {
        // SAFETY: the memory was allocated for this type, and `malloc` aligns for every type of C
        // (3).
        unsafe { memory.write(record) };
    }
    memory
}

/// The start routine of a hooked thread: records the thread, and runs its own routine.
unsafe extern "C-unwind" fn run(record: *mut c_void) -> *mut c_void {
    let record = record.cast::<ThreadStart>();
    // SAFETY: the record is this thread's, and `make` initialised it (3).
    let ThreadStart { routine, argument } = unsafe { record.read() };
    keep_errno(|| {
        // SAFETY: the record is this thread's, was read above, and is not used again (3).
        unsafe { libc::free(record.cast()) };
        enter();
    });
    // SAFETY: `pthread_create` would make the same call (1). Nothing is left to drop here (4).
    unsafe { routine(argument) }
}

/// Records this thread until it ends.
fn enter() {
    let mut cancel = 0;
    // SAFETY: the pointer is valid. A cancelled thread ends at its own first cancellation point,
    // not in this function (5).
    unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut cancel) };
    match (own_stack(), KEY.get()) {
        // SAFETY: the key exists, and any value but null makes its destructor run (5).
        (Some(stack), Some(&key)) if unsafe { libc::pthread_setspecific(key, mark()) } == 0 => {
            stacks::add(own_id(), stack)
        }
        _ => stacks::miss(),
    }
    // SAFETY: the old state is not asked for, so null is valid (5).
    unsafe { pthread_setcancelstate(cancel, std::ptr::null_mut()) };
}

/// Runs at the end of a hooked thread, whatever ends it.
unsafe extern "C" fn leave(_mark: *mut c_void) {
    stacks::remove(own_id());
}

/// Returns a value for the key that is not null.
fn mark() -> *const c_void {
    (&raw const REAL).cast()
}

fn own_id() -> usize {
    // SAFETY: the call has no preconditions (5).
    unsafe { libc::pthread_self() as usize }
}

/// Returns the stack of this thread, without its guard.
fn own_stack() -> Option<Range<usize>> {
    let mut attributes = MaybeUninit::<pthread_attr_t>::uninit();
    // SAFETY: the pointer is valid, and the call initialises the attributes unless it fails (5).
    if unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) } != 0 {
        return None;
    }
    let (mut start, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes were initialised above, and are not used afterwards (5).
    let result = unsafe {
        let result = libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        result
    };
    let start = start as usize;
    (result == 0 && size != 0).then(|| start..start.saturating_add(size))
}

#[cfg(test)]
mod tests;

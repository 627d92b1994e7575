//! The hook on `pthread_create`: where the stacks of threads are.
//!
//! It covers the calls that loaded objects make through their global offset tables. Threads that
//! the C library creates for itself, `thrd_create`, calls through a pointer from `dlsym`, and
//! objects loaded after the last [`install`] are not seen; the kernel's count of threads tells.
//!
//! What the unsafe code below relies on:
//!
//! 1. The wrapper has the type of `pthread_create`, and is called with arguments good for it.
//! 2. `REAL` is null, or what the slots held before. It is set before the first slot changes.
//! 3. A record made by `malloc` belongs to the thread it was made for once that was created, and to
//!    its creator if it was not.
//! 4. No code here can unwind: there is no indexing, no arithmetic that can overflow, no
//!    `unwrap`; vectors grow by `try_reserve`. The one exception is the thread's own routine, which
//!    `pthread_exit` and cancellation unwind through `run`: it is `C-unwind`, and has nothing to
//!    drop by then.
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
type Create = unsafe extern "C" fn(
    *mut pthread_t,
    *const pthread_attr_t,
    Option<Routine>,
    *mut c_void,
) -> c_int;

/// The function behind the slots.
static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
/// Its destructor tells the end of a thread.
static KEY: OnceLock<pthread_key_t> = OnceLock::new();
static STATE: Mutex<Hooked> = Mutex::new(Hooked::NotInstalled);

extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

/// What a thread is to do.
struct Record {
    routine: Routine,
    argument: *mut c_void,
}

/// Hooks all loaded objects that import `pthread_create`. May be called again, after objects were
/// loaded. With an error some objects may be hooked nevertheless.
///
/// Call it while the process has one thread, with the module pinned (see [`super::pin`]).
pub fn install() -> Result<(), Refusal> {
    let result = hook_all();
    set_state(Hooked::from(&result));
    result
}

/// Takes the hook out of all slots that still hold it. Threads that were hooked stay so.
///
/// Call it while the process has one thread.
pub fn uninstall() -> Result<(), Refusal> {
    let real = REAL.load(Ordering::Acquire);
    if real.is_null() {
        return Ok(());
    }
    // SAFETY: the objects are from now, and this thread is the only one; `patch` found `real`.
    let restored = unsafe { got::restore(&objects(), SYMBOL, wrapper(), real) };
    restored?.complete()?;
    set_state(Hooked::NotInstalled);
    Ok(())
}

/// Whether the hook is in place, after the last [`install`].
pub fn state() -> Hooked {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The stacks of the live threads of this process that were created through the hook.
pub fn stacks() -> ThreadStacks {
    stacks::read()
}

/// The stack of the main thread.
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
        // SAFETY: 5; `leave` is never unloaded.
        if unsafe { libc::pthread_key_create(&mut key, Some(leave)) } != 0 {
            return Err(Refusal::Key);
        }
        // Nobody else sets it: there is one thread.
        let _ = KEY.set(key);
    }
    let objects = objects();
    let wanted = objects.iter().enumerate().filter(|(i, o)| *i == 0 || !is_exempt(o));
    // SAFETY: the objects are from now, and this thread is the only one; the wrapper has the type
    // of `pthread_create`, and `REAL` is for nothing else.
    let patched = unsafe { got::patch(wanted.map(|(_, o)| o), SYMBOL, wrapper(), &REAL) };
    patched?.complete()
}

/// Whether a library is not to be hooked: the C library, the loader, this module.
fn is_exempt(object: &LoadedObject) -> bool {
    const OF_C: [&str; 5] = ["libc.so", "libc-", "libc.musl-", "libpthread", "ld-"];
    OF_C.iter().any(|start| object.name.starts_with(start)) || object.contains(wrapper() as usize)
}

fn wrapper() -> *const c_void {
    pthread_create as Create as *const c_void
}

/// Stands in for `pthread_create`.
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
    // SAFETY: 2.
    let real = unsafe { std::mem::transmute::<*mut c_void, Create>(real) };
    let record = routine.map_or(std::ptr::null_mut(), |routine| make(Record { routine, argument }));
    if record.is_null() {
        stacks::miss();
        // SAFETY: 1.
        return unsafe { real(thread, attributes, routine, argument) };
    }
    // SAFETY: 1; `run` takes the record (3).
    let result = unsafe { real(thread, attributes, Some(run), record.cast()) };
    if result != 0 {
        // SAFETY: no thread was created (3).
        keep_errno(|| unsafe { libc::free(record.cast()) });
    }
    result
}

/// A record in memory of its own; null if there is none.
fn make(record: Record) -> *mut Record {
    // SAFETY: 5.
    let memory = keep_errno(|| unsafe { libc::malloc(size_of::<Record>()) }).cast::<Record>();
    if !memory.is_null() {
        // SAFETY: allocated for this type; `malloc` aligns for every type of C.
        unsafe { memory.write(record) };
    }
    memory
}

/// What a hooked thread does.
unsafe extern "C-unwind" fn run(record: *mut c_void) -> *mut c_void {
    let record = record.cast::<Record>();
    // SAFETY: 3: the record is this thread's, and was initialised by `make`.
    let Record { routine, argument } = unsafe { record.read() };
    keep_errno(|| {
        // SAFETY: 3; read above, and not used again.
        unsafe { libc::free(record.cast()) };
        enter();
    });
    // SAFETY: 1: as `pthread_create` would. Nothing is left to drop here (4).
    unsafe { routine(argument) }
}

/// Records this thread, until it ends.
fn enter() {
    let mut cancel = 0;
    // SAFETY: 5. A cancelled thread ends at its own first cancellation point, not in here.
    unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut cancel) };
    match (own_stack(), KEY.get()) {
        // SAFETY: 5; any value but null makes the destructor run.
        (Some(stack), Some(&key)) if unsafe { libc::pthread_setspecific(key, mark()) } == 0 => {
            stacks::add(own_id(), stack)
        }
        _ => stacks::miss(),
    }
    // SAFETY: 5.
    unsafe { pthread_setcancelstate(cancel, std::ptr::null_mut()) };
}

/// The end of a hooked thread, however it comes.
unsafe extern "C" fn leave(_mark: *mut c_void) {
    stacks::remove(own_id());
}

/// A value for the key.
fn mark() -> *const c_void {
    (&raw const REAL).cast()
}

fn own_id() -> usize {
    // SAFETY: 5.
    unsafe { libc::pthread_self() as usize }
}

/// The stack of this thread, without its guard.
fn own_stack() -> Option<Range<usize>> {
    let mut attributes = MaybeUninit::<pthread_attr_t>::uninit();
    // SAFETY: 5; it initialises the attributes, unless it fails.
    if unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) } != 0 {
        return None;
    }
    let (mut start, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: initialised above, and done with afterwards.
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

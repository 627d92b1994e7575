//! The hook on `sigsuspend`: how the master, which runs no event loop, answers.
//!
//! nginx's master sleeps in `sigsuspend` until a signal comes. The stand-in sleeps in `ppoll` with the
//! same mask, so that a descriptor wakes the master, too. `ppoll` runs signal handlers only when it
//! returns `EINTR`: the stand-in returns to nginx then, and sleeps on otherwise. nginx sees no wake-up
//! but its own. What is done while the master is awake is done in turns, and a signal that came
//! meanwhile is seen to after each.
//!
//! What the unsafe code below relies on:
//!
//! 1. The stand-in has the type of `sigsuspend`, and is called with a mask good for it.
//! 2. `REAL` is null, or what the slots held before. It is set before the first slot changes.
//! 3. The calls of libc below have no preconditions but valid pointers.

use std::ffi::{c_int, c_void, CStr};
use std::os::fd::RawFd;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::{nfds_t, pollfd, sigset_t, timespec};

use super::engine::trial;
use super::errno::set_errno;
use super::got;
use super::refusal::Refusal;
use super::state::Hooked;
use crate::sys::elf::objects;

const SYMBOL: &CStr = c"sigsuspend";

type Suspend = unsafe extern "C" fn(*const sigset_t) -> c_int;

/// What the stand-in tells the one who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// nginx wants to sleep.
    Sleeps,
    /// The descriptor is readable.
    Woken,
    /// No signal came during the last turn.
    Quiet,
    /// A signal came: the stand-in returns to nginx, whatever is decided.
    Interrupted,
    /// The kernel refuses to wait for a descriptor.
    Refused,
}

/// What the stand-in does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Sleeps until a signal comes or this descriptor is readable.
    Sleep(RawFd),
    /// Sees to signals, and calls again.
    GoOn,
    /// Returns to nginx, as after a signal.
    Return,
    /// Sleeps as nginx would without the hook.
    Leave,
}

/// Decides what is next. May not unwind. Signals that nginx handles are blocked meanwhile.
pub type Decide = fn(Event) -> Next;

/// The function behind the slots.
static REAL: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static DECIDE: OnceLock<Decide> = OnceLock::new();
static STATE: Mutex<Hooked> = Mutex::new(Hooked::NotInstalled);

/// Hooks the executable's calls of `sigsuspend`; what is there already is left as it is. `decide` is
/// called in the processes that sleep there, the master; only the first one given counts.
///
/// Call it while the process has one thread, with the module pinned (see [`super::pin`]).
pub fn install(decide: Decide) -> Result<(), Refusal> {
    let result = hook(decide);
    set_state(Hooked::from(&result));
    result
}

/// Takes the hook out, where it still is.
///
/// Call it while the process has one thread.
pub fn uninstall() -> Result<(), Refusal> {
    let real = REAL.load(Ordering::Acquire);
    if real.is_null() {
        return Ok(());
    }
    // SAFETY: the objects are from now, and this thread is the only one; `patch` found `real` (2).
    let restored = unsafe { got::restore(objects().iter().take(1), SYMBOL, stand_in(), real) };
    restored?.complete()?;
    set_state(Hooked::NotInstalled);
    Ok(())
}

/// Whether the hook is in place, after the last [`install`].
pub fn state() -> Hooked {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set_state(state: Hooked) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = state;
}

fn hook(decide: Decide) -> Result<(), Refusal> {
    if state() != Hooked::On {
        // What the kernel refuses may end the process.
        trial::run(try_out)?;
    }
    // Another one before is the same function: there is one master.
    let _ = DECIDE.set(decide);
    // SAFETY: the objects are from now, and this thread is the only one; the stand-in has the type of
    // `sigsuspend` (1), and `REAL` is for nothing else (2).
    let patched = unsafe { got::patch(objects().iter().take(1), SYMBOL, stand_in(), &REAL) }?;
    patched.complete()?;
    if patched.any() {
        return Ok(());
    }
    Err(Refusal::NotImported { symbol: SYMBOL.to_string_lossy().into_owned() })
}

/// Whether `ppoll` does what the stand-in needs: a signal that is blocked and pending interrupts it.
fn try_out() -> Result<(), Refusal> {
    extern "C" fn nothing(_signal: c_int) {}
    // SAFETY: 3; zeroes are a valid value of both.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(c_int) as usize;
        let mut signals: sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut signals, libc::SIGALRM);
        libc::sigaction(libc::SIGALRM, &action, null_mut());
        libc::sigprocmask(libc::SIG_BLOCK, &signals, null_mut());
        libc::kill(libc::getpid(), libc::SIGALRM);
        wait(None, true, &empty())
    };
    match result {
        Waited::Interrupted => Ok(()),
        Waited::Failed(errno) => Err(Refusal::Wait(errno)),
        Waited::Readable | Waited::Idle => Err(Refusal::Wait(0)),
    }
}

fn empty() -> sigset_t {
    // SAFETY: 3; zeroes are a valid value.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        set
    }
}

fn stand_in() -> *const c_void {
    sigsuspend as Suspend as *const c_void
}

/// Stands in for `sigsuspend`.
unsafe extern "C" fn sigsuspend(mask: *const sigset_t) -> c_int {
    let mut event = Event::Sleeps;
    while let Some(decide) = DECIDE.get() {
        let (descriptor, at_once) = match decide(event) {
            Next::Sleep(descriptor) => (Some(descriptor), false),
            Next::GoOn => (None, true),
            Next::Return => {
                set_errno(libc::EINTR);
                return -1;
            }
            Next::Leave => break,
        };
        // SAFETY: 1.
        event = match unsafe { wait(descriptor, at_once, mask) } {
            Waited::Readable => Event::Woken,
            Waited::Idle => Event::Quiet,
            Waited::Interrupted => {
                decide(Event::Interrupted);
                set_errno(libc::EINTR);
                return -1;
            }
            Waited::Failed(_) if event == Event::Refused => break,
            Waited::Failed(_) => Event::Refused,
        };
    }
    let real = REAL.load(Ordering::Acquire);
    if real.is_null() {
        // Not reachable (2).
        set_errno(libc::EINTR);
        return -1;
    }
    // SAFETY: 1, 2.
    unsafe { std::mem::transmute::<*mut c_void, Suspend>(real)(mask) }
}

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    Readable,
    Idle,
    Interrupted,
    Failed(c_int),
}

/// Waits, with this mask, until a signal comes or the descriptor is readable; with `at_once` only
/// looks whether a signal has come.
///
/// # Safety
///
/// `mask` leads to a set of signals.
unsafe fn wait(descriptor: Option<RawFd>, at_once: bool, mask: *const sigset_t) -> Waited {
    let mut polled = pollfd { fd: descriptor.unwrap_or(-1), events: libc::POLLIN, revents: 0 };
    let now = timespec { tv_sec: 0, tv_nsec: 0 };
    let timeout = if at_once { &raw const now } else { null() };
    let count = nfds_t::from(descriptor.is_some());
    // SAFETY: 3, and the caller's contract.
    match unsafe { libc::ppoll(&mut polled, count, timeout, mask) } {
        0 => Waited::Idle,
        // A descriptor that is none would wake without end.
        result if result > 0 && polled.revents & libc::POLLIN != 0 => Waited::Readable,
        result if result > 0 => Waited::Failed(libc::EBADF),
        _ => match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => Waited::Interrupted,
            errno => Waited::Failed(errno.unwrap_or(0)),
        },
    }
}

#[cfg(test)]
mod tests;

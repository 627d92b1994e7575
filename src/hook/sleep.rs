//! The hook on `sigsuspend`: lets the master, which has no event loop, answer requests.
//!
//! nginx's master sleeps in `sigsuspend` until a signal comes. The replacement sleeps in `ppoll`
//! with the same mask, so that a descriptor can wake the master as well. `ppoll` runs signal
//! handlers only when it returns `EINTR`. In that case the replacement returns to nginx; otherwise
//! it goes on sleeping. So nginx sees only its own wake-ups. Work that is done while the master is
//! awake is split into turns, and after each turn a signal that came meanwhile is handled.
//!
//! What the unsafe code below relies on:
//!
//! 1. The replacement has the type of `sigsuspend`, and is called with a valid mask.
//! 2. `REAL` is null or holds the function that the slots held before. It is set before the first
//!    slot changes.
//! 3. The calls of libc below have no preconditions but valid pointers, and zeroes are a valid
//!    value of their structures.

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

/// An event that the replacement reports to [`Decide`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// nginx wants to sleep.
    Sleeps,
    /// The descriptor is readable.
    Woken,
    /// No signal came during the last turn.
    Quiet,
    /// A signal came: the replacement returns to nginx, whatever the decision is.
    Interrupted,
    /// The kernel refused to wait for the descriptor.
    Refused,
}

/// The next action of the replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Sleeps until a signal comes or this descriptor is readable.
    Sleep(RawFd),
    /// Handles pending signals, and asks again.
    GoOn,
    /// Returns to nginx, as after a signal.
    Return,
    /// Sleeps as nginx would without the hook.
    Leave,
}

/// Decides the next action. Must not unwind. The signals that nginx handles are blocked meanwhile.
pub type Decide = fn(Event) -> Next;

/// The original function, to which the slots led.
static REAL: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static DECIDE: OnceLock<Decide> = OnceLock::new();
static STATE: Mutex<Hooked> = Mutex::new(Hooked::NotInstalled);

/// Hooks the executable's calls of `sigsuspend`. A hook that is in place already stays. `decide` is
/// called in the process that sleeps there, which is the master. Only the first `decide` is used.
///
/// Call it while the process has one thread, with the module pinned (see [`super::pin`]).
pub fn install(decide: Decide) -> Result<(), Refusal> {
    let result = hook(decide);
    set_state(Hooked::from(&result));
    result
}

/// Removes the hook, where it is still in place.
///
/// Call it while the process has one thread.
pub fn uninstall() -> Result<(), Refusal> {
    let real = REAL.load(Ordering::Acquire);
    if real.is_null() {
        return Ok(());
    }
    // SAFETY: the list of objects is current, this thread is the only one, and `patch` found `real`
    // (2).
    let restored = unsafe { got::restore(objects().iter().take(1), SYMBOL, replacement(), real) };
    restored?.complete()?;
    set_state(Hooked::NotInstalled);
    Ok(())
}

/// Returns whether the hook is in place, as of the last [`install`].
pub fn state() -> Hooked {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set_state(state: Hooked) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = state;
}

fn hook(decide: Decide) -> Result<(), Refusal> {
    if state() != Hooked::On {
        // In a child, because a policy of the kernel may kill the process for a refused call.
        trial::run(try_out)?;
    }
    // If one was set before, it is the same function: there is one master.
    let _ = DECIDE.set(decide);
    // SAFETY: the list of objects is current, and this thread is the only one. The replacement has
    // the type of `sigsuspend` (1), and `REAL` is used for nothing else (2).
    let patched = unsafe { got::patch(objects().iter().take(1), SYMBOL, replacement(), &REAL) }?;
    patched.complete()?;
    if patched.any() {
        return Ok(());
    }
    Err(Refusal::NotImported { symbol: SYMBOL.to_string_lossy().into_owned() })
}

/// Checks that `ppoll` does what the replacement needs: a signal that is blocked and pending
/// interrupts it.
fn try_out() -> Result<(), Refusal> {
    extern "C" fn nothing(_signal: c_int) {}
    // SAFETY: the pointers are valid, and zeroes are a valid value of both structures (3).
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
    // SAFETY: the pointer is valid, and zeroes are a valid value of the set (3).
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        set
    }
}

fn replacement() -> *const c_void {
    sigsuspend as Suspend as *const c_void
}

/// Replaces `sigsuspend`.
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
        // SAFETY: the caller passed a valid mask (1).
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
    // SAFETY: `REAL` holds the original function (2), and the mask is valid (1).
    unsafe { std::mem::transmute::<*mut c_void, Suspend>(real)(mask) }
}

/// The result of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    Readable,
    Idle,
    Interrupted,
    Failed(c_int),
}

/// Waits with this signal mask until a signal comes or the descriptor is readable. With `at_once`,
/// does not wait but only checks whether a signal is pending.
///
/// # Safety
///
/// `mask` points to a valid set of signals.
unsafe fn wait(descriptor: Option<RawFd>, at_once: bool, mask: *const sigset_t) -> Waited {
    let mut polled = pollfd { fd: descriptor.unwrap_or(-1), events: libc::POLLIN, revents: 0 };
    let now = timespec { tv_sec: 0, tv_nsec: 0 };
    let timeout = if at_once { &raw const now } else { null() };
    let count = nfds_t::from(descriptor.is_some());
    // SAFETY: all pointers are valid, `mask` by contract (3).
    match unsafe { libc::ppoll(&mut polled, count, timeout, mask) } {
        0 => Waited::Idle,
        // An invalid descriptor would wake the process again and again.
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

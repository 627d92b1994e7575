//! Invariants for `unsafe`: those of [`super`].

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::event::{eventfd, EventfdFlags};
use std::os::fd::{AsRawFd, OwnedFd};

use super::*;
use crate::sys::testing::alone;

static HANDLED: AtomicUsize = AtomicUsize::new(0);
/// The events that `decide` received, a digit each.
static EVENTS: AtomicUsize = AtomicUsize::new(0);
static WAKER: OnceLock<OwnedFd> = OnceLock::new();
/// A signal to send at this event.
static SEND_AT: AtomicUsize = AtomicUsize::new(0);
/// The number of turns of work after a wake-up.
static WORK: AtomicUsize = AtomicUsize::new(0);
/// The answer to the next event, if not the usual one.
static SAY: Mutex<Option<Next>> = Mutex::new(None);

extern "C" fn handler(_signal: c_int) {
    HANDLED.fetch_add(1, Relaxed);
}

fn digit(event: Event) -> usize {
    match event {
        Event::Sleeps => 1,
        Event::Woken => 2,
        Event::Quiet => 3,
        Event::Refused => 4,
        Event::Interrupted => 5,
    }
}

fn decide(event: Event) -> Next {
    EVENTS.store(EVENTS.load(Relaxed) * 10 + digit(event), Relaxed);
    let waker = WAKER.get().unwrap();
    if event == Event::Woken {
        rustix::io::read(waker, &mut [0; 8]).unwrap();
    }
    if SEND_AT.load(Relaxed) == digit(event) {
        SEND_AT.store(0, Relaxed);
        send();
    }
    if let Some(next) = SAY.lock().unwrap().take() {
        return next;
    }
    if event != Event::Sleeps && WORK.load(Relaxed) > 0 {
        WORK.fetch_sub(1, Relaxed);
        return Next::GoOn;
    }
    Next::Sleep(waker.as_raw_fd())
}

fn send() {
    // SAFETY: the signal goes to this process itself (3).
    assert_eq!(unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) }, 0);
}

fn wake() {
    rustix::io::write(WAKER.get().unwrap(), &1u64.to_ne_bytes()).unwrap();
}

/// Sleeps as nginx's master does. Returns how often the handler ran, and the events.
fn sleep() -> (usize, usize) {
    HANDLED.store(0, Relaxed);
    EVENTS.store(0, Relaxed);
    // SAFETY: the mask is a valid set (1).
    let result = unsafe { libc::sigsuspend(&empty()) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    assert_eq!((result, errno), (-1, Some(libc::EINTR)));
    (HANDLED.load(Relaxed), EVENTS.load(Relaxed))
}

/// Sets up signals as a master does: one with a handler, blocked.
fn begin() {
    // SAFETY: this process is the test's own, and zeroes are a valid value (3).
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, null_mut()), 0);
        let mut set = empty();
        libc::sigaddset(&mut set, libc::SIGUSR1);
        assert_eq!(libc::sigprocmask(libc::SIG_BLOCK, &set, null_mut()), 0);
        libc::alarm(20);
    }
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    WAKER.set(eventfd(0, flags).unwrap()).unwrap();
    assert_eq!(install(decide), Ok(()));
    assert_eq!(state(), Hooked::On);
}

#[test]
fn wakes_up_for_signals_only() {
    alone("hook::sleep::tests::wakes_up_for_signals_only", || {
        begin();
        // A signal, as without the hook.
        send();
        assert_eq!(sleep(), (1, 15));
        // After a wake-up the sleep goes on until a signal comes.
        wake();
        SEND_AT.store(2, Relaxed);
        assert_eq!(sleep(), (1, 125));
        // Work in turns, without signals.
        wake();
        WORK.store(3, Relaxed);
        SEND_AT.store(0, Relaxed);
        std::thread::spawn(|| {
            // SAFETY: these calls of libc have no preconditions (3).
            unsafe {
                while EVENTS.load(Relaxed) != 12333 {
                    libc::sched_yield();
                }
                libc::kill(libc::getpid(), libc::SIGUSR1);
            }
        });
        assert_eq!(sleep(), (1, 123335));
    });
}

#[test]
fn a_signal_comes_between_turns() {
    alone("hook::sleep::tests::a_signal_comes_between_turns", || {
        begin();
        for at in [2, 3] {
            wake();
            WORK.store(5, Relaxed);
            SEND_AT.store(at, Relaxed);
            let work = if at == 2 { 125 } else { 1235 };
            assert_eq!(sleep(), (1, work), "before the rest of the work");
        }
        // Both at once: the signal is not lost, whichever comes first.
        WORK.store(0, Relaxed);
        SEND_AT.store(0, Relaxed);
        for _ in 0..100 {
            wake();
            send();
            assert_eq!(sleep().0, 1);
        }
    });
}

#[test]
fn says_what_is_next() {
    alone("hook::sleep::tests::says_what_is_next", || {
        begin();
        // Returns without a signal.
        *SAY.lock().unwrap() = Some(Next::Return);
        assert_eq!(sleep(), (0, 1));
        // Sleeps as without the hook: a wake-up is not noticed.
        wake();
        send();
        *SAY.lock().unwrap() = Some(Next::Leave);
        assert_eq!(sleep(), (1, 1));
        // An invalid descriptor.
        send();
        *SAY.lock().unwrap() = Some(Next::Sleep(4000));
        assert_eq!(sleep().0, 1);
        // The hook is removed and installed again.
        assert_eq!(uninstall(), Ok(()));
        assert_eq!(uninstall(), Ok(()));
        send();
        assert_eq!((sleep(), state()), ((1, 0), Hooked::NotInstalled));
        assert_eq!(install(decide), Ok(()));
        send();
        assert_eq!(sleep().0, 1);
    });
}

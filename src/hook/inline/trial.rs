//! Trying something dangerous in a forked child first.
//!
//! What the unsafe code below relies on:
//!
//! 1. The process has one thread, so its child is a full copy: no lock is held by anybody else.
//! 2. The child runs nothing but the trial and ends by `_exit`: nothing of the program's own is
//!    run, flushed or removed. Its death is told to nobody (no `SIGCHLD`), and only `waitpid` with
//!    `__WALL` collects it, so the program's own bookkeeping of children does not see it.

use libc::c_int;

use crate::hook::refusal::Refusal;

/// Seconds after which a trial that hangs is ended.
const LIMIT: libc::c_uint = 5;

/// Exit statuses of the child: `Ok`, an errno of `mprotect` (1 to 133), or another refusal.
const DONE: c_int = 0;
const REFUSED: c_int = 200;
const LAYOUT: c_int = 201;
const ROOM: c_int = 202;

/// Runs the trial in a child. What it changes in memory is gone with the child.
///
/// Call it while the process has one thread.
pub fn run(trial: impl FnOnce() -> Result<(), Refusal>) -> Result<(), Refusal> {
    let nothing: usize = 0;
    // SAFETY: 1, 2: a plain fork, but without a signal at its end; the arguments that differ in
    // order between architectures are all 0.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0usize, nothing, nothing, nothing, nothing) };
    match pid {
        0 => {
            prepare();
            let status = trial().map_or_else(|refusal| status_of(&refusal), |()| DONE);
            // SAFETY: 2.
            unsafe { libc::_exit(status) }
        }
        pid if pid > 0 => refusal_of(wait(pid as libc::pid_t)),
        _ => Err(Refusal::Trial("cannot fork")),
    }
}

/// In the child: no core dump, the end of it all after a while, and signals as they are by default.
fn prepare() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: this process is the child, which nothing but the trial runs in (2).
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        for signal in [libc::SIGALRM, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGSYS] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::alarm(LIMIT);
    }
}

/// The wait status of the child; `None` when it cannot be had.
fn wait(pid: libc::pid_t) -> Option<c_int> {
    let mut status = 0;
    loop {
        // SAFETY: room for a status.
        if unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } == pid {
            return Some(status);
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None;
        }
    }
}

fn status_of(refusal: &Refusal) -> c_int {
    match refusal {
        Refusal::Protect(errno) if (1..=133).contains(errno) => *errno,
        Refusal::Layout => LAYOUT,
        Refusal::Room => ROOM,
        _ => REFUSED,
    }
}

fn refusal_of(status: Option<c_int>) -> Result<(), Refusal> {
    let Some(status) = status.filter(|status| libc::WIFEXITED(*status)) else {
        return Err(Refusal::Trial("a trial in a child process was killed"));
    };
    Err(match libc::WEXITSTATUS(status) {
        DONE => return Ok(()),
        errno @ 1..=133 => Refusal::Protect(errno),
        LAYOUT => Refusal::Layout,
        ROOM => Refusal::Room,
        _ => Refusal::Trial("a trial in a child process failed"),
    })
}

//! Runs an action in a forked child, because it is dangerous or leaves memory behind.
//!
//! What the unsafe code below relies on:
//!
//! 1. The process has one thread, so its child is a full copy, and nobody else holds a lock.
//! 2. The child runs only the trial and ends by `_exit`, so none of the program's exit handlers
//!    run, and none of its files are flushed or removed. No signal (`SIGCHLD`) reports its death,
//!    and only `waitpid` with `__WALL` collects it, so the program's own bookkeeping of children
//!    does not see it.

use std::fs::File;
use std::io::{Read, Write};
use std::panic::{catch_unwind, AssertUnwindSafe};

use libc::c_int;
use rustix::pipe::{pipe_with, PipeFlags};
use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::hook::refusal::Refusal;

/// The time limit of a trial, in seconds.
const LIMIT: libc::c_uint = 5;

/// Runs the trial in a child, and returns the trial's result. What the trial changes in memory is
/// lost with the child.
///
/// Call it while the process has one thread.
pub fn run<T: Serialize + DeserializeOwned>(
    trial: impl FnOnce() -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let (result, into) = pipe_with(PipeFlags::CLOEXEC).map_err(|_| Refusal::Fork)?;
    let nothing: usize = 0;
    // SAFETY: this is a fork of a process with one thread (1), without a signal at the child's end
    // (2). The order of the arguments differs between architectures only for those that are 0 here
    // (1).
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0usize, nothing, nothing, nothing, nothing) };
    match pid {
        0 => {
            prepare();
            // Without a result the parent reports that the trial was killed. A panic must not
            // unwind into the program's own code (2).
            let done = catch_unwind(AssertUnwindSafe(trial)).ok();
            if let Some(bytes) = done.and_then(|done| postcard::to_stdvec(&done).ok()) {
                let _ = File::from(into).write_all(&bytes);
            }
            // SAFETY: the child ends without running any of the program's own code (2).
            unsafe { libc::_exit(0) }
        }
        pid if pid > 0 => {
            drop(into);
            let mut bytes = Vec::new();
            let read = File::from(result).read_to_end(&mut bytes);
            wait(pid as libc::pid_t);
            read.ok()
                .and_then(|_| postcard::from_bytes(&bytes).ok())
                .unwrap_or(Err(Refusal::Killed))
        }
        _ => Err(Refusal::Fork),
    }
}

/// Prepares the child: no core dump, a time limit, and default actions for the signals of faults
/// and of the limit.
fn prepare() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: this process is the child, which runs only the trial (2).
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        for signal in [libc::SIGALRM, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGSYS] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::alarm(LIMIT);
    }
}

/// Waits for the child to end, and collects it.
fn wait(pid: libc::pid_t) {
    let mut status: c_int = 0;
    // SAFETY: `status` has room for a status, and the child is collected only here (2).
    while unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } != pid {
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
    }
}

//! Doing something in a forked child that is dangerous, or that leaves memory behind.
//!
//! What the unsafe code below relies on:
//!
//! 1. The process has one thread, so its child is a full copy: no lock is held by anybody else.
//! 2. The child runs nothing but the trial and ends by `_exit`: nothing of the program's own is
//!    run, flushed or removed. Its death is told to nobody (no `SIGCHLD`), and only `waitpid` with
//!    `__WALL` collects it, so the program's own bookkeeping of children does not see it.

use std::fs::File;
use std::io::{Read, Write};

use libc::c_int;
use rustix::pipe::{pipe_with, PipeFlags};
use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::hook::refusal::Refusal;

/// Seconds after which a trial that hangs is ended.
const LIMIT: libc::c_uint = 5;

/// Runs the trial in a child, and returns what it returned there. What it changes in memory is gone
/// with the child.
///
/// Call it while the process has one thread.
pub fn run<T: Serialize + DeserializeOwned>(
    trial: impl FnOnce() -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let (result, into) = pipe_with(PipeFlags::CLOEXEC).map_err(|_| Refusal::Fork)?;
    let nothing: usize = 0;
    // SAFETY: 1, 2: a plain fork, but without a signal at its end; the arguments that differ in
    // order between architectures are all 0.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0usize, nothing, nothing, nothing, nothing) };
    match pid {
        0 => {
            prepare();
            // Without a result the parent sees a trial that was killed.
            if let Ok(bytes) = postcard::to_stdvec(&trial()) {
                let _ = File::from(into).write_all(&bytes);
            }
            // SAFETY: 2.
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

/// Collects the child.
fn wait(pid: libc::pid_t) {
    let mut status: c_int = 0;
    // SAFETY: room for a status.
    while unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } != pid {
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
    }
}

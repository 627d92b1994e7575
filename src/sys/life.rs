//! Reports whether a process exists, and from `/proc/PID/stat` whether it is about to end.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;

/// `PF_EXITING` of the kernel's `sched.h`: set before the memory is freed, which may take long.
const EXITING: u64 = 4;

/// Returns whether a process with this pid exists.
pub fn exists(pid: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else {
        return false;
    };
    // The error for a process of another user is EPERM: that process exists.
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

/// Returns whether a process is exiting, or has ended and waits to be reaped.
///
/// Returns false if the kernel does not say so because the process is gone or hidden.
pub fn is_ending(pid: i32) -> bool {
    read(pid).and_then(|stat| parse(&stat)).unwrap_or(false)
}

fn read(pid: i32) -> Option<Vec<u8>> {
    let mut stat = Vec::with_capacity(512);
    File::open(format!("/proc/{pid}/stat")).ok()?.take(4096).read_to_end(&mut stat).ok()?;
    Some(stat)
}

/// Parses `/proc/PID/stat`. The second field is the name in parentheses and may contain any byte.
/// The state, six other fields and the flags follow.
fn parse(stat: &[u8]) -> Option<bool> {
    let behind_name = stat.rsplit(|byte| *byte == b')').next()?;
    let mut fields = std::str::from_utf8(behind_name).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    Some(matches!(state, "Z" | "X" | "x") || flags & EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_who_is_about_to_end() {
        assert_eq!(parse(b"7 (a) Z) b) S 5 7 7 0 -1 4194368 94 0"), Some(false));
        assert_eq!(parse(b"7 (nginx) T 5 7 7 0 -1 4194368 94 0"), Some(false), "stopped");
        assert_eq!(parse(b"7 (nginx) R 5 7 7 0 -1 4194372 94 0"), Some(true), "exiting");
        assert_eq!(parse(b"7 (nginx) Z 5 7 7 0 -1 4194368 94 0"), Some(true));
        assert_eq!((parse(b""), parse(b"7 (nginx) R x"), is_ending(-1)), (None, None, false));
    }

    #[test]
    fn a_child_runs_and_ends() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(!is_ending(pid));
        child.kill().unwrap();
        while !is_ending(pid) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_ending(pid), "it is gone");
    }
}

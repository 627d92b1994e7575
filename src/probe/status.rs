//! A process as the kernel accounts it, from `/proc/PID/status`.
#![forbid(unsafe_code)]

use procfs::process::{Stat, Status};
use procfs::{Current, FromRead, ProcResult, Uptime};

use crate::report::model::System;

/// What `/proc/PID/status` says.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// The memory lines.
    pub system: System,
    /// Threads of the process.
    pub threads: u64,
    /// The pid of its parent.
    pub parent: i32,
    /// Whether the process has ended and only waits to be reaped.
    pub ended: bool,
}

/// Reads this process.
pub fn own() -> ProcResult<Reading> {
    read("/proc/self/status")
}

/// Reads another process.
pub fn of(pid: i32) -> ProcResult<Reading> {
    read(&format!("/proc/{pid}/status"))
}

/// How long a process has been running, in whole seconds.
pub fn uptime_s(pid: i32) -> Option<u64> {
    let started = Stat::from_file(format!("/proc/{pid}/stat")).ok()?.starttime;
    let up = Uptime::current().ok()?.uptime_duration();
    let started = started.checked_div(procfs::ticks_per_second())?;
    up.as_secs().checked_sub(started)
}

/// The children of a process; `None` where the kernel does not list them, or not to this user.
pub fn children(pid: i32) -> Option<Vec<i32>> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    Some(list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

fn read(path: &str) -> ProcResult<Reading> {
    let status = Status::from_file(path)?;
    let bytes = |kilobytes: Option<u64>| kilobytes?.checked_mul(1024);
    let system = System {
        virtual_: bytes(status.vmsize),
        resident: bytes(status.vmrss),
        resident_anon: bytes(status.rssanon),
        resident_file: bytes(status.rssfile),
        resident_shmem: bytes(status.rssshmem),
        swap: bytes(status.vmswap),
        peak_resident: bytes(status.vmhwm),
        page_tables: bytes(status.vmpte),
    };
    let ended = status.state.starts_with(['Z', 'X']);
    Ok(Reading { system, threads: status.threads, parent: status.ppid, ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_is_the_sum_of_its_classes() {
        let system = own().unwrap().system;
        let parts = [system.resident_anon, system.resident_file, system.resident_shmem];
        let sum: u64 = parts.into_iter().map(Option::unwrap).sum();
        assert_eq!(system.resident, Some(sum));
        assert!(system.virtual_ > system.resident && system.peak_resident >= system.resident);
        assert!(of(-1).is_err());
    }

    #[test]
    fn knows_age_and_children() {
        let me = std::process::id() as i32;
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(uptime_s(pid).unwrap() <= uptime_s(me).unwrap());
        assert!(uptime_s(me).unwrap() < uptime_s(1).unwrap() + 1);
        assert_eq!(of(pid).unwrap().parent, me);
        // The list is that of one thread.
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let tasks = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
        let mut lists = tasks.map(|task| format!("/proc/self/task/{task}/children"));
        let listed = lists.any(|path| {
            std::fs::read_to_string(path).unwrap().split_whitespace().any(|c| c == pid.to_string())
        });
        assert!(listed);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(uptime_s(pid), None);
    }
}

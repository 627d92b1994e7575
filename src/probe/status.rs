//! A process as the kernel accounts it, from `/proc/PID/status`.
#![forbid(unsafe_code)]

use procfs::process::Status;
use procfs::{FromRead, ProcResult};

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
}

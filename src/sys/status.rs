//! Reads a process's memory figures from `/proc/PID/status`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use rustix::time::{clock_gettime, ClockId};

use serde::{Deserialize, Serialize};

use super::pagemap::page_size;

/// The memory of a process as the kernel accounts it, in bytes, from `/proc/PID/status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// `VmSize`: all mappings.
    #[serde(rename = "virtual")]
    pub virtual_: Option<u64>,
    /// `VmRSS`: pages in RAM; the sum of the next three.
    pub resident: Option<u64>,
    /// `RssAnon`: private pages with no file behind them, or written copies of file pages.
    pub resident_anon: Option<u64>,
    /// `RssFile`: pages of files.
    pub resident_file: Option<u64>,
    /// `RssShmem`: pages of shared memory.
    pub resident_shmem: Option<u64>,
    /// `VmSwap`: pages swapped out. The kernel does not include shared memory.
    pub swap: Option<u64>,
    /// `VmHWM`: the highest `resident` so far.
    pub peak_resident: Option<u64>,
    /// `VmPTE`: page tables.
    pub page_tables: Option<u64>,
    /// `HugetlbPages`: huge pages reserved for the process (`MAP_HUGETLB`); not part of `resident`.
    pub hugetlb: Option<u64>,
    /// `VmData`: private writable mappings; the limit `data` applies to it.
    pub data: Option<u64>,
    /// Bytes of `resident_anon` in transparent huge pages.
    pub resident_huge: Option<u64>,
    /// The part of `resident` in pages that only this process maps, as in `Private_Clean` and
    /// `Private_Dirty` of `smaps`.
    pub resident_private: Option<u64>,
    /// The part of `resident` in pages that other processes map, too.
    pub resident_shared: Option<u64>,
    /// The age of `resident_shared` when the snapshot was taken, in milliseconds.
    pub shared_ms_ago: Option<u64>,
}

/// The contents of `/proc/PID/status`.
#[derive(Debug, Clone, Copy)]
pub struct StatusReading {
    /// The memory lines.
    pub system: System,
    /// The number of threads of the process.
    pub threads: u64,
    /// The pid of its parent.
    pub parent: i32,
    /// Whether the process has ended: it waits to be reaped, or its memory is already freed.
    pub ended: bool,
}

/// Reads the status of this process.
pub fn own() -> io::Result<StatusReading> {
    read("/proc/self/status")
}

/// Returns the bytes of this process in RAM: fast, and off by up to some dozen pages per processor.
pub fn own_resident() -> io::Result<u64> {
    // In pages: all mappings, those in RAM, and more.
    let pages = |statm: &str| statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
    let pages = pages(&read_file("/proc/self/statm")?);
    let bytes = pages.and_then(|pages| pages.checked_mul(page_size() as u64));
    bytes.ok_or_else(|| io::Error::other("its format is unknown"))
}

/// Reads the status of another process.
pub fn of(pid: i32) -> io::Result<StatusReading> {
    read(&format!("/proc/{pid}/status"))
}

/// Returns how long a process has been running, in whole seconds.
pub fn uptime_s(pid: i32) -> Option<u64> {
    let stat = read_file(&format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may contain any byte; the start is the 22nd.
    let behind_name = stat.rsplit(')').next()?;
    let started: u64 = behind_name.split_ascii_whitespace().nth(22 - 3)?.parse().ok()?;
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(now.tv_sec.try_into().ok()?, now.tv_nsec.try_into().ok()?);
    whole_seconds(started, procfs::ticks_per_second(), now)
}

/// Returns the whole seconds from a tick of the clock until now; both count from the system's
/// start.
fn whole_seconds(started: u64, ticks_per_second: u64, now: Duration) -> Option<u64> {
    let started = started.checked_mul(1000)?.checked_div(ticks_per_second)?;
    Some(now.checked_sub(Duration::from_millis(started))?.as_secs())
}

/// Returns the children of a process; `None` if the kernel does not list them, or not to this user.
pub fn children(pid: i32) -> Option<Vec<i32>> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    Some(list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// Returns `Pss_File` of this process in bytes: its pages of files, each divided by the number of
/// processes that map it. `None` if the kernel does not report it.
///
/// The kernel walks all pages in one call, which takes 15 to 20 us per megabyte.
pub fn own_pss_file() -> io::Result<Option<u64>> {
    Ok(pss_file(&read_file("/proc/self/smaps_rollup")?))
}

fn pss_file(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_File:"))?;
    line.strip_suffix(" kB")?.trim_start().parse::<u64>().ok()?.checked_mul(1024)
}

fn read(path: &str) -> io::Result<StatusReading> {
    parse(&read_file(path)?).ok_or_else(|| io::Error::other("its format is unknown"))
}

/// Parses lines of the form `Name:<tab>value` with sizes in kB. A line that the kernel lacks leaves
/// its figure unknown.
fn parse(status: &str) -> Option<StatusReading> {
    let mut system = System::default();
    let (mut threads, mut parent, mut ended, mut has_memory) = (None, None, false, false);
    for line in status.lines() {
        let Some((name, value)) = line.split_once(":\t") else { continue };
        let size = match name {
            "State" => {
                ended = value.starts_with(['Z', 'X']);
                continue;
            }
            "PPid" => {
                parent = value.parse().ok();
                continue;
            }
            "Threads" => {
                threads = value.parse().ok();
                continue;
            }
            "VmSize" => &mut system.virtual_,
            "VmRSS" => &mut system.resident,
            "RssAnon" => &mut system.resident_anon,
            "RssFile" => &mut system.resident_file,
            "RssShmem" => &mut system.resident_shmem,
            "VmSwap" => &mut system.swap,
            "VmHWM" => &mut system.peak_resident,
            "HugetlbPages" => &mut system.hugetlb,
            "VmData" => &mut system.data,
            "VmPTE" => &mut system.page_tables,
            _ => continue,
        };
        has_memory = true;
        let kilobytes = value.strip_suffix(" kB").and_then(|n| n.trim_start().parse::<u64>().ok());
        *size = kilobytes.and_then(|kilobytes| kilobytes.checked_mul(1024));
    }
    // The kernel frees the memory of a process that exits, and so omits these lines, before it
    // makes the process a zombie.
    ended |= !has_memory;
    Some(StatusReading { system, threads: threads?, parent: parent?, ended })
}

/// Reads a small file of the kernel's. Bytes that are not UTF-8 are replaced.
pub(super) fn read_file(path: &str) -> io::Result<String> {
    /// No such file is longer. Without a limit the file's size, which is 0, would be queried first.
    const MOST: u64 = 1 << 20;
    let mut bytes = Vec::with_capacity(4096);
    File::open(path)?.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
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
    fn reads_as_procfs_does() {
        let ours = own().unwrap();
        let theirs = procfs::process::Process::myself().unwrap().status().unwrap();
        assert_eq!((ours.parent, ours.ended), (theirs.ppid, false));
        let kilobytes = [theirs.vmhwm, theirs.vmpte, theirs.vmswap].map(Option::unwrap);
        let System { peak_resident, page_tables, swap, .. } = ours.system;
        for (ours, theirs) in [peak_resident, page_tables, swap].into_iter().zip(kilobytes) {
            assert!(ours.unwrap().abs_diff(theirs * 1024) < 16 << 20, "{ours:?} {theirs}");
        }
    }

    #[test]
    fn divides_files() {
        let pss = own_pss_file().unwrap().unwrap();
        assert!(pss > 0 && pss <= own().unwrap().system.resident_file.unwrap() + (1 << 20));
        assert_eq!(pss_file("a b [rollup]\nRss:  12 kB\nPss_File:      7 kB\n"), Some(7 * 1024));
        assert_eq!(pss_file("Rss:  12 kB\nPss:  12 kB\n"), None);
    }

    #[test]
    fn lines_that_lack() {
        let kernel_thread = parse("Name:\t)\nState:\tZ (zombie)\nPPid:\t2\nThreads:\t1\n").unwrap();
        assert_eq!((kernel_thread.system, kernel_thread.parent), (System::default(), 2));
        assert!(kernel_thread.ended);
        assert!(parse("").is_none() && parse("PPid:\t1\nThreads:\tmany\n").is_none());
        let exiting = "State:\tR (running)\nPPid:\t2\nThreads:\t1\n";
        assert!(parse(exiting).unwrap().ended, "its memory is gone");
        assert!(!parse(&format!("{exiting}VmSize:\t4 kB\n")).unwrap().ended);
        let large = parse("PPid:\t1\nThreads:\t1\nVmSize:\t18014398509481984 kB\n").unwrap();
        assert_eq!(large.system.virtual_, None);
        let of = |rest: &str| parse(&format!("PPid:\t1\nThreads:\t1\n{rest}\n")).unwrap().system;
        assert_eq!(of("VmRSS:\t    1040 kB").resident, Some(1040 * 1024));
        assert_eq!(of("VmRSS:\t    1040").resident, None);
    }

    #[test]
    fn counts_whole_seconds_only() {
        let after = |millis| whole_seconds(150, 100, Duration::from_millis(millis));
        assert_eq!(after(1_499), None, "not started yet");
        assert_eq!(after(2_499), Some(0), "the second of the clock has changed since");
        assert_eq!((after(2_500), after(63_499)), (Some(1), Some(61)));
        assert_eq!(whole_seconds(150, 0, Duration::MAX), None);
    }

    #[test]
    fn knows_age_and_children() {
        let me = std::process::id() as i32;
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(uptime_s(pid).unwrap() <= uptime_s(me).unwrap());
        assert!(uptime_s(me).unwrap() < uptime_s(1).unwrap() + 1);
        assert_eq!(of(pid).unwrap().parent, me);
        // The kernel lists the children of one thread.
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

//! Reads the memory of the control group (cgroup, version 1 or 2) that this process is in: how much it
//! may take, how much it takes, and for what.
//!
//! [`place`] finds the group below a mounted hierarchy and [`parse`] reads the kernel's texts, both
//! without reading a file. [`v1`] and [`v2`] read the files of a group and of the groups above it,
//! limits first, so that the figures that change are read right after each other.
#![forbid(unsafe_code)]

mod parse;
mod place;
mod v1;
mod v2;

use std::io;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::status::read_file;
use place::{CgroupVersion, Membership, Mount};

/// The memory of a control group, in bytes. All figures but `limit`, `high` and `headroom` are of one
/// group: the one with the smallest limit (or `high`, if that is smaller) among the process's own group
/// and those above it; without any, the process's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// The smallest limit of the own group and those above it. `None` is no limit.
    pub limit: Option<u64>,
    /// The smallest `memory.high`, from which on the kernel slows processes down to reclaim memory.
    /// `None` is none. Version 2 only.
    pub high: Option<u64>,
    /// The memory of the group: processes, page cache and kernel.
    pub usage: Option<u64>,
    /// What is left below the nearest limit, of whichever group it is. `None` without a limit.
    pub headroom: Option<u64>,
    /// Pages of files that the kernel keeps, and gives back if memory is needed, mapped ones included.
    pub page_cache: Option<u64>,
    /// Anonymous memory of processes: heaps, stacks, pages copied on write.
    pub anon: Option<u64>,
    /// Shared memory and files on tmpfs. The kernel's own figure for the cache includes it.
    pub shmem: Option<u64>,
    /// Memory of the kernel for the group; in version 2 also the buffers of sockets.
    pub kernel: Option<u64>,
    /// Swapped out.
    pub swap: Option<u64>,
    /// Processes that the kernel has killed because memory ran out. In version 1 those of the process's
    /// own group only.
    pub oom_kills: Option<u64>,
    /// How long processes waited for memory. Version 2 only.
    pub pressure: Option<Pressure>,
}

impl Container {
    /// Whether a limit is set, so that its figures matter to whoever runs the server.
    pub fn is_limited(&self) -> bool {
        self.limit.is_some() || self.high.is_some()
    }
}

/// The time that processes of a group waited for memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// At least one waited.
    pub some: Stall,
    /// All that had something to do waited.
    pub full: Stall,
}

/// The time of waiting, as shares of the last seconds and summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// In percent of the last 10 seconds.
    pub avg10_percent: f64,
    /// In percent of the last 60 seconds.
    pub avg60_percent: f64,
    /// In percent of the last 300 seconds.
    pub avg300_percent: f64,
    /// Since the group was made, in microseconds.
    pub total_us: u64,
}

/// Figures that are not known, by their names in a report, and the reason.
pub type Unread = (&'static [&'static str], String);

/// The container, and the reasons for what could not be read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerReading {
    /// `None` if the process is in no group whose memory is counted.
    pub container: Option<Container>,
    /// What is unknown, and why.
    pub notes: Vec<Unread>,
}

impl ContainerReading {
    /// Nothing is known, for a reason.
    fn unknown(why: impl std::fmt::Display) -> Self {
        ContainerReading { container: None, notes: vec![(&["container"], why.to_string())] }
    }

    /// Notes why a figure is unknown, unless the kernel just does not have it.
    fn missing(&mut self, figures: &'static [&'static str], path: &str, error: &io::Error) {
        if !is_absent(error) {
            self.notes.push((figures, format!("cannot read {path}: {error}")));
        }
    }
}

/// Returns whether an error means that the kernel does not have a file, or has switched it off.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

/// Reads a file by its path.
type ReadFile<'a> = &'a dyn Fn(&str) -> io::Result<String>;

/// Reads the memory of the group that this process is in now.
pub fn own() -> ContainerReading {
    /// Where the hierarchy is mounted. It stays there; a list of mounts can be long.
    static MOUNT: OnceLock<(CgroupVersion, Mount)> = OnceLock::new();
    let groups = match read_file("/proc/self/cgroup") {
        Ok(groups) => groups,
        // The kernel is built without control groups.
        Err(error) if is_absent(&error) => return ContainerReading::default(),
        Err(error) => {
            return ContainerReading::unknown(format!("cannot read /proc/self/cgroup: {error}"))
        }
    };
    let Some(membership) = place::membership(&groups) else { return ContainerReading::default() };
    let known = MOUNT.get().filter(|(version, _)| *version == membership.version);
    let mount = match known.map(|(_, mount)| mount.clone()) {
        Some(mount) => mount,
        None => match read_file("/proc/self/mountinfo") {
            Err(error) => {
                return ContainerReading::unknown(format!(
                    "cannot read /proc/self/mountinfo: {error}"
                ))
            }
            Ok(mounts) => match place::mount(&mounts, &membership) {
                Some(mount) => {
                    // Another version's mount may be there already: then it is read each time.
                    let _ = MOUNT.set((membership.version, mount.clone()));
                    mount
                }
                None => return not_mounted(&membership),
            },
        },
    };
    read(&membership, &mount, &read_file)
}

/// Nobody can say which limits there are. In the top group there are none, as a rule.
fn not_mounted(membership: &Membership) -> ContainerReading {
    match membership.path {
        "/" => ContainerReading::default(),
        path => ContainerReading::unknown(format!(
            "the process is in the control group {path}, but none of its files are mounted"
        )),
    }
}

/// Reads the memory of a group below a mounted hierarchy.
fn read(membership: &Membership, mount: &Mount, files: ReadFile) -> ContainerReading {
    let Some(groups) = mount.groups(membership.path) else {
        return ContainerReading::unknown(format!(
            "the control group {} is not below {}, which is mounted at {}",
            membership.path, mount.root, mount.top
        ));
    };
    match membership.version {
        CgroupVersion::V1 => v1::read(&groups, files),
        CgroupVersion::V2 => v2::read(&groups, files),
    }
}

/// The limits of a group and its usage.
#[derive(Debug, Clone, Copy, Default)]
struct GroupLimits {
    limit: Option<u64>,
    high: Option<u64>,
    usage: Option<u64>,
}

/// Returns the index of the group with the smallest limit or `high`, the lowest one of several; 0
/// without any. Index 0 is the own group.
fn tightest(groups: &[GroupLimits]) -> usize {
    let places = groups.iter().enumerate();
    let limits = places.filter_map(|(place, group)| {
        [group.limit, group.high].into_iter().flatten().min().map(|bytes| (bytes, place))
    });
    limits.min().map_or(0, |(_, place)| place)
}

/// Sets what follows from the limits of the groups and their usages, of which `place` is the one to report.
fn set_limits(container: &mut Container, groups: &[GroupLimits], place: usize) {
    container.limit = groups.iter().filter_map(|group| group.limit).min();
    container.high = groups.iter().filter_map(|group| group.high).min();
    container.usage = groups.get(place).and_then(|group| group.usage);
    let left = |group: &GroupLimits| {
        Some(group.limit?).map(|limit| Some(limit.saturating_sub(group.usage?)))
    };
    // Unknown if one is.
    let all: Option<Vec<u64>> = groups.iter().filter_map(left).collect();
    container.headroom = all.and_then(|all| all.into_iter().min());
}

#[cfg(test)]
mod tests;

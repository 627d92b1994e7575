//! Version 1.
#![forbid(unsafe_code)]

use super::parse::{limit, line, number};
use super::v2::{bound, cache, figure, text};
use super::{is_absent, set_limits, tightest, Container, ContainerReading, GroupLimits, ReadFile};

/// The figures of `memory.stat`.
const STAT: [&str; 3] = ["container.page_cache", "container.anon", "container.shmem"];

/// Reads the memory of the first of these groups, which are ordered from the process's own one upwards.
pub(super) fn read(groups: &[String], files: ReadFile) -> ContainerReading {
    let mut reading = ContainerReading::default();
    let Some(own) = groups.first() else { return reading };
    // Only the top group of the machine has this file. Its usage is that of the machine.
    if files(&format!("{own}/release_agent")).is_ok() {
        return reading;
    }
    // Before Linux 5.11 a group could be counted apart from those above it.
    let apart = files(&format!("{own}/memory.use_hierarchy"));
    let groups = match apart.as_deref().map(str::trim_end) {
        Ok("0") => groups.get(..1).unwrap_or_default(),
        _ => groups,
    };
    let mut limits: Vec<GroupLimits> = groups
        .iter()
        .map(|group| GroupLimits {
            limit: bound(
                &mut reading,
                &["container.limit"],
                &format!("{group}/memory.limit_in_bytes"),
                files,
            ),
            ..GroupLimits::default()
        })
        .collect();
    let place = tightest(&limits);
    let Some(group) = groups.get(place) else { return reading };

    let name = "memory.stat";
    let stat = text(&mut reading, &STAT, group, name, files);
    for (above, (limits, folder)) in limits.iter_mut().zip(groups).enumerate() {
        if above == place || limits.limit.is_some() {
            let path = format!("{folder}/memory.usage_in_bytes");
            match files(&path) {
                Ok(text) => limits.usage = number(&text),
                // The group is not counted.
                Err(error) if is_absent(&error) && above == place => return reading,
                Err(error) => reading.missing(&["container.usage"], &path, &error),
            }
        }
    }
    let (name, read) = ("memory.kmem.usage_in_bytes", (files, number as fn(&str) -> _));
    let kernel = figure(&mut reading, &["container.kernel"], group, name, read);
    // Counted for the group that a killed process was in, but not for those above it.
    let events = text(&mut reading, &["container.oom_kills"], own, "memory.oom_control", files);

    let stat = stat.as_deref().unwrap_or_default();
    let shmem = line(stat, "total_shmem");
    let mut container = Container {
        page_cache: cache(line(stat, "total_cache"), shmem),
        anon: line(stat, "total_rss"),
        shmem,
        kernel,
        swap: line(stat, "total_swap"),
        oom_kills: events.as_deref().and_then(|events| line(events, "oom_kill")),
        ..Container::default()
    };
    set_limits(&mut container, &limits, place);
    // A limit that is set above the mounted group.
    let effective = stat.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit "));
    if let Some(bytes) = effective.and_then(limit).flatten() {
        if container.limit.is_none_or(|limit| bytes < limit) {
            container.limit = Some(bytes);
            container.headroom = None;
            let why = "the limit is of a control group that is not mounted here";
            reading.notes.push((&["container.headroom"], why.to_owned()));
        }
    }
    reading.container = Some(container);
    reading
}

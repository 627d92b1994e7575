//! Version 2.
#![forbid(unsafe_code)]

use super::parse::{limit, line, number, pressure};
use super::{set_limits, tightest, Container, ContainerReading, GroupLimits, ReadFile};

/// The parts of `kernel` in `memory.stat` before Linux 5.18, which has their sum.
const KERNEL_PARTS: [&str; 5] = ["kernel_stack", "pagetables", "percpu", "vmalloc", "slab"];

/// The figures of `memory.stat`.
const STAT: [&str; 4] =
    ["container.page_cache", "container.anon", "container.shmem", "container.kernel"];

/// Reads the memory of the first of these groups, which are ordered from the process's own one upwards.
pub(super) fn read(groups: &[String], files: ReadFile) -> ContainerReading {
    let mut reading = ContainerReading::default();
    // A group without the controller is counted in the one above it. The top one has no figures.
    let is_counted = |group: &&String| match files(&format!("{group}/memory.current")) {
        Ok(_) => true,
        Err(error) => !super::is_absent(&error),
    };
    let Some(own) = groups.iter().position(|group| is_counted(&group)) else { return reading };
    let groups = groups.get(own..).unwrap_or_default();
    let mut limits: Vec<GroupLimits> = groups
        .iter()
        .map(|group| GroupLimits {
            limit: bound(&mut reading, &["container.limit"], &format!("{group}/memory.max"), files),
            high: bound(&mut reading, &["container.high"], &format!("{group}/memory.high"), files),
            usage: None,
        })
        .collect();
    let place = tightest(&limits);
    let Some(group) = groups.get(place) else { return reading };

    let stat = text(&mut reading, &STAT, group, "memory.stat", files);
    for (above, (limits, folder)) in limits.iter_mut().zip(groups).enumerate() {
        if above == place || limits.limit.is_some() {
            let (name, read) = ("memory.current", (files, number as fn(&str) -> _));
            limits.usage = figure(&mut reading, &["container.usage"], folder, name, read);
        }
    }
    let (name, read) = ("memory.swap.current", (files, number as fn(&str) -> _));
    let swap = figure(&mut reading, &["container.swap"], group, name, read);
    let events = text(&mut reading, &["container.oom_kills"], group, "memory.events", files);
    let (name, read) = ("memory.pressure", (files, pressure as fn(&str) -> _));
    let pressure = figure(&mut reading, &["container.pressure"], group, name, read);

    let stat = stat.as_deref().unwrap_or_default();
    let mut container = Container {
        page_cache: cache(line(stat, "file"), line(stat, "shmem")),
        anon: line(stat, "anon"),
        shmem: line(stat, "shmem"),
        kernel: kernel(stat),
        swap,
        oom_kills: events.as_deref().and_then(|events| line(events, "oom_kill")),
        pressure,
        ..Container::default()
    };
    set_limits(&mut container, &limits, place);
    reading.container = Some(container);
    reading
}

/// The cache of files: what the kernel counts as cache, without shared memory.
pub(super) fn cache(all: Option<u64>, shmem: Option<u64>) -> Option<u64> {
    // The kernel does not read both at the same moment.
    Some(all?.saturating_sub(shmem?))
}

/// The kernel's memory, with the buffers of sockets.
fn kernel(stat: &str) -> Option<u64> {
    let sum = || {
        let mut parts = KERNEL_PARTS.iter().filter_map(|part| line(stat, part)).peekable();
        parts.peek()?;
        parts.try_fold(0u64, |sum, bytes| sum.checked_add(bytes))
    };
    let kernel = line(stat, "kernel").or_else(sum)?;
    kernel.checked_add(line(stat, "sock").unwrap_or(0))
}

/// Reads a limit. It is `None` without a limit, and if it cannot be read, which is noted.
pub(super) fn bound(
    reading: &mut ContainerReading,
    figures: &'static [&'static str],
    path: &str,
    files: ReadFile,
) -> Option<u64> {
    let text = files(path).map_err(|error| reading.missing(figures, path, &error)).ok()?;
    limit(&text).unwrap_or_else(|| {
        reading.notes.push((figures, format!("{path} has no number")));
        None
    })
}

/// Reads a file of a group. Why it cannot be read is noted.
pub(super) fn text(
    reading: &mut ContainerReading,
    figures: &'static [&'static str],
    group: &str,
    name: &str,
    files: ReadFile,
) -> Option<String> {
    let path = format!("{group}/{name}");
    files(&path).map_err(|error| reading.missing(figures, &path, &error)).ok()
}

/// Reads a figure from a file of its own.
pub(super) fn figure<T>(
    reading: &mut ContainerReading,
    figures: &'static [&'static str],
    group: &str,
    name: &str,
    (files, parse): (ReadFile, fn(&str) -> Option<T>),
) -> Option<T> {
    let text = text(reading, figures, group, name, files)?;
    let figure = parse(&text);
    if figure.is_none() {
        reading.notes.push((figures, format!("{group}/{name} is not of the expected form")));
    }
    figure
}

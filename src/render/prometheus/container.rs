//! Metrics of the container.
#![forbid(unsafe_code)]

use super::family::{Families, Labels, MetricName};
use super::server::seconds_of_us;
use crate::report::model::{Container, Server};

/// A gauge in bytes.
type ContainerFigure = (MetricName, fn(&Container) -> Option<u64>);

const FIGURES: [ContainerFigure; 9] = [
    (
        MetricName(
            "container_limit",
            "The smallest limit of the control group and those above it.",
        ),
        |container| container.limit,
    ),
    (
        MetricName("container_high", "The usage from which on the kernel slows processes down."),
        |container| container.high,
    ),
    (MetricName("container_usage", "Memory of the control group."), |container| container.usage),
    (MetricName("container_headroom", "What is left below the nearest limit."), |container| {
        container.headroom
    }),
    (
        MetricName("container_page_cache", "Pages of files that the kernel gives back if needed."),
        |container| container.page_cache,
    ),
    (
        MetricName("container_anon", "Anonymous memory of the processes of the control group."),
        |container| container.anon,
    ),
    (MetricName("container_shmem", "Shared memory, and files on tmpfs."), |container| {
        container.shmem
    }),
    (MetricName("container_kernel", "Memory of the kernel for the control group."), |container| {
        container.kernel
    }),
    (MetricName("container_swap", "Swapped out."), |container| container.swap),
];

pub(super) fn container(families: &mut Families, server: &Server) {
    let Some(container) = server.container else { return };
    for (name, figure) in FIGURES {
        families.bytes(name, [(Labels::default(), figure(&container))]);
    }
    families.counter(
        MetricName(
            "container_oom_kills",
            "Processes of the control group that the kernel killed because memory ran out.",
        ),
        [(Labels::default(), container.oom_kills)],
    );
    let Some(pressure) = container.pressure else { return };
    families.seconds_counter(
        MetricName(
            "container_pressure",
            "The time that some or all (full) processes of the control group waited for memory.",
        ),
        [("some", pressure.some), ("full", pressure.full)].map(|(name, stall)| {
            (Labels::from([("stall", name.to_owned())]), Some(seconds_of_us(stall.total_us)))
        }),
    );
}

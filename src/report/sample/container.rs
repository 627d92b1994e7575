//! Containers for tests.
#![forbid(unsafe_code)]

use super::{Random, K};
use crate::report::model::container::{Container, ContainerReading, Pressure, Stall};

/// A container that nears its limit, mostly with page cache.
pub(super) fn limited() -> ContainerReading {
    let stall = |percent, total_us| Stall {
        avg10_percent: percent,
        avg60_percent: 0.25,
        avg300_percent: 0.0,
        total_us,
    };
    let container = Container {
        limit: Some(512 * K * K),
        high: Some(480 * K * K),
        usage: Some(412 * K * K),
        headroom: Some(100 * K * K),
        page_cache: Some(230 * K * K),
        anon: Some(160 * K * K),
        shmem: Some(10 * K * K),
        kernel: Some(12 * K * K),
        swap: Some(0),
        oom_kills: Some(2),
        pressure: Some(Pressure { some: stall(1.53, 81_250), full: stall(0.5, 40_000) }),
    };
    ContainerReading { container: Some(container), notes: Vec::new() }
}

impl Random {
    /// Any container, even an impossible one.
    pub(crate) fn container(&mut self) -> Container {
        let stall = |r: &mut Self| Stall {
            avg10_percent: r.below(10_001) as f64 / 100.0,
            avg60_percent: r.below(10_001) as f64 / 100.0,
            avg300_percent: r.below(10_001) as f64 / 100.0,
            total_us: r.figure(),
        };
        Container {
            limit: self.maybe_figure(),
            high: self.maybe_figure(),
            usage: self.maybe_figure(),
            headroom: self.maybe_figure(),
            page_cache: self.maybe_figure(),
            anon: self.maybe_figure(),
            shmem: self.maybe_figure(),
            kernel: self.maybe_figure(),
            swap: self.maybe_figure(),
            oom_kills: self.maybe_figure(),
            pressure: self.maybe(|r| Pressure { some: stall(r), full: stall(r) }),
        }
    }
}

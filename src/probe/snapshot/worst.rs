//! The worst moment, as snapshots see it.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use super::Probes;
use crate::report::model::peak::{At, Peak, PeakPools};
use crate::report::model::System;

/// The time.
pub fn now() -> At {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    At(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Sees the present moment; the worst one so far.
pub(super) fn see(
    probes: &mut Probes,
    system: &System,
    pools: impl FnOnce() -> Option<PeakPools>,
) -> Option<Peak> {
    if let Some(resident) = system.resident {
        probes.worst.see(now(), resident, pools);
    }
    probes.worst.peak(system.peak_resident)
}

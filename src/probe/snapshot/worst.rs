//! Compares the moment of a snapshot with the worst one so far.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use super::Probes;
use crate::report::model::peak::{At, Peak, PeakPools};
use crate::report::model::System;

/// Returns the current time.
pub fn now() -> At {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    At(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Records the current moment if it is the worst so far. Returns the worst one.
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

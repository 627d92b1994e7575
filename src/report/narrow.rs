//! Reduces the model to the part that was requested.
#![forbid(unsafe_code)]

use super::model::{Process, Server};

impl Server {
    /// Removes all zones but the one of this name. Returns `false` if there is none.
    pub fn narrow(&mut self, zone: &str) -> bool {
        self.narrowed = true;
        self.shared_zones.narrow(zone);
        for zones in self.processes.iter_mut().filter_map(|process| process.zones.as_mut()) {
            zones.narrow(zone);
        }
        !self.shared_zones.0.is_empty()
    }

    /// Removes all processes but one. Returns `false` if it is not there. The totals do not change.
    pub fn narrow_to_process(&mut self, pid: i32) -> bool {
        self.processes.retain(|process| process.pid == pid);
        !self.processes.is_empty()
    }
}

/// Removes the request lines from the pools of the processes.
pub fn forget_requests(processes: &mut [Process]) {
    for pools in processes.iter_mut().filter_map(|process| process.pools.as_mut()) {
        for pool in pools.oldest.iter_mut().chain(&mut pools.largest) {
            pool.request = None;
        }
    }
    for pools in processes.iter_mut().filter_map(|p| p.peak.as_mut()?.pools.as_mut()) {
        if let Some(request) = &mut pools.request {
            request.request = None;
        }
    }
}

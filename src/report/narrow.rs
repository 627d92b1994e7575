//! What is left of the model when only a part was asked for.
#![forbid(unsafe_code)]

use super::model::{Process, Server};

impl Server {
    /// Leaves only one of the zones, by name; `false` when there is none of that name.
    pub fn narrow(&mut self, zone: &str) -> bool {
        self.narrowed = true;
        self.shared_zones.narrow(zone);
        for zones in self.processes.iter_mut().filter_map(|process| process.zones.as_mut()) {
            zones.narrow(zone);
        }
        !self.shared_zones.0.is_empty()
    }

    /// Leaves only one of the processes; `false` when it is not there. The totals stay those of all.
    pub fn narrow_to_process(&mut self, pid: i32) -> bool {
        self.processes.retain(|process| process.pid == pid);
        !self.processes.is_empty()
    }
}

/// Leaves the request lines out of what the processes say.
pub fn forget_requests(processes: &mut [Process]) {
    for pools in processes.iter_mut().filter_map(|process| process.pools.as_mut()) {
        for pool in pools.oldest.iter_mut().chain(&mut pools.largest) {
            pool.request = None;
        }
    }
}

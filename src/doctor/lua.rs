//! The Lua VMs of processes that have something in common.
#![forbid(unsafe_code)]

use super::verdict::percent;
use crate::report::model::lua::LuaVms;
use crate::report::model::{Process, ProcessState, Server};
use crate::report::units::size;
use crate::report::who::{label, ProcessNames};

/// VMs that a rule has chosen.
pub(super) struct ChosenVms<'a> {
    server: &'a Server,
    /// The place of each process, and its VMs of a subsystem.
    vms: Vec<(usize, &'a Process, &'a LuaVms)>,
}

/// The VMs with the largest figure.
pub(super) struct WorstVms<'a> {
    /// The name of the process.
    pub(super) name: String,
    /// The figure, in bytes.
    pub(super) bytes: u64,
    /// Bytes of the process in RAM.
    pub(super) resident: Option<u64>,
    /// The VMs.
    pub(super) lua: &'a LuaVms,
}

/// Returns the VMs for which a condition holds. Processes that are shutting down are left out: what is
/// to be changed has no effect on them.
pub(super) fn vms(server: &Server, is: impl Fn(&Process, &LuaVms) -> bool) -> ChosenVms<'_> {
    let processes = server.processes.iter().enumerate();
    let processes = processes.filter(|(_, p)| p.state != ProcessState::ShuttingDown);
    let vms = processes.flat_map(|(place, process)| {
        process.lua.iter().flatten().map(move |lua| (place, process, lua))
    });
    ChosenVms { server, vms: vms.filter(|(_, process, lua)| is(process, lua)).collect() }
}

impl<'a> ChosenVms<'a> {
    /// The VMs with the largest figure. Returns `None` if it is known of none.
    pub(super) fn worst(&self, figure: impl Fn(&LuaVms) -> Option<u64>) -> Option<WorstVms<'a>> {
        let known = self.vms.iter().filter_map(|(_, p, lua)| Some((figure(lua)?, *p, *lua)));
        // Of equal ones the first.
        let (bytes, process, lua) = known.rev().max_by_key(|(bytes, _, _)| *bytes)?;
        let resident = process.system.resident;
        Some(WorstVms { name: label(process), bytes, resident, lua })
    }

    /// The sum of a figure, as far as it is known.
    pub(super) fn sum(&self, figure: impl Fn(&LuaVms) -> Option<u64>) -> u64 {
        let figures = self.vms.iter().filter_map(|(_, _, lua)| figure(lua));
        figures.fold(0, u64::saturating_add)
    }

    /// The processes, each once.
    pub(super) fn processes(&self) -> Vec<&'a Process> {
        let mut processes = self.vms.clone();
        processes.dedup_by_key(|(place, _, _)| *place);
        processes.into_iter().map(|(_, process, _)| process).collect()
    }

    /// The number of processes.
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.processes().len()).unwrap_or(u64::MAX)
    }

    /// The names of the processes: `workers 0-3`.
    pub(super) fn names(&self) -> String {
        let mut places: Vec<usize> = self.vms.iter().map(|(place, _, _)| *place).collect();
        places.dedup();
        ProcessNames::new(&self.server.processes).list(&places)
    }
}

impl WorstVms<'_> {
    /// The figure as a share of the process's RAM: `50% of its RAM`, or the bytes if it is not known.
    pub(super) fn share(&self, of: &str) -> String {
        match self.resident.and_then(|resident| percent(self.bytes, resident)) {
            Some(share) => format!("{share}% {of}"),
            None => format!("{} {of}", size(self.bytes)),
        }
    }
}

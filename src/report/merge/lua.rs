//! Groups the Lua VMs of several processes.
#![forbid(unsafe_code)]

use crate::report::model::lua::{LuaVms, Subsystem};
use crate::report::model::Process;

/// The figures of all processes, by subsystem. Subsystems without VMs are left out.
pub fn by_subsystem(processes: &[Process]) -> Vec<(Subsystem, Vec<&LuaVms>)> {
    let of = |subsystem| {
        let all = processes.iter().flat_map(|process| process.lua.iter().flatten());
        (subsystem, all.filter(|lua| lua.subsystem == subsystem).collect::<Vec<_>>())
    };
    Subsystem::ALL.into_iter().map(of).filter(|(_, all)| !all.is_empty()).collect()
}

//! The table of the Lua VMs of all processes.
#![forbid(unsafe_code)]

use super::{groups, section};
use crate::render::layout::{paragraph, Align, TextTable};
use crate::render::units::{count, known, size};
use crate::render::who::{label, ProcessNames};
use crate::report::model::lua::{Gc, LuaVms};
use crate::report::model::Process;

/// Prints a table with one line for each process and subsystem, then sentences about failures and
/// garbage collectors.
pub(super) fn vms(out: &mut String, processes: &[Process], names: &ProcessNames) {
    let rows: Vec<(&Process, &LuaVms)> =
        processes.iter().flat_map(|p| p.lua.iter().flatten().map(move |lua| (p, lua))).collect();
    if rows.is_empty() {
        return;
    }
    let cells = |cell: fn(&Process, &LuaVms) -> String| {
        rows.iter().map(|(process, lua)| cell(process, lua)).collect::<Vec<_>>()
    };
    let mut table = TextTable::default();
    table.name(&["process"], cells(|p, _| label(p)));
    table.name(&["pid"], cells(|p, _| p.pid.to_string()));
    table.name(&["of"], cells(|_, lua| lua.subsystem.name().to_owned()));
    let mut column = |head: &[&str], cell: fn(&Process, &LuaVms) -> String| {
        table.column(Align::Right, head, cells(cell));
    };
    column(&["VMs"], |_, lua| count(lua.vms));
    column(&["GC", "count"], |_, lua| known(lua.gc_bytes, size));
    column(&["in use"], |_, lua| size(lua.allocated_bytes));
    column(&["peak of", "a VM"], |_, lua| size(lua.peak_bytes));
    column(&["overhead"], |_, lua| known(lua.overhead_bytes, size));
    column(&["free"], |_, lua| known(lua.free_bytes, size));
    column(&["largest", "free"], |_, lua| known(lua.largest_free, size));
    column(&["reserved"], |_, lua| known(lua.reserved, size));
    column(&["resident"], |_, lua| known(lua.resident, size));
    section(out, "Lua VMs (reserved = in use + overhead + free)");
    table.print(out);
    let refusals = groups(processes, |p| say(p, |lua| Some(lua.failures).filter(|n| *n > 0)));
    for ((subsystem, failures), who) in refusals {
        let who = names.list(&who);
        let line = format!(
            "Lua of {subsystem} in {who}: {} allocations failed because memory was refused",
            count(failures)
        );
        paragraph(out, "", &line);
    }
    for ((subsystem, gc), who) in groups(processes, |p| say(p, |lua| lua.gc)) {
        let who = names.list(&who);
        paragraph(out, "", &format!("Garbage collector of {subsystem} in {who}: {}", state(&gc)));
    }
}

/// The values of `what` for the subsystems of a process that have one.
fn say<T>(process: &Process, what: fn(&LuaVms) -> Option<T>) -> Vec<(&'static str, T)> {
    let all = process.lua.iter().flatten();
    all.filter_map(|lua| Some((lua.subsystem.name(), what(lua)?))).collect()
}

fn state(gc: &Gc) -> String {
    let running = match gc.running {
        Some(true) => "running",
        Some(false) => "stopped",
        None => "running: ?",
    };
    let limit = match (gc.gc64, gc.limit_bytes) {
        (Some(true), _) => "GC64: no limit of 2 GB".to_owned(),
        (Some(false), limit) => {
            format!("not GC64: at most {} for all VMs of a process", known(limit, size))
        }
        (None, _) => "GC64: ?".to_owned(),
    };
    let (pause, stepmul) = (known(gc.pause, count), known(gc.stepmul, count));
    format!("{running}, pause {pause}, stepmul {stepmul}, {limit}")
}

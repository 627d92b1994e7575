//! Metrics of the Lua VMs of each process, by subsystem.
#![forbid(unsafe_code)]

use super::family::{Families, Labels, MetricName};
use super::groups::ProcessGroup;
use crate::report::model::lua::{LuaVms, Subsystem};
use crate::report::model::Process;

type LuaFigure = fn(&LuaVms) -> Option<u64>;

pub(super) fn lua(families: &mut Families, groups: &[ProcessGroup]) {
    families
        .number(MetricName("lua_vms", "Lua VMs that exist."), gauges(groups, |lua| Some(lua.vms)));
    let bytes: [(MetricName, LuaFigure); 6] = [
        (MetricName("lua_gc", "Lua's own count, as of collectgarbage(\"count\")."), |l| l.gc_bytes),
        (MetricName("lua_allocated", "Memory that the VMs have allocated and not freed."), |lua| {
            Some(lua.allocated_bytes)
        }),
        (MetricName("lua_free", "Memory that the allocators hold for reuse."), |lua| {
            lua.free_bytes
        }),
        (MetricName("lua_overhead", "Memory that the allocators need themselves."), |lua| {
            lua.overhead_bytes
        }),
        (MetricName("lua_reserved", "Virtual memory of the allocators' mappings."), |lua| {
            lua.reserved
        }),
        (MetricName("lua_resident", "Memory of the allocators' mappings in RAM."), |lua| {
            lua.resident
        }),
    ];
    for (name, figure) in bytes {
        families.bytes(name, gauges(groups, figure));
    }
    families.bytes(
        MetricName(
            "lua_limit",
            "The most that all VMs of the process can have together, if there is a limit.",
        ),
        gauges(groups, |lua| lua.gc?.limit_bytes),
    );
    type LuaCount = fn(&LuaVms) -> u64;
    let counters: [(MetricName, LuaCount); 4] = [
        (MetricName("lua_allocations", "Blocks that VMs allocated."), |lua| lua.allocations),
        (MetricName("lua_resizes", "Blocks that VMs made larger or smaller."), |lua| lua.resizes),
        (MetricName("lua_frees", "Blocks that VMs freed."), |lua| lua.frees),
        (
            MetricName(
                "lua_failures",
                "Allocations of VMs that failed because memory was refused.",
            ),
            |lua| lua.failures,
        ),
    ];
    for (name, figure) in counters {
        let series = groups.iter().filter_map(|group| Some((group, group.single()?)));
        let series = series.flat_map(|(group, process)| {
            Subsystem::ALL.into_iter().filter_map(move |subsystem| {
                let mut all = process.lua.iter().flatten();
                let lua = all.find(|lua| lua.subsystem == subsystem)?;
                Some((labels(group, subsystem), Some(figure(lua))))
            })
        });
        families.counter(name, series);
    }
}

fn labels(group: &ProcessGroup, subsystem: Subsystem) -> Labels {
    group.labels(&[("subsystem", subsystem.name())])
}

/// The sums of a figure, for each group and each subsystem that some process of the group has.
fn gauges(groups: &[ProcessGroup], figure: LuaFigure) -> Vec<(Labels, Option<u64>)> {
    fn of(process: &Process, subsystem: Subsystem) -> Option<Option<&LuaVms>> {
        let all = process.lua.as_ref()?;
        Some(all.iter().find(|lua| lua.subsystem == subsystem))
    }
    let mut series = Vec::new();
    for group in groups {
        for subsystem in Subsystem::ALL {
            let there = group.members().iter().any(|p| of(p, subsystem).flatten().is_some());
            // A process without such VMs adds 0. If it is unknown whether it has any, the sum is
            // unknown.
            let sum = group.sum(|process| match of(process, subsystem)? {
                Some(lua) => figure(lua),
                None => Some(0),
            });
            if there {
                series.push((labels(group, subsystem), sum));
            }
        }
    }
    series
}

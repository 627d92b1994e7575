//! Metrics of each process from the kernel, the allocator and the module itself.
#![forbid(unsafe_code)]

use super::family::{Families, MetricName};
use super::groups::ProcessGroup;
use super::server::seconds_of_us;
use crate::report::model::{Allocator, Category, HookState, Hooks, ModuleCost, Process, Region};

type ProcessFigure = fn(&Process) -> Option<u64>;

pub(super) fn system(families: &mut Families, groups: &[ProcessGroup]) {
    let table: [(MetricName, ProcessFigure); 13] = [
        (MetricName("process_virtual", "All mappings (VmSize)."), |p| p.system.virtual_),
        (MetricName("process_resident", "Pages in RAM (VmRSS)."), |p| p.system.resident),
        (MetricName("process_resident_anon", "Anonymous pages in RAM."), |p| {
            p.system.resident_anon
        }),
        (MetricName("process_resident_file", "Pages of files in RAM."), |p| p.system.resident_file),
        (
            MetricName(
                "process_resident_shmem",
                "Shared memory in RAM that this process has touched.",
            ),
            |p| p.system.resident_shmem,
        ),
        (
            MetricName("process_resident_private", "Pages in RAM that only this process maps."),
            |p| p.system.resident_private,
        ),
        (
            MetricName("process_resident_shared", "Pages in RAM that other processes map, too."),
            |p| p.system.resident_shared,
        ),
        (MetricName("process_swap", "Pages swapped out, shared memory not included."), |p| {
            p.system.swap
        }),
        (MetricName("process_peak_resident", "The highest resident memory so far (VmHWM)."), |p| {
            p.system.peak_resident
        }),
        (MetricName("process_page_tables", "Page tables of the kernel for this process."), |p| {
            p.system.page_tables
        }),
        (
            MetricName(
                "process_hugetlb",
                "Huge pages of MAP_HUGETLB, in addition to resident memory.",
            ),
            |p| p.system.hugetlb,
        ),
        (MetricName("process_data", "Private writable mappings (VmData)."), |p| p.system.data),
        (MetricName("process_resident_huge", "Anonymous pages in transparent huge pages."), |p| {
            p.system.resident_huge
        }),
    ];
    for (name, figure) in table {
        families.bytes(name, groups.iter().map(|g| (g.labels(&[]), g.sum(figure))));
    }
    families.bytes(
        MetricName(
            "process_limit",
            "The soft limits that are set on memory; the lowest one for several processes.",
        ),
        groups.iter().flat_map(|group| {
            ["address_space", "data"].into_iter().filter_map(move |name| {
                let limits = group.members().iter().filter_map(|p| p.limits.as_ref()?.get(name));
                let lowest = limits.min().copied()?;
                Some((group.labels(&[("limit", name)]), Some(lowest)))
            })
        }),
    );
    families.bytes(
        MetricName(
            "process_peak_seen",
            "Resident memory at the worst moment that the process has seen.",
        ),
        groups.iter().map(|g| (g.labels(&[]), g.sum(|p| Some(p.peak.as_ref()?.resident)))),
    );
    families.seconds(
        MetricName(
            "process_peak_seen_timestamp",
            "When that was, since 1970; of several the last one.",
        ),
        groups.iter().map(|g| {
            let at = g.max(|p| Some(p.peak.as_ref()?.at.0));
            (g.labels(&[]), at.map(|ms| ms as f64 / 1e3))
        }),
    );
    families.seconds(
        MetricName("process_uptime", "The time since the process started."),
        groups.iter().map(|g| (g.labels(&[]), g.max(|p| p.uptime_s).map(|s| s as f64))),
    );
    families.seconds(
        MetricName(
            "process_figures_age",
            "The age of the figures; high if a process does not answer.",
        ),
        groups.iter().map(|g| (g.labels(&[]), g.max(|p| Some(p.age_ms)).map(|ms| ms as f64 / 1e3))),
    );
    families.number(
        MetricName(
            "process_generation",
            "The number of the configuration that the process runs, from 1.",
        ),
        groups.iter().map(|g| (g.labels(&[]), g.max(|p| p.generation))),
    );
    families.number(
        MetricName("process_threads", "Threads, the main one included."),
        groups.iter().map(|g| (g.labels(&[]), g.sum(|p| p.stacks?.threads))),
    );
    families.number(
        MetricName("process_notes", "Notes on unknown or inexact figures."),
        groups.iter().map(|g| (g.labels(&[]), g.sum(|p| u64::try_from(p.notes.len()).ok()))),
    );
}

pub(super) fn resident_categories(families: &mut Families, groups: &[ProcessGroup]) {
    categories(
        families,
        groups,
        MetricName("category_resident", "Resident memory by category; adds up to the process's."),
        |region| region.resident,
    );
}

pub(super) fn reserved_categories(families: &mut Families, groups: &[ProcessGroup]) {
    categories(
        families,
        groups,
        MetricName("category_reserved", "Virtual memory by category; adds up to the process's."),
        |region| region.reserved,
    );
}

fn categories(
    families: &mut Families,
    groups: &[ProcessGroup],
    name: MetricName,
    figure: fn(Region) -> Option<u64>,
) {
    let series = groups.iter().flat_map(|group| {
        let there = |category: &Category| {
            let is =
                |p: &&Process| p.breakdown.as_ref().is_some_and(|b| b.get(*category).is_some());
            group.members().iter().any(is)
        };
        Category::ALL
            .into_iter()
            .filter(there)
            .map(move |category| {
                let sum = group.sum(|p| match p.breakdown.as_ref()?.get(category) {
                    Some(region) => figure(region),
                    // The process has no such memory.
                    None => Some(0),
                });
                (group.labels(&[("category", category.name())]), sum)
            })
            .collect::<Vec<_>>()
    });
    families.bytes(name, series);
}

pub(super) fn allocator(families: &mut Families, groups: &[ProcessGroup]) {
    type OfAllocator = fn(&Allocator) -> Option<u64>;
    let table: [(MetricName, OfAllocator); 4] = [
        (
            MetricName("allocator_reserved", "Memory that the allocator has obtained and kept."),
            |a| a.reserved,
        ),
        (
            MetricName("allocator_in_use", "Memory that the program has allocated, with headers."),
            |a| a.in_use,
        ),
        (MetricName("allocator_free", "Memory that the allocator holds for reuse."), |a| a.free),
        (
            MetricName("allocator_mmapped", "The part in use in blocks with their own mapping."),
            |a| a.mmapped,
        ),
    ];
    for (name, figure) in table {
        families.bytes(
            name,
            groups.iter().map(|g| {
                let allocator = |p: &Process| p.allocator.as_ref().map(|a| a.name.clone());
                let names: Vec<_> = g.members().iter().filter_map(|p| allocator(p)).collect();
                let label = names.first().map_or("", String::as_str);
                (g.labels(&[("allocator", label)]), g.sum(|p| figure(p.allocator.as_ref()?)))
            }),
        );
    }
    families.bytes(
        MetricName("allocator_nginx", "The part in use in nginx's arrays outside its pools."),
        groups.iter().map(|g| (g.labels(&[]), g.sum(|p| Some(p.allocator.as_ref()?.arrays())))),
    );
    families.seconds(
        MetricName("allocator_figures_age", "The age of the allocator's figures."),
        groups
            .iter()
            .map(|g| (g.labels(&[]), g.max(Process::allocator_age_ms).map(|ms| ms as f64 / 1e3))),
    );
    families.number(
        MetricName("allocator_arenas", "Arenas of the allocator."),
        groups.iter().map(|g| (g.labels(&[]), g.sum(|p| p.allocator.as_ref()?.arenas))),
    );
}

pub(super) fn module(families: &mut Families, groups: &[ProcessGroup]) {
    let state = |process: &Process, name: &str| {
        let hooks = process.hooks.as_ref()?;
        hooks.named().find(|(other, _)| *other == name).map(|(_, state)| state.clone())
    };
    families.number(
        MetricName("hook_on", "1 if the hook is in place, else 0."),
        groups.iter().flat_map(|group| {
            Hooks::NAMES.iter().map(move |name| {
                // The hook counts as off if one process of the group lacks it.
                let off = group.max(|p| Some(u64::from(state(p, name)? != HookState::On)));
                (group.labels(&[("hook", name)]), off.map(|off| 1u64.saturating_sub(off)))
            })
        }),
    );
    families.bytes(
        MetricName("module_memory", "The module's own lasting memory."),
        groups.iter().map(|g| (g.labels(&[]), g.sum(|p| Some(p.own?.bytes)))),
    );
    type Cost = fn(ModuleCost) -> u64;
    let table: [(MetricName, Cost); 2] = [
        (
            MetricName(
                "module_snapshot",
                "The time that the last snapshot took of the event loop.",
            ),
            |o| o.snapshot_us,
        ),
        (MetricName("module_longest_slice", "The longest slice of the last snapshot."), |o| {
            o.longest_slice_us
        }),
    ];
    for (name, figure) in table {
        families.seconds(
            name,
            groups
                .iter()
                .map(|g| (g.labels(&[]), g.max(|p| Some(figure(p.own?))).map(seconds_of_us))),
        );
    }
}

//! Tables of the shared memory zones: their contents, and their use by the processes.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::{named, section};
use crate::format::ascii;
use crate::render::layout::{paragraph, Align, TextTable};
use crate::render::units::{count, known, millis, size};
use crate::report::model::zones::{SharedZone, SlotClass, Slots, ZoneUse};
use crate::report::model::{Process, Server};

/// Prints the tables of all zones, or more details of the requested zone.
pub(super) fn zones(out: &mut String, server: &Server) {
    let mappings: Vec<(&str, &SharedZone)> = server
        .shared_zones
        .0
        .iter()
        .flat_map(|(name, zone)| zone.all().map(move |mapping| (name.as_str(), mapping)))
        .collect();
    if mappings.is_empty() {
        return;
    }
    contents(out, &mappings);
    if server.narrowed {
        by_process(out, &server.processes);
        for (_, mapping) in &mappings {
            if let Some(slots) = &mapping.slots {
                by_slot(out, mapping, slots);
            }
        }
    } else {
        by_all(out, &mappings, &server.processes);
    }
    for (name, mapping) in mappings {
        for note in &mapping.notes {
            paragraph(out, "- ", &format!("{}: {}", ascii(name), ascii(&note.to_string())));
        }
    }
}

/// A table whose rows are mappings, named by zone and generation.
fn of_mappings(mappings: &[(&str, &SharedZone)]) -> TextTable {
    let mut table = TextTable::default();
    table.name(&["zone"], mappings.iter().map(|(name, _)| ascii(name)).collect());
    let generations = mappings.iter().map(|(_, mapping)| {
        let generation = known(mapping.generation, count);
        if mapping.current {
            generation
        } else {
            format!("{generation} old")
        }
    });
    table.name(&["gen"], generations.collect());
    table
}

fn contents(out: &mut String, mappings: &[(&str, &SharedZone)]) {
    let mut table = of_mappings(mappings);
    let owners = mappings.iter().map(|(_, m)| known(m.owner.as_deref(), owner)).collect();
    table.column(Align::Left, &["owner", ""], owners);
    let mut column = |head: &[&str], cell: fn(&SharedZone) -> String| {
        table.column(Align::Right, head, mappings.iter().map(|(_, m)| cell(m)).collect());
    };
    column(&["size", ""], |m| size(m.size));
    column(&["resident", ""], |m| known(m.resident, size));
    column(&["in use", ""], |m| known(m.in_use, size));
    column(&["full", ""], |m| known(m.fill_percent, |percent| format!("{percent}%")));
    column(&["free", "pages"], |m| known(m.pages.map(|p| p.free), count));
    column(&["largest", "allocation"], |m| known(m.largest_allocation, size));
    column(&["failures", ""], failures);
    section(out, "Shared memory zones");
    table.print(out);
}

/// The number of failed allocations, or its lower bound.
pub(super) fn failures(zone: &SharedZone) -> String {
    match (zone.failures, zone.failures_at_least.filter(|failures| *failures > 0)) {
        (None, Some(failures)) => format!(">={}", count(failures)),
        (failures, _) => known(failures, count),
    }
}

/// The name of a module without the common prefix and suffix.
fn owner(name: &str) -> String {
    let name = name.strip_prefix("ngx_").unwrap_or(name);
    ascii(name.strip_suffix("_module").unwrap_or(name))
}

/// The use of each mapping, summed over the processes.
fn by_all(out: &mut String, mappings: &[(&str, &SharedZone)], processes: &[Process]) {
    let mut all: HashMap<(&str, Option<u64>), Vec<&ZoneUse>> = HashMap::new();
    for (name, uses) in processes.iter().flat_map(|p| &p.zones).flat_map(|zones| &zones.0) {
        all.entry((name, uses.generation)).or_default().push(uses);
    }
    let mut table = of_mappings(mappings);
    let mut column = |head: &str, show: fn(u64) -> String, figure: fn(&ZoneUse) -> Option<u64>| {
        let cells = mappings.iter().map(|(name, mapping)| {
            let uses = all.get(&(*name, mapping.generation)).into_iter().flatten();
            let sum = uses.copied().try_fold(0u64, |sum, uses| sum.checked_add(figure(uses)?));
            known(sum, show)
        });
        table.column(Align::Right, &[head], cells.collect());
    };
    column("processes", count, |_| Some(1));
    column("allocations", count, |uses| uses.allocations);
    column("requested", size, |uses| uses.bytes_requested);
    column("frees", count, |uses| uses.frees);
    column("failures", count, |uses| uses.failures);
    section(out, "Use of the zones by these processes together");
    table.print(out);
}

/// The use of the requested zone by each process.
fn by_process(out: &mut String, processes: &[Process]) {
    let all = processes.iter().flat_map(|p| p.zones.iter().map(move |zones| (p, zones)));
    let all: Vec<(&Process, &ZoneUse)> =
        all.flat_map(|(p, zones)| zones.0.iter().map(move |(_, uses)| (p, uses))).collect();
    let mut table = named(&all.iter().map(|(process, _)| *process).collect::<Vec<_>>());
    let mut column = |head: &[&str], cell: fn(&ZoneUse) -> String| {
        table.column(Align::Right, head, all.iter().map(|(_, uses)| cell(uses)).collect());
    };
    column(&["gen", ""], |uses| known(uses.generation, count));
    column(&["mapped", ""], |uses| size(uses.mapped));
    column(&["touched", ""], |uses| known(uses.touched, size));
    column(&["counted", "ago"], |uses| known(uses.touched_ms_ago, millis));
    column(&["allocations", ""], |uses| known(uses.allocations, count));
    column(&["requested", ""], |uses| known(uses.bytes_requested, size));
    column(&["frees", ""], |uses| known(uses.frees, count));
    column(&["failures", ""], |uses| known(uses.failures, count));
    section(out, "Use of the zone by process");
    table.print(out);
}

/// The slots of a mapping by size. Sizes that were never requested are left out.
fn by_slot(out: &mut String, mapping: &SharedZone, slots: &Slots) {
    let asked: Vec<_> = slots.0.iter().filter(|(_, slot)| slot.reqs > 0).collect();
    let mut table = TextTable::default();
    table.name(&["slots of"], asked.iter().map(|(size, _)| format!("{size} B")).collect());
    let mut column = |head: &str, figure: fn(&SlotClass) -> u64| {
        let cells = asked.iter().map(|(_, slot)| count(figure(slot))).collect();
        table.column(Align::Right, &[head], cells);
    };
    column("used", |slot| slot.used);
    column("free", |slot| slot.free);
    column("requests", |slot| slot.reqs);
    column("failures", |slot| slot.fails);
    section(out, &format!("Slots, generation {}", known(mapping.generation, count)));
    table.print(out);
    if let Some(pages) = mapping.pages {
        let line = format!(
            "Pages: {} of {} used; {} free in {} runs, the longest of {}; {} requests of whole \
             pages, {} failed",
            pages.used,
            pages.total,
            pages.free,
            known(pages.free_runs, count),
            known(pages.largest_free_run, count),
            known(pages.reqs, count),
            known(pages.fails, count),
        );
        paragraph(out, "", &line);
    }
}

//! The summary that fits a screen: the largest entries first, and how to see the rest.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use super::pools::name;
use super::zones::failures;
use super::{age, ages, once, section, systems};
use crate::format::ascii;
use crate::render::layout::{paragraph, Align, TextTable};
use crate::render::order;
use crate::render::units::{count, known, share, size};
use crate::render::who::label;
use crate::report::merge::lua::by_subsystem;
use crate::report::merge::pools::sum_by_creator;
use crate::report::model::lua::{LuaVms, Subsystem};
use crate::report::model::pools::Pools;
use crate::report::model::zones::SharedZone;
use crate::report::model::{Category, Process, Server};

/// The maximum number of rows of processes.
const PROCESSES: usize = 8;
/// The maximum number of rows of creators.
const CREATORS: usize = 5;
/// The maximum number of rows of zones.
const ZONES: usize = 6;

/// The maximum number of listed processes whose figures are old.
const AGES: usize = 2;

/// The maximum number of processes in the table of breakdowns.
const COLUMNS: usize = 5;

pub(super) fn summary(out: &mut String, server: &Server) {
    totals(out, server);
    super::container::line(out, server);
    let places = order::processes(&server.processes);
    let processes: Vec<&Process> =
        places.iter().filter_map(|place| server.processes.get(*place)).collect();
    table(out, &processes);
    breakdowns(out, &processes);
    super::mappings::lines(out, &processes);
    zones(out, server);
    lua(out, server);
    pools(out, server);
    super::peak::worst(out, &processes);
    more(out, server);
}

fn totals(out: &mut String, server: &Server) {
    let totals = server.totals;
    let line = format!(
        "{} processes: {} in RAM, each page once; {} summed up; shared memory {}; swap {}",
        totals.processes,
        once(&totals),
        known(totals.resident, size),
        known(totals.shared_memory, size),
        known(totals.swap, size),
    );
    paragraph(out, "", &line);
}

/// ` (7 more)` if some entries are not shown, else nothing.
fn rest(all: usize, shown: usize) -> String {
    match all.saturating_sub(shown) {
        0 => String::new(),
        more => format!(" ({more} more)"),
    }
}

fn table(out: &mut String, all: &[&Process]) {
    let processes = all.get(..PROCESSES).unwrap_or(all);
    out.push('\n');
    systems(&format!("process{}", rest(all.len(), PROCESSES)), processes).print(out);
    let old = processes.iter().copied().filter(|p| age(p).is_some()).take(AGES);
    ages(out, old);
}

/// Resident bytes by category: of all processes that have a breakdown, and of the largest ones.
fn breakdowns(out: &mut String, processes: &[&Process]) {
    let all: Vec<_> = processes.iter().filter_map(|p| Some((*p, p.breakdown.as_ref()?))).collect();
    if all.is_empty() {
        return;
    }
    let of = |place: usize, category: Category| {
        let region = all.get(place).and_then(|(_, breakdown)| breakdown.get(category));
        region.map(|region| region.resident)
    };
    let sum = |category: Category| {
        let regions = (0..all.len()).filter_map(|place| of(place, category));
        let mut regions = regions.peekable();
        regions.peek()?;
        Some(regions.try_fold(0u64, |sum, bytes| sum.checked_add(bytes?)))
    };
    let mut sums: Vec<(Category, Option<u64>)> =
        Category::ALL.into_iter().filter_map(|category| Some((category, sum(category)?))).collect();
    sums.sort_by_key(|(_, bytes)| Reverse(*bytes));
    let total = |bytes: Vec<Option<u64>>| {
        bytes.into_iter().try_fold(0u64, |sum, bytes| sum.checked_add(bytes?))
    };
    let with_shares = |figures: Vec<Option<Option<u64>>>| {
        let total = total(figures.iter().flatten().copied().collect());
        let mut cells: Vec<_> = figures
            .into_iter()
            .map(|figure| match figure {
                Some(figure) => {
                    let share = figure.zip(total).map(|(part, whole)| share(part, whole));
                    format!("{} {:>4}", known(figure, size), share.unwrap_or_default())
                }
                None => "-     ".to_owned(),
            })
            .collect();
        cells.push(format!("{}     ", known(total, size)));
        cells
    };
    let mut table = TextTable::default();
    let names = sums.iter().map(|(category, _)| category.name()).chain(["total"]);
    table.name(&["resident", ""], names.map(str::to_owned).collect());
    let columns = all.len().min(COLUMNS);
    // With a single process, the sum would repeat its figures.
    if all.len() > 1 {
        let cells = with_shares(sums.iter().map(|(_, bytes)| Some(*bytes)).collect());
        table.column(Align::Right, &[&format!("all {}", all.len()), "     "], cells);
    }
    for (place, (process, _)) in all.iter().enumerate().take(columns) {
        let cells = with_shares(sums.iter().map(|(category, _)| of(place, *category)).collect());
        let pid = format!("pid {}", process.pid);
        table.column(Align::Right, &[&label(process), &pid], cells);
    }
    out.push('\n');
    table.print_first(out);
}

/// The zones that need attention, then the largest; the module's own are left out where that makes
/// room for others.
fn zones(out: &mut String, server: &Server) {
    let mut zones = order::mappings(server);
    if zones.is_empty() {
        return;
    }
    let all = zones.len();
    zones.truncate(ZONES);
    let mut table = TextTable::default();
    let names = zones.iter().map(|(name, zone)| match zone.current {
        true => ascii(name),
        false => format!("{} (old)", ascii(name)),
    });
    table.name(&[&format!("zone{}", rest(all, ZONES))], names.collect());
    let mut column = |head: &str, cells: Vec<String>| table.column(Align::Right, &[head], cells);
    // A mapping without a slab pool has none of these figures, and nothing to look for.
    let of_pool = |zone: &SharedZone, figure: String| match order::has_no_pool(zone) {
        true => "-".to_owned(),
        false => figure,
    };
    let cells = |cell: fn(&SharedZone) -> String| {
        zones.iter().map(|(_, zone)| of_pool(zone, cell(zone))).collect()
    };
    column("failures", cells(failures));
    column("full", cells(|z| known(z.fill_percent, |p| format!("{p}%"))));
    column("in use", cells(|z| known(z.in_use, size)));
    column("size", zones.iter().map(|(_, z)| size(z.size)).collect());
    column("resident", zones.iter().map(|(_, z)| known(z.resident, size)).collect());
    column("largest alloc", cells(|z| known(z.largest_allocation, size)));
    out.push('\n');
    table.print(out);
}

/// The Lua VMs of all processes, by subsystem.
fn lua(out: &mut String, server: &Server) {
    let all: Vec<(Subsystem, Vec<&LuaVms>)> = by_subsystem(&server.processes);
    if all.is_empty() {
        return;
    }
    let mut table = TextTable::default();
    table.name(&["lua"], all.iter().map(|(subsystem, _)| subsystem.name().to_owned()).collect());
    let mut column = |head: &str, show: fn(u64) -> String, figure: fn(&LuaVms) -> Option<u64>| {
        let cells = all.iter().map(|(_, vms)| {
            let sum = vms.iter().try_fold(0u64, |sum, lua| sum.checked_add(figure(lua)?));
            known(sum, show)
        });
        table.column(Align::Right, &[head], cells.collect());
    };
    column("processes", count, |_| Some(1));
    column("VMs", count, |lua| Some(lua.vms));
    column("GC count", size, |lua| lua.gc_bytes);
    column("in use", size, |lua| Some(lua.allocated_bytes));
    column("free", size, |lua| lua.free_bytes);
    column("resident", size, |lua| lua.resident);
    column("reserved", size, |lua| lua.reserved);
    column("failures", count, |lua| Some(lua.failures));
    out.push('\n');
    table.print(out);
}

fn pools(out: &mut String, server: &Server) {
    let pools: Vec<&Pools> = server.processes.iter().filter_map(|p| p.pools.as_ref()).collect();
    let mut creators = sum_by_creator(&pools);
    if creators.is_empty() {
        return;
    }
    let all = creators.len();
    creators.truncate(CREATORS);
    let mut table = TextTable::default();
    table.name(
        &[&format!("pools by creator{}", rest(all, CREATORS))],
        creators.iter().map(name).collect(),
    );
    table.column(Align::Left, &["kind"], creators.iter().map(|c| c.kind.to_string()).collect());
    let mut column = |head: &str, cells: Vec<String>| table.column(Align::Right, &[head], cells);
    column("blocks", creators.iter().map(|c| size(c.bytes)).collect());
    column("unused", creators.iter().map(|c| size(c.unused)).collect());
    column("large", creators.iter().map(|c| size(c.large_bytes)).collect());
    column("live", creators.iter().map(|c| count(c.live)).collect());
    column("created", creators.iter().map(|c| count(c.created)).collect());
    out.push('\n');
    table.print(out);
}

/// How to see what the summary leaves out.
fn more(out: &mut String, server: &Server) {
    let notes: usize = server.processes.iter().map(|p| p.notes.len()).sum();
    let notes =
        if notes > 0 { format!("{notes} notes: &fields=processes.notes; ") } else { String::new() };
    section(out, "More");
    let text = format!(
        "{notes}one process: &pid=PID; one zone: &zone=NAME; everything: \
         &fields=processes,shared_zones,totals"
    );
    paragraph(out, "", &text);
}

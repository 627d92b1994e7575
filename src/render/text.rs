//! The reply as tables for a terminal: printable ASCII, 100 columns.
//!
//! `?` is an unknown figure; the notes have the reason. `-` is a category that a process does not
//! have.
#![forbid(unsafe_code)]

pub(super) mod container;
mod health;
mod lua;
mod mappings;
mod matrix;
mod peak;
pub(super) mod pools;
mod summary;
mod zones;

use super::layout::{paragraph, Align, TextTable};
use super::units::{count, known, micros, millis, seconds, size};
use super::who::{groups, label, product, ProcessNames};
use crate::format::ascii;
use crate::report::fields::Fields;
use crate::report::model::{HookState, Hooks, Process, ProcessState, Server, System, Text, Totals};

/// The maximum number of listed executables and libraries.
const OBJECTS: usize = 6;

/// Writes the reply as text: a summary that fits a screen, or all of the requested fields, or
/// everything about the process or zone that the reply was narrowed to.
pub fn text(server: &Server, fields: Option<&Fields>) -> String {
    let is_all = u64::try_from(server.processes.len()) == Ok(server.totals.processes);
    let wants = |top: &str, below: &str| fields.is_none_or(|fields| fields.has_below(top, below));
    let mut out = String::new();
    match fields {
        None => health::lead(&mut out, &server.health),
        Some(fields) if fields.has("health") => {
            health::in_full(&mut out, &server.health);
            if fields.has_only("health") {
                return out;
            }
            out.push('\n');
        }
        Some(_) => {}
    }
    header(&mut out, server);
    if server.narrowed {
        zones::zones(&mut out, server);
    } else if fields.is_none() && is_all {
        summary::summary(&mut out, server);
    } else {
        sections(&mut out, server, |below| wants("processes", below));
        if wants("shared_zones", "pages") && is_all {
            zones::zones(&mut out, server);
        }
        if fields.is_none_or(|fields| fields.has("totals")) {
            out.push('\n');
            totals(&mut out, server);
        }
        if is_all && fields.is_some_and(|fields| fields.has("container")) {
            out.push('\n');
            container::line(&mut out, server);
        }
        if wants("processes", "notes") {
            notes(&mut out, &server.processes);
        }
    }
    out
}

/// The sections of the requested parts of the processes.
fn sections(out: &mut String, server: &Server, wants: impl Fn(&str) -> bool) {
    let names = ProcessNames::new(&server.processes);
    if ["system", "state", "generation", "uptime_s", "age_ms"].into_iter().any(&wants) {
        processes(out, &server.processes);
    }
    if wants("breakdown") {
        matrix::breakdowns(out, &server.processes);
    }
    if wants("mappings") {
        mappings::mappings(out, &server.processes);
    }
    if wants("mappings") || wants("limits") || wants("system") {
        mappings::lines(out, &server.processes.iter().collect::<Vec<_>>());
    }
    if wants("allocator") {
        allocators(out, &server.processes);
    }
    if wants("pools") {
        pools::pools(out, &server.processes);
    }
    if wants("peak") {
        peak::peaks(out, &server.processes);
    }
    if wants("lua") {
        lua::vms(out, &server.processes, &names);
    }
    if wants("stacks") || wants("self") {
        threads(out, &server.processes);
    }
    let mut lines = String::new();
    let say = |p: &Process| p.text.clone().filter(|_| wants("text")).into_iter().collect();
    for (text, who) in groups(&server.processes, say) {
        paragraph(&mut lines, "", &code(&names.list(&who), &text));
    }
    let say = |p: &Process| p.hooks.clone().filter(|_| wants("hooks")).into_iter().collect();
    for (hooks, who) in groups(&server.processes, say) {
        paragraph(&mut lines, "", &hooked(&names.list(&who), &hooks));
    }
    if !lines.is_empty() {
        out.push('\n');
        out.push_str(&lines);
    }
}

fn notes(out: &mut String, processes: &[Process]) {
    let names = ProcessNames::new(processes);
    let notes = groups(processes, |p| p.notes.clone());
    if !notes.is_empty() {
        section(out, "Notes");
    }
    for (note, who) in notes {
        paragraph(out, "- ", &format!("{}: {}", names.list(&who), ascii(&note.to_string())));
    }
}

/// The title of a section.
fn section(out: &mut String, title: &str) {
    out.push('\n');
    out.push_str(title);
    out.push('\n');
}

fn header(out: &mut String, server: &Server) {
    let worker = server.answered_by.id.map(|id| format!("worker {id}, ")).unwrap_or_default();
    let line = format!(
        "{}, memstat {}, {}, answered by {worker}pid {} in {}",
        ascii(&product(server)),
        ascii(&server.module),
        ascii(&server.time),
        server.answered_by.pid,
        micros(server.elapsed_us),
    );
    paragraph(out, "", &line);
}

fn processes(out: &mut String, processes: &[Process]) {
    section(out, "Processes (resident = anon + file + shmem)");
    let processes: Vec<_> = processes.iter().collect();
    let mut table = systems("process", &processes);
    let peaks = processes.iter().map(|p| known(p.system.peak_resident, size)).collect();
    table.column(Align::Right, &["peak"], peaks);
    table.print(out);
    ages(out, processes.into_iter());
}

/// The table of the kernel's figures of processes. `head` is the head of the column of names.
fn systems(head: &str, processes: &[&Process]) -> TextTable {
    let cells = |cell: fn(&Process) -> String| processes.iter().map(|p| cell(p)).collect();
    let mut table = TextTable::default();
    table.name(&[head], cells(label));
    table.name(&["pid"], cells(|p| p.pid.to_string()));
    table.column(Align::Right, &["gen"], cells(|p| known(p.generation, count)));
    table.column(Align::Left, &["state"], cells(|p| state(p.state).to_owned()));
    table.column(Align::Right, &["uptime"], cells(|p| known(p.uptime_s, seconds)));
    type SystemFigure = fn(&System) -> Option<u64>;
    let figures: [(&str, SystemFigure); 6] = [
        ("resident", |s| s.resident),
        ("anon", |s| s.resident_anon),
        ("file", |s| s.resident_file),
        ("shmem", |s| s.resident_shmem),
        ("swap", |s| s.swap),
        ("virtual", |s| s.virtual_),
    ];
    for (head, figure) in figures {
        let cells = processes.iter().map(|p| known(figure(&p.system), size)).collect();
        table.column(Align::Right, &[head], cells);
    }
    table
}

/// The age from which an allocator's figures are marked as old, in milliseconds.
const OLD_MS: u64 = 5000;

fn is_old(process: &Process) -> bool {
    process.state == ProcessState::Unresponsive || process.age_ms >= 1000
}

/// Which figures of a process are old, and their age in milliseconds; `None` if they are new.
fn age(process: &Process) -> Option<(&'static str, u64)> {
    if is_old(process) {
        return Some(("Figures", process.age_ms));
    }
    process.allocator_age_ms().filter(|ms| *ms >= OLD_MS).map(|ms| ("Allocator's figures", ms))
}

/// Prints the ages of old figures.
fn ages<'a>(out: &mut String, processes: impl Iterator<Item = &'a Process>) {
    for (process, (what, ms)) in processes.filter_map(|p| Some((p, age(p)?))) {
        let (who, pid, age) = (label(process), process.pid, millis(ms));
        paragraph(out, "", &format!("{what} of {who} pid {pid} are {age} old"));
    }
}

fn state(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Active => "active",
        ProcessState::ShuttingDown => "shutting_down",
        ProcessState::Unresponsive => "unresponsive",
    }
}

/// A table whose rows are named by process.
fn named(processes: &[&Process]) -> TextTable {
    let mut table = TextTable::default();
    table.name(&["process"], processes.iter().map(|p| label(p)).collect());
    table.name(&["pid"], processes.iter().map(|p| p.pid.to_string()).collect());
    table
}

fn allocators(out: &mut String, processes: &[Process]) {
    let (processes, allocators): (Vec<_>, Vec<_>) =
        processes.iter().filter_map(|p| Some((p, p.allocator.as_ref()?))).unzip();
    if processes.is_empty() {
        return;
    }
    let mut table = named(&processes);
    let names = allocators.iter().map(|a| {
        let version = known(a.version.as_deref(), ascii);
        format!("{} {version}", ascii(&a.name))
    });
    table.column(Align::Left, &["allocator"], names.collect());
    let mut sizes = |head: &str, figures: Vec<Option<u64>>| {
        let cells = figures.into_iter().map(|figure| known(figure, size)).collect();
        table.column(Align::Right, &[head], cells);
    };
    sizes("reserved", allocators.iter().map(|a| a.reserved).collect());
    sizes("in use", allocators.iter().map(|a| a.in_use).collect());
    sizes("free", allocators.iter().map(|a| a.free).collect());
    sizes("pools", allocators.iter().map(|a| a.pools).collect());
    sizes("arrays", allocators.iter().map(|a| Some(a.arrays())).collect());
    sizes("mmapped", allocators.iter().map(|a| a.mmapped).collect());
    let arenas = allocators.iter().map(|a| known(a.arenas, count)).collect();
    table.column(Align::Right, &["arenas"], arenas);
    let ages = processes.iter().map(|p| known(p.allocator_age_ms(), millis)).collect();
    table.column(Align::Right, &["measured", "ago"], ages);
    section(out, "Allocator");
    table.print(out);
}

fn threads(out: &mut String, processes: &[Process]) {
    let processes: Vec<_> =
        processes.iter().filter(|p| p.stacks.is_some() || p.own.is_some()).collect();
    if processes.is_empty() {
        return;
    }
    let mut table = named(&processes);
    let mut column = |head: &[&str], cell: fn(&Process) -> String| {
        table.column(Align::Right, head, processes.iter().map(|p| cell(p)).collect());
    };
    column(&["threads", ""], |p| known(p.stacks.and_then(|s| s.threads), count));
    column(&["stacks", "reserved"], |p| known(p.stacks.and_then(|s| s.reserved), size));
    column(&["stacks", "resident"], |p| known(p.stacks.and_then(|s| s.resident), size));
    column(&["module", "memory"], |p| known(p.own.map(|o| o.bytes), size));
    column(&["module", "snapshot"], |p| known(p.own.map(|o| o.snapshot_us), micros));
    column(&["longest", "slice"], |p| known(p.own.map(|o| o.longest_slice_us), micros));
    section(out, "Threads, their stacks, and the cost of the module itself");
    table.print(out);
}

/// One sentence about the code of some processes, the largest objects first.
fn code(who: &str, text: &Text) -> String {
    let mut objects: Vec<_> = text.objects.iter().collect();
    objects.sort_by_key(|object| std::cmp::Reverse(object.bytes));
    let mut listed: Vec<_> = objects
        .iter()
        .take(OBJECTS)
        .map(|object| format!("{} {}", ascii(&object.path), size(object.bytes)))
        .collect();
    let rest = objects.get(OBJECTS..).unwrap_or_default();
    if !rest.is_empty() {
        let bytes = rest.iter().fold(0u64, |sum, object| sum.saturating_add(object.bytes));
        listed.push(format!("{} more {}", rest.len(), size(bytes)));
    }
    format!("Code of {who}: {}: {}", size(text.bytes), listed.join(", "))
}

/// One sentence about the hooks of some processes.
fn hooked(who: &str, hooks: &Hooks) -> String {
    let text = |(name, state): (&str, &HookState)| format!("{name} {}", ascii(&state.to_string()));
    let texts: Vec<_> = hooks.named().map(text).collect();
    format!("Hooks in {who}: {}", texts.join("; "))
}

/// The memory that the server takes, each page counted once. The error is shown if it exceeds 1 %.
fn once(totals: &Totals) -> String {
    let unique = known(totals.resident_unique, size);
    let counts = |error: &u64| totals.resident_unique.is_some_and(|bytes| *error > bytes / 100);
    match totals.resident_unique_error.filter(counts) {
        Some(error) => format!("{unique} (within {})", size(error)),
        None => unique,
    }
}

fn totals(out: &mut String, server: &Server) {
    let totals = server.totals;
    let line = format!(
        "Total of {} processes: {} in RAM, each page once; {} summed up (shared pages count in \
         each process); swap {}; nginx shared memory resident {}",
        totals.processes,
        once(&totals),
        known(totals.resident, size),
        known(totals.swap, size),
        known(totals.shared_memory, size),
    );
    paragraph(out, "", &line);
}

#[cfg(test)]
mod tests;

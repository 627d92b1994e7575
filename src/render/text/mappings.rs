//! The largest mappings without an owner, and other notable facts about a process's memory.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::section;
use crate::format::ascii;
use crate::render::layout::{paragraph, Align, TextTable};
use crate::render::units::{count, known, size};
use crate::render::who::{groups, ProcessNames};
use crate::report::model::mappings::Mapping;
use crate::report::model::{Category, Process};

/// The maximum number of mappings of one entry in the summary.
const LARGEST: usize = 3;
/// The fewest bytes that the summary mentions.
const LARGE: u64 = 8 << 20;
/// The summary mentions only what has at least 1/PART of the process's resident bytes.
const PART: u64 = 10;
/// The maximum number of rows of the table.
const ROWS: usize = 20;
/// The maximum length of a path in the table, in bytes.
const COLUMN: usize = 24;

/// Prints notable facts about the processes, one line each.
pub(super) fn lines(out: &mut String, processes: &[&Process]) {
    let processes: Vec<Process> = processes.iter().map(|p| (*p).clone()).collect();
    let names = ProcessNames::new(&processes);
    let mut lines = String::new();
    for (line, who) in groups(&processes, notable) {
        paragraph(&mut lines, "", &format!("{}: {line}", names.list(&who)));
    }
    if !lines.is_empty() {
        out.push('\n');
        out.push_str(&lines);
    }
}

fn notable(process: &Process) -> Vec<String> {
    let system = &process.system;
    let matters = |bytes: u64| {
        let part = system.resident.unwrap_or(0).checked_div(PART).unwrap_or(0);
        bytes >= LARGE && bytes >= part
    };
    let mut lines = Vec::new();
    if let Some(bytes) = system.hugetlb.filter(|bytes| *bytes > 0) {
        lines.push(format!("{} of huge pages (HugetlbPages) in addition to resident", size(bytes)));
    }
    if let Some(bytes) = system.resident_huge.filter(|bytes| matters(*bytes)) {
        lines.push(format!("{} of resident are in transparent huge pages", size(bytes)));
    }
    for (name, limit) in process.limits.iter().flat_map(|limits| &limits.0) {
        let used = match name.as_str() {
            "address_space" => system.virtual_,
            "data" => system.data,
            _ => None,
        };
        // A limit is mentioned once half of it is used.
        if let Some(used) = used.filter(|used| *used >= limit / 2) {
            let (used, limit) = (size(used), size(*limit));
            lines.push(format!("{used} of the limit {} {limit} are used", ascii(name)));
        }
    }
    let lists = process
        .mappings
        .iter()
        .flat_map(|m| [(Category::FileOther, &m.file_other), (Category::AnonOther, &m.anon_other)]);
    for (category, mappings) in lists {
        let large = mappings.iter().filter(|m| m.resident.is_some_and(matters)).take(LARGEST);
        let large: Vec<_> =
            large.map(|m| format!("{} {}", name(m), known(m.resident, size))).collect();
        if !large.is_empty() {
            lines.push(format!("in {}: {}", category.name(), large.join(", ")));
        }
    }
    lines
}

/// The path and the permissions of a mapping.
fn name(mapping: &Mapping) -> String {
    format!("{} {}", path(mapping), ascii(&mapping.perms))
}

fn path(mapping: &Mapping) -> String {
    mapping.path.as_deref().map_or_else(|| "(no name)".to_owned(), ascii)
}

/// The end of a path, if it is too long for its column.
fn end(path: &str) -> String {
    let cut = path.len().saturating_sub(COLUMN);
    match path.get(cut.saturating_add(1)..).filter(|_| cut > 0) {
        Some(end) => format!("~{end}"),
        None => path.to_owned(),
    }
}

/// The sum of mappings with the same path and permissions.
#[derive(Default)]
struct MappingSum {
    processes: u64,
    mappings: u64,
    reserved: u64,
    resident: Option<u64>,
}

/// Prints the mappings of all processes together, the largest first.
pub(super) fn mappings(out: &mut String, processes: &[Process]) {
    let mut sums: BTreeMap<(Category, String, &str), MappingSum> = BTreeMap::new();
    for process in processes {
        let mut of_this = BTreeSet::new();
        for (category, mappings) in lists(process) {
            for mapping in mappings {
                let key = (category, path(mapping), mapping.perms.as_str());
                let is_first = of_this.insert(key.clone());
                let first = || MappingSum { resident: Some(0), ..MappingSum::default() };
                let sum = sums.entry(key).or_insert_with(first);
                sum.processes = sum.processes.saturating_add(u64::from(is_first));
                sum.mappings = sum.mappings.saturating_add(mapping.count);
                sum.reserved = sum.reserved.saturating_add(mapping.reserved);
                let both = sum.resident.zip(mapping.resident);
                sum.resident = both.map(|(a, b)| a.saturating_add(b));
            }
        }
    }
    if sums.is_empty() {
        return;
    }
    let mut rows: Vec<_> = sums.into_iter().collect();
    rows.sort_by_key(|(_, sum)| Reverse((sum.resident, sum.reserved)));
    rows.truncate(ROWS);
    let mut table = TextTable::default();
    table.name(&["entry"], rows.iter().map(|((c, ..), _)| c.name().to_owned()).collect());
    type Show = fn(&MappingSum) -> String;
    let figures: [(&str, Show); 4] = [
        ("processes", |s| count(s.processes)),
        ("mappings", |s| count(s.mappings)),
        ("reserved", |s| size(s.reserved)),
        ("resident", |s| known(s.resident, size)),
    ];
    for (head, cell) in figures {
        table.column(Align::Right, &[head], rows.iter().map(|(_, s)| cell(s)).collect());
    }
    let perms = rows.iter().map(|((_, _, perms), _)| ascii(perms)).collect();
    table.column(Align::Left, &["perms"], perms);
    let paths = rows.iter().map(|((_, path, _), _)| end(path)).collect();
    table.column(Align::Left, &["path"], paths);
    section(out, "Largest mappings of file_other and anon_other, of these processes together");
    table.print(out);
}

/// The mappings of a process, by entry.
fn lists(process: &Process) -> impl Iterator<Item = (Category, &Vec<Mapping>)> {
    process
        .mappings
        .iter()
        .flat_map(|m| [(Category::FileOther, &m.file_other), (Category::AnonOther, &m.anon_other)])
}

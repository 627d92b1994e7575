//! The details of each process.
#![forbid(unsafe_code)]

use maud::{html, Markup};

use super::cells::{known, noted, visible, Cell, HtmlTable, Row};
use super::section::{Section, ROWS};
use super::{lua, mappings, overview, peak, pools, zones};
use crate::render::units::{count, micros, millis, seconds, size};
use crate::render::who::{self, label};
use crate::report::model::{Hooks, Process, Server};

/// The maximum number of listed executables and libraries.
const OBJECTS: usize = 8;

/// The maximum number of processes with details on one page. With more of them, each process has
/// its own page, so that a page takes no more than a millisecond or two of the event loop.
const IN_FULL: usize = 8;

/// The section of all processes. The details of each are closed, unless it is the only process.
pub(super) fn processes(server: &Server) -> Section {
    let alone = server.processes.len() == 1;
    let in_full = server.processes.len() <= IN_FULL;
    let markup = html! {
        section #details aria-labelledby="details-title" {
            h2 #details-title { "Each process" }
            (ROWS)
        }
    };
    Section::with_rows(markup, move |server, place| {
        let process = server.processes.get(place)?;
        Some(if in_full { details(process, alone) } else { link(process) })
    })
}

/// The link to the page of a process.
fn link(process: &Process) -> Markup {
    let (name, page) = (label(process), format!("?pid={}", process.pid));
    html! {
        p.process id=(format!("p{}", process.pid)) data-key=(process.pid)
            data-label=(format!("{name}, pid {}", process.pid)) data-page=(page) {
            a href=(page) { (name) } " " small { "pid " (process.pid) }
            span.summary { (known(process.system.resident, size)) " " (overview::state(process)) }
        }
    }
}

fn details(process: &Process, open: bool) -> Markup {
    let name = label(process);
    html! {
        details id=(format!("p{}", process.pid)) data-key=(process.pid) open[open]
            data-label=(format!("{name}, pid {}", process.pid))
            data-history=[process.system.resident] {
            summary {
                h3 { (name) " " small { "pid " (process.pid) } }
                span.summary { (known(process.system.resident, size)) " " (overview::state(process)) }
            }
            div.body {
                (overview::pies(process).markup())
                (facts(process))
                (mappings::process(process))
                (allocator(process))
                (lua::process(process))
                (pools::process(process))
                (peak::process(process))
                (uses(process))
                (code(process))
                @if !process.notes.is_empty() {
                    ul.notes { @for note in &process.notes { li { (noted(note)) } } }
                }
            }
        }
    }
}

fn facts(process: &Process) -> Markup {
    let generation = known(process.generation, count);
    let stacks = process.stacks;
    let facts: Vec<(&str, Markup)> = vec![
        ("Kind", html! { (who::kind(process.kind)) }),
        ("Generation", generation),
        ("Uptime", known(process.uptime_s, seconds)),
        ("Figures", html! { (millis(process.age_ms)) " old" }),
        ("Private", known(process.system.resident_private, size)),
        ("Shared", known(process.system.resident_shared, size)),
        ("Peak resident", known(process.system.peak_resident, size)),
        ("Page tables", known(process.system.page_tables, size)),
        ("Huge pages (HugetlbPages)", known(process.system.hugetlb, size)),
        ("Transparent huge pages", known(process.system.resident_huge, size)),
        ("Threads", known(stacks.and_then(|s| s.threads), count)),
        ("Module", known(process.own.map(|own| own.bytes), size)),
        ("Last snapshot", known(process.own.map(|own| own.snapshot_us), micros)),
    ];
    let hooks = process.hooks.iter().flat_map(Hooks::named);
    html! {
        dl.facts {
            @for (name, figure) in facts { div { dt { (name) } dd { (figure) } } }
            @for (name, limit) in process.limits.iter().flat_map(|limits| &limits.0) {
                div { dt { "Limit " (visible(name)) } dd { (size(*limit)) } }
            }
            @for (name, hook) in hooks {
                div { dt { "Hook " (name) } dd { bdi { (visible(&hook.to_string())) } } }
            }
        }
    }
}

fn allocator(process: &Process) -> Markup {
    let rows = process.allocator.iter().map(|a| {
        let version = a.version.as_deref().unwrap_or("?");
        Row(
            "allocator".to_owned(),
            vec![
                Cell::Name(format!("{} {version}", a.name)),
                Cell::Size(a.reserved),
                Cell::Size(a.in_use),
                Cell::Size(a.free),
                Cell::Size(a.pools),
                Cell::Size(Some(a.arrays())),
                Cell::Size(a.mmapped),
                Cell::Count(a.arenas),
                Cell::Millis(process.allocator_age_ms()),
            ],
        )
    });
    HtmlTable {
        id: format!("allocator-{}", process.pid),
        caption: "Allocator",
        heads: &[
            "Allocator",
            "Reserved",
            "In use",
            "Free",
            "Of pools",
            "Of arrays",
            "Mmapped",
            "Arenas",
            "Measured ago",
        ],
        rows: rows.collect(),
    }
    .markup()
}

fn uses(process: &Process) -> Markup {
    let uses = process.zones.iter().flat_map(|zones| &zones.0);
    let rows = uses.map(|(name, uses)| {
        let mut cells = vec![Cell::Name(name.clone()), Cell::Size(Some(uses.mapped))];
        cells.extend(zones::figures(uses));
        Row(format!("{name} {:?} {}", uses.generation, uses.mapped), cells)
    });
    HtmlTable {
        id: format!("zones-{}", process.pid),
        caption: "Use of the shared memory zones",
        heads: &["Zone", "Mapped", "Touched", "Allocations", "Requested", "Frees", "Failures"],
        rows: rows.collect(),
    }
    .markup()
}

fn code(process: &Process) -> Markup {
    let mut objects: Vec<_> = process.text.iter().flat_map(|text| &text.objects).collect();
    objects.sort_by_key(|object| std::cmp::Reverse(object.bytes));
    let rows = objects.iter().take(OBJECTS).map(|object| {
        let cells = vec![Cell::Name(object.path.clone()), Cell::Size(Some(object.bytes))];
        Row(object.path.clone(), cells)
    });
    let table = HtmlTable {
        id: format!("code-{}", process.pid),
        caption: "Code of the largest executables and libraries",
        heads: &["Object", "Code"],
        rows: rows.collect(),
    };
    html! {
        (table.markup())
        @if objects.len() > OBJECTS { p.more { (objects.len() - OBJECTS) " more in JSON." } }
    }
}

//! Tables of Lua VMs: of all processes, and of one process.
#![forbid(unsafe_code)]

use maud::{html, Markup};

use super::cells::{Cell, HtmlTable, Row};
use super::section::{Section, ROWS};
use crate::render::who;
use crate::report::model::lua::LuaVms;
use crate::report::model::{Process, Server};

/// The VMs of all processes.
pub(super) fn server(server: &Server) -> Section {
    let all = || server.processes.iter().flat_map(rows);
    let Some(first) = all().next() else { return Section::none() };
    let heads: Vec<_> = ["Process", "Pid"].into_iter().chain(HEADS).collect();
    let id = "table-lua".to_owned();
    let table = HtmlTable { id, caption: CAPTION, heads: &heads, rows: Vec::new() };
    let markup = html! {
        section #lua aria-labelledby="lua-title" {
            h2 #lua-title { "Lua" }
            (table.around(&first, all().nth(1).is_some(), ROWS))
        }
    };
    Section::with_rows(markup, |server, place| {
        let process = server.processes.get(place)?;
        Some(html! { @for row in rows(process) { (row.markup()) } })
    })
}

/// The rows of a process in the table of all processes.
fn rows(process: &Process) -> impl Iterator<Item = Row> + '_ {
    process.lua.iter().flatten().map(|lua| {
        let mut cells =
            vec![Cell::Text(who::label(process)), Cell::Count(u64::try_from(process.pid).ok())];
        cells.extend(figures(lua));
        Row(format!("{} {}", process.pid, lua.subsystem.name()), cells)
    })
}

/// The VMs of a process.
pub(super) fn process(process: &Process) -> Markup {
    let rows = process.lua.iter().flatten();
    HtmlTable {
        id: format!("lua-{}", process.pid),
        caption: CAPTION,
        heads: &HEADS,
        rows: rows.map(|lua| Row(lua.subsystem.name().to_owned(), figures(lua))).collect(),
    }
    .markup()
}

const CAPTION: &str = "Lua VMs; reserved is the sum of in use, overhead and free";

const HEADS: [&str; 11] = [
    "Of",
    "VMs",
    "GC count",
    "In use",
    "Overhead",
    "Free",
    "Largest free",
    "Reserved",
    "Resident",
    "Peak of a VM",
    "Failures",
];

fn figures(lua: &LuaVms) -> Vec<Cell> {
    vec![
        Cell::Text(lua.subsystem.name().to_owned()),
        Cell::Count(Some(lua.vms)),
        Cell::Size(lua.gc_bytes),
        Cell::Size(Some(lua.allocated_bytes)),
        Cell::Size(lua.overhead_bytes),
        Cell::Size(lua.free_bytes),
        Cell::Size(lua.largest_free),
        Cell::Size(lua.reserved),
        Cell::Size(lua.resident),
        Cell::Size(Some(lua.peak_bytes)),
        Cell::Count(Some(lua.failures)),
    ]
}

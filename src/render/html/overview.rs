//! The overview of the whole server and the table of its processes.
#![forbid(unsafe_code)]

use maud::{html, Markup};

use super::cells::{known, visible, Cell, HtmlTable, Row};
use super::palette::{class, label};
use super::pie::{bar, legend, pie, total, Slice};
use super::section::{Section, ROWS};
use crate::render::text::container;
use crate::render::units::{millis, size};
use crate::render::{order, who};
use crate::report::model::{Category, Process, ProcessState, Region, Server, System};

type RegionFigure = fn(Region) -> Option<u64>;

const RESIDENT: RegionFigure = |region| region.resident;
const RESERVED: RegionFigure = |region| region.reserved;

/// The pies of a process or of the server, side by side, with their legends.
pub(super) struct Pies {
    pub(super) system: Vec<Slice>,
    pub(super) resident: Vec<Slice>,
    pub(super) reserved: Vec<Slice>,
}

impl Pies {
    pub(super) fn markup(&self) -> Markup {
        html! {
            div.pies {
                figure.system {
                    figcaption { "System level" }
                    div.chart {
                        (pie("virtual memory as the kernel counts it", "always", &self.system))
                        (legend("Kernel's figures", &[("Bytes", &self.system)]))
                    }
                }
                @if !self.resident.is_empty() {
                    figure.application {
                        figcaption { "Application level" }
                        div.chart {
                            (pie("resident memory by category", "view-resident", &self.resident))
                            (pie("reserved memory by category", "view-reserved", &self.reserved))
                            (legend("Categories", &[
                                ("Resident", &self.resident), ("Reserved", &self.reserved),
                            ]))
                        }
                    }
                }
            }
        }
    }
}

/// The slices of virtual memory: resident, swapped out, and the rest.
pub(super) fn system_slices(system: &System) -> Vec<Slice> {
    let System { virtual_, resident, swap, .. } = *system;
    let used = resident.zip(swap).and_then(|(resident, swap)| resident.checked_add(swap));
    let rest = virtual_.zip(used).and_then(|(all, used)| all.checked_sub(used));
    let slice = |name, label, class, bytes| Slice { name, label, class, bytes };
    vec![
        slice("resident", "resident", "sys-resident", resident),
        slice("swap", "swapped out", "sys-swap", swap),
        slice("rest", "rest of virtual", "sys-rest", rest),
    ]
}

/// The slices of a process's breakdown.
pub(super) fn slices(process: &Process, figure: RegionFigure) -> Vec<Slice> {
    let breakdown = process.breakdown.iter().flat_map(|breakdown| &breakdown.0);
    breakdown.map(|(category, region)| slice(*category, figure(*region))).collect()
}

fn slice(category: Category, bytes: Option<u64>) -> Slice {
    Slice { name: category.name(), label: label(category), class: class(category), bytes }
}

/// The pies of a process.
pub(super) fn pies(process: &Process) -> Pies {
    Pies {
        system: system_slices(&process.system),
        resident: slices(process, RESIDENT),
        reserved: slices(process, RESERVED),
    }
}

/// The slices of all breakdowns added up, with shared memory counted once. The memory of processes
/// without a breakdown, `unattributed`, is a slice of its own.
fn all_slices(
    server: &Server,
    figure: RegionFigure,
    shared: Option<u64>,
    unattributed: fn(&System) -> Option<u64>,
) -> Vec<Slice> {
    let breakdowns = || server.processes.iter().filter_map(|process| process.breakdown.as_ref());
    let mut slices = Vec::new();
    for category in Category::ALL {
        let mut regions = breakdowns().filter_map(|breakdown| breakdown.get(category)).peekable();
        if regions.peek().is_none() {
            continue;
        }
        let sum = regions.try_fold(0u64, |sum, region| sum.checked_add(figure(region)?));
        let sum = if category == Category::NginxShm { shared } else { sum };
        slices.push(slice(category, sum));
    }
    let mut others = server.processes.iter().filter(|p| p.breakdown.is_none()).peekable();
    if others.peek().is_some() {
        let bytes = others.try_fold(0u64, |sum, p| sum.checked_add(unattributed(&p.system)?));
        let (name, label, class) =
            ("unattributed", "processes without a breakdown", "unattributed");
        slices.push(Slice { name, label, class, bytes });
    }
    slices
}

/// The virtual bytes of all mappings of zones, each counted once.
fn shared_reserved(server: &Server) -> Option<u64> {
    let mappings = server.shared_zones.0.iter().flat_map(|(_, zone)| zone.all());
    mappings
        .map(|m| m.size.checked_next_multiple_of(server.page_size))
        .try_fold(0u64, |sum, bytes| sum.checked_add(bytes?))
}

/// The section of the whole server.
pub(super) fn server(server: &Server) -> Markup {
    let sum = |figure: fn(&System) -> Option<u64>| {
        server.processes.iter().try_fold(0u64, |sum, p| sum.checked_add(figure(&p.system)?))
    };
    let totals = server.totals;
    let system = System {
        virtual_: sum(|s| s.virtual_),
        resident: totals.resident,
        swap: totals.swap,
        ..System::default()
    };
    let private = |s: &System| s.resident?.checked_sub(s.resident_shmem?);
    let pies = Pies {
        system: system_slices(&system),
        resident: all_slices(server, RESIDENT, totals.shared_memory, private),
        reserved: all_slices(server, RESERVED, shared_reserved(server), |s| s.virtual_),
    };
    let tile = |name: &str, figure: Option<u64>, note: &str| {
        html! { div.tile { dt { (name) } dd { (known(figure, size)) } dd.note { (note) } } }
    };
    let limited = server.container.as_ref().filter(|container| container.is_limited());
    // Pages of zones stay in RAM when the processes that touched them have ended.
    let once = match totals.resident_unique > totals.resident {
        true => "each page once, with shared memory that no process maps at the moment",
        false => "each page once",
    };
    html! {
        section #server data-label="Whole server" data-history=[totals.resident_unique.or(totals.resident)] aria-labelledby="server-title" {
            h2 #server-title { "Whole server" }
            dl.tiles {
                (tile("In RAM", totals.resident_unique, once))
                (tile("Summed up", totals.resident, "sum of the processes, as in top"))
                (tile("Shared memory", totals.shared_memory, "of nginx, in RAM"))
                (tile("Swap", totals.swap, "swapped out"))
                @if let Some(container) = limited {
                    (tile("Container", container.usage, &container::limit(container)))
                }
            }
            @if let Some(container) = limited {
                p #container { "Container: " (container::what(container)) "." }
            }
            (pies.markup())
            p.more {
                "Virtual and resident add up the processes as top shows them. Application level counts \
                 nginx's shared memory once for all of them."
            }
        }
    }
}

/// The section with the table of processes.
pub(super) fn processes(server: &Server) -> Section {
    let processes = &server.processes;
    let longest = |figure: RegionFigure| {
        let totals = processes.iter().filter_map(|p| total(&slices(p, figure)));
        totals.max().unwrap_or(0)
    };
    let longest = (longest(RESIDENT), longest(RESERVED));
    let table = HtmlTable {
        id: "table-processes".to_owned(),
        caption: "Processes and their resident memory by category",
        heads: &[
            "Process",
            "Resident",
            "By category",
            "Pid",
            "Gen.",
            "State",
            "Uptime",
            "Anon",
            "File",
            "Shmem",
            "Swap",
            "Peak",
            "Virtual",
        ],
        rows: Vec::new(),
    };
    let places = order::processes(processes);
    let first = processes.first().map(|process| row(process, longest));
    let markup = html! {
        section #processes aria-labelledby="processes-title" {
            h2 #processes-title { "Processes" }
            @if let Some(first) = first { (table.around(&first, processes.len() > 1, ROWS)) }
        }
    };
    Section::with_rows(markup, move |server, place| {
        Some(row(server.processes.get(*places.get(place)?)?, longest).markup())
    })
}

/// The row of a process. `longest` is the number of bytes, resident and reserved, that fill the
/// width of a bar.
fn row(p: &Process, longest: (u64, u64)) -> Row {
    let name = who::label(p);
    let bars = html! {
        (bar(&format!("resident memory of {name} by category"), "view-resident", &slices(p, RESIDENT), longest.0))
        (bar(&format!("reserved memory of {name} by category"), "view-reserved", &slices(p, RESERVED), longest.1))
    };
    let order = p.id.map_or(u64::MAX, u64::from);
    let System {
        virtual_,
        resident,
        resident_anon,
        resident_file,
        resident_shmem,
        swap,
        peak_resident,
        ..
    } = p.system;
    Row(
        p.pid.to_string(),
        vec![
            Cell::Markup(html! { a href=(format!("#p{}", p.pid)) { (name) } }, order),
            Cell::Size(resident),
            Cell::Markup(bars, resident.unwrap_or(0)),
            Cell::Count(u64::try_from(p.pid).ok()),
            Cell::Count(p.generation),
            Cell::Markup(state(p), u64::from(p.state != ProcessState::Active)),
            Cell::Seconds(p.uptime_s),
            Cell::Size(resident_anon),
            Cell::Size(resident_file),
            Cell::Size(resident_shmem),
            Cell::Size(swap),
            Cell::Size(peak_resident),
            Cell::Size(virtual_),
        ],
    )
}

/// The state of a process, and the age of its figures if they are not new.
pub(super) fn state(process: &Process) -> Markup {
    let (class, name) = match process.state {
        ProcessState::Active => ("good", "active"),
        ProcessState::ShuttingDown => ("warn", "shutting down"),
        ProcessState::Unresponsive => ("bad", "unresponsive"),
    };
    html! {
        span.state.(class) { (name) }
        @if process.state == ProcessState::Unresponsive || process.age_ms >= 1000 {
            " " small { (visible(&millis(process.age_ms))) " old" }
        }
    }
}

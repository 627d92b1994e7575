//! Tables of the shared memory zones: how full they are, and, if only one is shown, its slots.
#![forbid(unsafe_code)]

use maud::{html, Markup};

use super::cells::{unknown, visible, Cell, Row, Table};
use super::section::{Section, ROWS};
use crate::render::units::count;
use crate::render::who;
use crate::report::model::zones::{SharedZone, ZoneUse};
use crate::report::model::{Process, Server};

/// The section of all zones.
pub(super) fn zones(server: &Server) -> Section {
    let mappings = || {
        let zones = server.shared_zones.0.iter();
        zones.flat_map(|(name, zone)| zone.all().map(move |mapping| (name, mapping)))
    };
    let Some((name, zone)) = mappings().next() else { return Section::none() };
    let table = Table {
        id: "table-zones".to_owned(),
        caption:
            "Zones; the bar shows the bytes in use and the resident bytes as parts of the size",
        heads: &[
            "Zone",
            "Owner",
            "Gen.",
            "Full",
            "In use",
            "Resident",
            "Size",
            "Free pages",
            "Largest allocation",
            "Failures",
        ],
        rows: Vec::new(),
    };
    let notes = mappings().flat_map(|(name, zone)| zone.notes.iter().map(move |note| (name, note)));
    let markup = html! {
        section #zones aria-labelledby="zones-title" {
            h2 #zones-title { "Shared memory zones" }
            (table.around(&row(name, zone), mappings().nth(1).is_some(), ROWS))
            @if server.narrowed {
                (uses(&server.processes))
                @for (_, zone) in mappings() { (slots(zone)) }
            }
            ul.notes {
                @for (name, note) in notes {
                    li { strong { bdi { (visible(name)) } ": " } bdi { (visible(note)) } }
                }
            }
        }
    };
    Section::with_rows(markup, |server, place| {
        let (name, zone) = server.shared_zones.0.get(place)?;
        Some(html! { @for mapping in zone.all() { (row(name, mapping).markup()) } })
    })
}

fn row(name: &str, zone: &SharedZone) -> Row {
    let generation = zone.generation.map_or_else(|| "?".to_owned(), count);
    Row(
        format!("{name} {generation} {}", zone.size),
        vec![
            Cell::Name(name.to_owned()),
            Cell::Name(zone.owner.clone().unwrap_or_else(|| "?".to_owned())),
            Cell::Text(if zone.current { generation } else { format!("{generation}, old") }),
            Cell::Markup(fill(zone), zone.fill_percent.unwrap_or(0)),
            Cell::Size(zone.in_use),
            Cell::Size(zone.resident),
            Cell::Size(Some(zone.size)),
            Cell::Count(zone.pages.map(|pages| pages.free)),
            Cell::Size(zone.largest_allocation),
            failures(zone),
        ],
    )
}

/// The number of failed allocations, or its lower bound.
fn failures(zone: &SharedZone) -> Cell {
    match (zone.failures, zone.failures_at_least.filter(|failures| *failures > 0)) {
        (None, Some(failures)) => Cell::AtLeast(failures),
        (failures, _) => Cell::Count(failures),
    }
}

/// A bar that shows the bytes in use and the resident bytes as parts of the zone's size.
fn fill(zone: &SharedZone) -> Markup {
    let share = |bytes: Option<u64>| {
        let share = bytes.unwrap_or(0) as f64 * 100.0 / zone.size.max(1) as f64;
        format!("{:.2}", share.min(100.0))
    };
    let (class, title) = match zone.fill_percent {
        Some(percent) if percent >= 90 && !is_own(zone) => {
            ("fill full", format!("{percent}% full"))
        }
        Some(percent) => ("fill", format!("{percent}% full")),
        None => ("fill", "fill level unknown".to_owned()),
    };
    html! {
        svg class=(class) viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label=(title) {
            rect.size width="100" height="10" {}
            rect.loaded width=(share(zone.resident)) height="10" {}
            rect.used width=(share(zone.in_use)) height="10" {}
        }
        span.percent { @match zone.fill_percent { Some(p) => { (p) "%" }, None => { (unknown()) } } }
    }
}

/// Whether it is the module's own zone, all of which is always in use.
fn is_own(zone: &SharedZone) -> bool {
    zone.owner.as_deref() == Some("ngx_http_memstat_module")
}

/// The use of the requested zone by each process.
fn uses(processes: &[Process]) -> Markup {
    let all = processes.iter().flat_map(|p| p.zones.iter().map(move |zones| (p, zones)));
    let all = all.flat_map(|(p, zones)| zones.0.iter().map(move |(_, uses)| (p, uses)));
    let rows = all.map(|(p, uses)| {
        let mut cells = vec![
            Cell::Text(who::label(p)),
            Cell::Count(u64::try_from(p.pid).ok()),
            Cell::Count(uses.generation),
        ];
        cells.extend(figures(uses));
        Row(p.pid.to_string(), cells)
    });
    Table {
        id: "table-uses".to_owned(),
        caption: "Use of the zone by each process",
        heads: &[
            "Process",
            "Pid",
            "Gen.",
            "Touched",
            "Allocations",
            "Requested",
            "Frees",
            "Failures",
        ],
        rows: rows.collect(),
    }
    .markup()
}

/// The last five columns: the bytes that a process has touched, and its calls.
pub(super) fn figures(uses: &ZoneUse) -> [Cell; 5] {
    [
        Cell::Size(uses.touched),
        Cell::Count(uses.allocations),
        Cell::Size(uses.bytes_requested),
        Cell::Count(uses.frees),
        Cell::Count(uses.failures),
    ]
}

fn slots(zone: &SharedZone) -> Markup {
    let slots = zone.slots.iter().flat_map(|slots| &slots.0);
    let rows = slots.map(|(size, slot)| {
        Row(
            size.clone(),
            vec![
                Cell::Count(size.parse().ok()),
                Cell::Count(Some(slot.used)),
                Cell::Count(Some(slot.free)),
                Cell::Count(Some(slot.reqs)),
                Cell::Count(Some(slot.fails)),
            ],
        )
    });
    let generation = zone.generation.map_or_else(|| "?".to_owned(), count);
    Table {
        id: format!("slots-{generation}"),
        caption: &format!("Slots by size in bytes, generation {generation}"),
        heads: &["Size", "Used", "Free", "Requests", "Failures"],
        rows: rows.collect(),
    }
    .markup()
}

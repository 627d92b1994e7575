//! Tables of the shared memory zones: how full they are, and, if only one is shown, its slots.
#![forbid(unsafe_code)]

use maud::{html, Markup};

use super::cells::{noted, unknown, visible, Cell, HtmlTable, Row};
use super::section::{Section, ROWS};
use crate::render::units::count;
use crate::render::{order, who};
use crate::report::model::zones::{SharedZone, ZoneUse};
use crate::report::model::{Process, Server};

/// The section of all zones.
pub(super) fn zones(server: &Server) -> Section {
    let mappings = order::mappings(server);
    let Some((name, zone)) = mappings.first() else { return Section::none() };
    let table = HtmlTable {
        id: "table-zones".to_owned(),
        caption:
            "Zones; the bar shows the bytes in use and the resident bytes as parts of the size",
        heads: &[
            "Zone",
            "Full",
            "Failures",
            "In use",
            "Size",
            "Resident",
            "Largest allocation",
            "Free pages",
            "Owner",
            "Gen.",
        ],
        rows: Vec::new(),
    };
    let notes = mappings.iter().filter(|(_, zone)| !order::has_no_pool(zone));
    let notes = notes.flat_map(|(name, zone)| zone.notes.iter().map(move |note| (name, note)));
    let markup = html! {
        section #zones aria-labelledby="zones-title" {
            h2 #zones-title { "Shared memory zones" }
            (table.around(&row(name, zone), mappings.len() > 1, ROWS))
            @if server.narrowed {
                (uses(&server.processes))
                @for (_, zone) in &mappings { (slots(zone)) }
            }
            ul.notes {
                @for (name, note) in notes {
                    li { strong { bdi { (visible(name)) } ": " } (noted(note)) }
                }
            }
        }
    };
    let places = order::zones(server);
    Section::with_rows(markup, move |server, place| {
        let (name, zone) = server.shared_zones.0.get(*places.get(place)?)?;
        Some(html! { @for mapping in zone.all() { (row(name, mapping).markup()) } })
    })
}

fn row(name: &str, zone: &SharedZone) -> Row {
    let generation = zone.generation.map_or_else(|| "?".to_owned(), count);
    let key = format!("{name} {generation} {}", zone.size);
    let generation = match zone.generation {
        None if order::has_no_pool(zone) => "-".to_owned(),
        _ if zone.current => generation,
        _ => format!("{generation}, old"),
    };
    let of_pool = |cell: Cell| if order::has_no_pool(zone) { Cell::None } else { cell };
    Row(
        key,
        vec![
            Cell::Name(name.to_owned()),
            of_pool(Cell::Markup(fill(zone), zone.fill_percent.unwrap_or(0))),
            of_pool(failures(zone)),
            of_pool(Cell::Size(zone.in_use)),
            Cell::Size(Some(zone.size)),
            Cell::Size(zone.resident),
            of_pool(Cell::Size(zone.largest_allocation)),
            of_pool(Cell::Count(zone.pages.map(|pages| pages.free))),
            match &zone.owner {
                None if order::has_no_pool(zone) => Cell::Text("-".to_owned()),
                owner => Cell::Name(owner.clone().unwrap_or_else(|| "?".to_owned())),
            },
            Cell::Text(generation),
        ],
    )
}

/// The number of failed allocations, or its lower bound.
fn failures(zone: &SharedZone) -> Cell {
    match (zone.failures, zone.failures_at_least.filter(|failures| *failures > 0)) {
        (None, Some(failures)) => Cell::AtLeast(failures),
        (Some(failures), _) if failures > 0 => Cell::Alarm(failures),
        (failures, _) => Cell::Count(failures),
    }
}

/// A bar that shows the bytes in use and the resident bytes as parts of the zone's size.
fn fill(zone: &SharedZone) -> Markup {
    let share = |bytes: Option<u64>| {
        let share = bytes.unwrap_or(0) as f64 * 100.0 / zone.size.max(1) as f64;
        format!("{:.2}", share.min(100.0))
    };
    let class = if order::is_pressed(zone) { "fill full" } else { "fill" };
    let title = match zone.fill_percent {
        Some(percent) => format!("{percent}% full"),
        None => "fill level unknown".to_owned(),
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
    HtmlTable {
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
    HtmlTable {
        id: format!("slots-{generation}"),
        caption: &format!("Slots by size in bytes, generation {generation}"),
        heads: &["Size", "Used", "Free", "Requests", "Failures"],
        rows: rows.collect(),
    }
    .markup()
}

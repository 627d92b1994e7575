//! The worst moment of a process.
#![forbid(unsafe_code)]

use maud::{html, Markup};

use super::cells::{known, visible, Cell, HtmlTable, Row};
use crate::render::text::pools::shared_name;
use crate::render::units::size;
use crate::report::model::peak::PeakPools;
use crate::report::model::Process;

/// That of a process.
pub(super) fn process(process: &Process) -> Markup {
    let Some(peak) = &process.peak else { return html! {} };
    html! {
        dl.facts {
            div { dt { "Worst moment" } dd { (visible(&peak.at.text())) } }
            div { dt { "Resident then" } dd { (size(peak.resident)) } }
            div { dt { "Unseen above it" } dd { (known(peak.unseen, size)) } }
            @if let Some(pools) = &peak.pools {
                div { dt { "Pools then" } dd { (size(pools.size())) } }
                @if let Some(server) = &pools.server {
                    div { dt { "Server that held most" } dd {
                        bdi { (visible(&shared_name(&server.name))) } " " (size(server.sum().size()))
                    } }
                }
                @if let Some(request) = &pools.request {
                    div { dt { "Largest request" } dd {
                        @if let Some(of) = request.request.as_ref().or(request.server_name.as_ref()) {
                            bdi { (visible(of)) } " "
                        }
                        (size(request.bytes.saturating_add(request.large_bytes)))
                    } }
                }
            }
        }
        @if let Some(pools) = &peak.pools { (creators(process.pid, pools)) }
    }
}

fn creators(pid: i32, pools: &PeakPools) -> Markup {
    let rows = pools.by_creator.iter().map(|c| {
        let name = c.creator.clone().unwrap_or_else(|| format!("? in {}", c.object));
        Row(
            format!("{name} {}", c.kind),
            vec![
                Cell::Name(name),
                Cell::Text(c.kind.to_string()),
                Cell::Count(Some(c.live)),
                Cell::Size(Some(c.bytes)),
                Cell::Size(Some(c.large_bytes)),
            ],
        )
    });
    HtmlTable {
        id: format!("peak-{pid}"),
        caption: "Pools by creator at the worst moment",
        heads: &["Creator", "Kind", "Live", "Blocks", "Large"],
        rows: rows.collect(),
    }
    .markup()
}

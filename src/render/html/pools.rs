//! nginx's pools: of all processes together, and of one.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use maud::{html, Markup};

use super::cells::{Cell, Row, Table};
use crate::render::who;
use crate::report::model::Process;
use crate::report::pools::{sum_by_creator, Creator, LivePool, Pools};

/// Rows of a table of creators, and of single pools.
const CREATORS: usize = 10;
const POOLS: usize = 5;

/// The pools of all processes.
pub(super) fn server(processes: &[Process]) -> Markup {
    let pools: Vec<&Pools> = processes.iter().filter_map(|p| p.pools.as_ref()).collect();
    let mut oldest: Vec<(&Process, &LivePool)> = processes
        .iter()
        .filter_map(|p| Some((p, p.pools.as_ref()?)))
        .flat_map(|(p, pools)| pools.oldest.iter().map(move |pool| (p, pool)))
        .collect();
    oldest.sort_by_key(|(_, pool)| Reverse(pool.age_s));
    oldest.truncate(2 * POOLS);
    html! {
        @if !pools.is_empty() {
            section #pools aria-labelledby="pools-title" {
                h2 #pools-title { "Pools" }
                (creators("pools-creators".to_owned(), "Pools of all processes by creator", sum_by_creator(&pools)))
                (single("pools-oldest".to_owned(), "Oldest pools, those of cycles apart", &oldest))
            }
        }
    }
}

/// The pools of a process.
pub(super) fn process(process: &Process) -> Markup {
    let Some(pools) = &process.pools else { return html! {} };
    let list = |kind: &str, caption: &str, pools: &[LivePool]| {
        let pools: Vec<_> = pools.iter().take(POOLS).map(|pool| (process, pool)).collect();
        single(format!("{kind}-{}", process.pid), caption, &pools)
    };
    html! {
        (creators(format!("creators-{}", process.pid), "Pools by creator", sum_by_creator(&[pools])))
        (list("cycles", "Pools of cycles", &pools.cycles))
        (list("oldest", "Oldest pools", &pools.oldest))
        (list("largest", "Largest pools", &pools.largest))
    }
}

fn creators(id: String, caption: &str, creators: Vec<Creator>) -> Markup {
    let rest = creators.len().saturating_sub(CREATORS);
    let rows = creators.iter().take(CREATORS).map(|c| {
        let name = c.creator.clone().unwrap_or_else(|| format!("? in {}", c.object));
        let key = format!("{name} {}", c.kind);
        Row(
            key,
            vec![
                Cell::Name(name),
                Cell::Text(c.kind.to_string()),
                Cell::Count(Some(c.live)),
                Cell::Count(Some(c.created)),
                Cell::Size(Some(c.bytes)),
                Cell::Size(Some(c.unused)),
                Cell::Size(Some(c.large_bytes)),
                Cell::Size(Some(c.peak_bytes)),
            ],
        )
    });
    let table = Table {
        id,
        caption,
        heads: &["Creator", "Kind", "Live", "Created", "Blocks", "Unused", "Large", "Largest"],
        rows: rows.collect(),
    };
    html! {
        (table.markup())
        @if rest > 0 { p.more { (rest) " more in JSON." } }
    }
}

fn single(id: String, caption: &str, pools: &[(&Process, &LivePool)]) -> Markup {
    let rows = pools.iter().enumerate().map(|(place, (process, pool))| {
        let of = pool.request.clone().or_else(|| pool.server_name.clone());
        let of =
            of.or_else(|| pool.generation.map(|generation| format!("generation {generation}")));
        Row(
            place.to_string(),
            vec![
                Cell::Text(who::label(process)),
                Cell::Name(pool.creator.clone().unwrap_or_else(|| "?".to_owned())),
                Cell::Text(pool.kind.to_string()),
                Cell::Seconds(Some(pool.age_s)),
                Cell::Size(Some(pool.bytes)),
                Cell::Size(Some(pool.large_bytes)),
                Cell::Name(of.unwrap_or_default()),
            ],
        )
    });
    Table {
        id,
        caption,
        heads: &["Process", "Creator", "Kind", "Age", "Blocks", "Large", "Of"],
        rows: rows.collect(),
    }
    .markup()
}

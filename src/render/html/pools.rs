//! Tables of nginx's pools: of all processes together, and of one process.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use maud::{html, Markup};

use super::cells::{Cell, HtmlTable, Row};
use crate::render::text::pools::{shared_name, RESERVED};
use crate::render::who;
use crate::report::merge::pools::{over, sum_by_creator, Way, WAYS};
use crate::report::model::pools::{Creator, LivePool, Pools};
use crate::report::model::shares::{PoolSum, Shares};
use crate::report::model::Process;

/// The maximum number of rows of a table of creators.
const CREATORS: usize = 10;
/// The maximum number of rows of a table of single pools.
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
                p.more { (RESERVED) }
                (creators("pools-creators".to_owned(), "Pools of all processes by creator", sum_by_creator(&pools)))
                (shared_out("pools", &pools))
                (single("pools-oldest".to_owned(), "Oldest pools, except those of cycles and idle connections", &oldest))
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
        (shared_out(&format!("pools-{}", process.pid), &[pools]))
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
    let table = HtmlTable {
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

/// The tables of pools by server, upstream and listening socket.
fn shared_out(id: &str, pools: &[&Pools]) -> Markup {
    let known = |way: Way| over(pools, way).filter(|shares| !shares.largest.is_empty());
    html! {
        @for way in WAYS {
            @if let Some(shares) = known(way) { (shares_table(id, way.0, &shares)) }
        }
    }
}

fn shares_table(id: &str, way: &str, shares: &Shares) -> Markup {
    let largest = shares.largest.iter().map(|share| (shared_name(&share.name), share.sum()));
    let rest = [("other", shares.other), ("none", shares.none)].map(|(n, sum)| (n.to_owned(), sum));
    let rows = largest.chain(rest.into_iter().filter(|(_, sum)| *sum != PoolSum::default()));
    let rows = rows.map(|(name, sum)| {
        let sizes = [sum.bytes, sum.large_bytes].map(|bytes| Cell::Size(Some(bytes)));
        let cells = [Cell::Name(name.clone()), Cell::Count(Some(sum.live))];
        Row(name, cells.into_iter().chain(sizes).collect())
    });
    let (caption, head) = match way {
        "server" => ("Pools of connections and requests by server", "Server"),
        "upstream" => ("Pools of connections and requests by upstream", "Upstream"),
        _ => ("Pools of connections and requests by listening socket", "Listener"),
    };
    HtmlTable {
        id: format!("{id}-{way}"),
        caption,
        heads: &[head, "Live", "Blocks", "Large"],
        rows: rows.collect(),
    }
    .markup()
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
    HtmlTable {
        id,
        caption,
        heads: &["Process", "Creator", "Kind", "Age", "Blocks", "Large", "Of"],
        rows: rows.collect(),
    }
    .markup()
}

//! Tables of the pools of all processes.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use super::{named, section};
use crate::format::ascii;
use crate::render::layout::{Align, TextTable};
use crate::render::units::{count, known, seconds, size};
use crate::render::who::label;
use crate::report::merge::pools::{over, sum_by_creator, WAYS};
use crate::report::model::pools::{Creator, LivePool, Pools};
use crate::report::model::shares::PoolSum;
use crate::report::model::Process;

/// The maximum number of listed creators.
const CREATORS: usize = 8;
/// The maximum number of single pools in a list.
const POOLS: usize = 5;
/// The maximum number of listed servers, of upstreams, and of listening sockets.
const SHARES: usize = 5;

/// The meaning of the sizes, in the text and on the page.
pub(in crate::render) const RESERVED: &str =
    "Blocks and large allocations as reserved from malloc, used or not.";

/// Prints the pools of each process, those of all processes by creator and by name, and the oldest
/// and largest pools.
pub(super) fn pools(out: &mut String, processes: &[Process]) {
    let (processes, pools): (Vec<&Process>, Vec<&Pools>) =
        processes.iter().filter_map(|p| Some((p, p.pools.as_ref()?))).unzip();
    if processes.is_empty() {
        return;
    }
    section(out, "Pools");
    out.push_str(RESERVED);
    out.push('\n');
    let mut table = named(&processes);
    let mut column = |head: &[&str], cell: fn(&Pools) -> String| {
        table.column(Align::Right, head, pools.iter().map(|p| cell(p)).collect());
    };
    column(&["live"], |p| count(p.live));
    column(&["created"], |p| count(p.created));
    column(&["destroyed"], |p| count(p.destroyed));
    column(&["blocks"], |p| size(p.bytes));
    column(&["unused"], |p| size(p.unused));
    column(&["large"], |p| size(p.large_bytes));
    column(&["idle"], |p| size(p.idle.size()));
    table.print(out);
    creators(out, &pools);
    shared_out(out, &pools);
    type List = fn(&Pools) -> &Vec<LivePool>;
    type Rank = fn(&LivePool) -> (u64, u64);
    let lists: [(&str, List, Rank); 3] = [
        ("Pools of cycles", |p| &p.cycles, |pool| (pool.age_s, held(pool))),
        ("Oldest pools", |p| &p.oldest, |pool| (pool.age_s, held(pool))),
        ("Largest pools", |p| &p.largest, |pool| (held(pool), pool.age_s)),
    ];
    for (title, list, rank) in lists {
        let each = processes.iter().zip(&pools);
        let all = each.flat_map(|(process, pools)| list(pools).iter().map(|pool| (*process, pool)));
        single(out, title, all.collect(), rank);
    }
}

fn held(pool: &LivePool) -> u64 {
    pool.bytes.saturating_add(pool.large_bytes)
}

fn creators(out: &mut String, pools: &[&Pools]) {
    let mut all = sum_by_creator(pools);
    let rest = all.len().saturating_sub(CREATORS);
    all.truncate(CREATORS);
    let mut table = TextTable::default();
    table.name(&["creator"], all.iter().map(name).collect());
    table.column(Align::Left, &["kind"], all.iter().map(|c| c.kind.to_string()).collect());
    let mut column = |head: &[&str], cell: fn(&Creator) -> String| {
        table.column(Align::Right, head, all.iter().map(cell).collect());
    };
    column(&["live"], |c| count(c.live));
    column(&["created"], |c| count(c.created));
    column(&["blocks"], |c| size(c.bytes));
    column(&["unused"], |c| size(c.unused));
    column(&["large"], |c| size(c.large_bytes));
    column(&["largest"], |c| size(c.peak_bytes));
    let more = if rest > 0 { format!(" ({rest} more)") } else { String::new() };
    section(out, &format!("Pools of all processes by creator{more}"));
    table.print(out);
}

/// The pools of connections and requests by server, upstream and listening socket.
fn shared_out(out: &mut String, pools: &[&Pools]) {
    let mut rows: Vec<(&str, String, PoolSum)> = Vec::new();
    for way in WAYS {
        let known = over(pools, way).filter(|shares| !shares.largest.is_empty());
        let Some(mut shares) = known else { continue };
        let rest = shares.largest.split_off(shares.largest.len().min(SHARES));
        rest.iter().for_each(|share| shares.other.add(&share.sum()));
        let named = shares.largest.iter().map(|s| (way.0, shared_name(&s.name), s.sum()));
        let rest = [("other", shares.other), ("none", shares.none)];
        let rest = rest.map(|(name, sum)| (way.0, name.to_owned(), sum));
        rows.extend(named.chain(rest.into_iter().filter(|(.., sum)| *sum != PoolSum::default())));
    }
    if rows.is_empty() {
        return;
    }
    let mut table = TextTable::default();
    table.name(&["by"], rows.iter().map(|(way, ..)| (*way).to_owned()).collect());
    table.name(&["name"], rows.iter().map(|(_, name, _)| ascii(name)).collect());
    let mut column = |head: &[&str], cell: fn(&PoolSum) -> String| {
        table.column(Align::Right, head, rows.iter().map(|(.., sum)| cell(sum)).collect());
    };
    column(&["live"], |sum| count(sum.live));
    column(&["blocks"], |sum| size(sum.bytes));
    column(&["large"], |sum| size(sum.large_bytes));
    section(out, "Pools of connections and requests by server, upstream, listener");
    table.print(out);
}

/// The name of a server, upstream or listening socket.
pub(in crate::render) fn shared_name(name: &str) -> String {
    if name.is_empty() {
        "(no name)".to_owned()
    } else {
        name.to_owned()
    }
}

pub(super) fn name(creator: &Creator) -> String {
    let known = creator.creator.as_deref().map(ascii);
    known.unwrap_or_else(|| format!("? in {}", ascii(&creator.object)))
}

/// The table of the single pools with the highest rank.
fn single(
    out: &mut String,
    title: &str,
    mut pools: Vec<(&Process, &LivePool)>,
    rank: fn(&LivePool) -> (u64, u64),
) {
    pools.sort_by_key(|(_, pool)| Reverse(rank(pool)));
    pools.truncate(POOLS);
    if pools.is_empty() {
        return;
    }
    let cells = |cell: fn(&LivePool) -> String| pools.iter().map(|(_, pool)| cell(pool)).collect();
    let mut table = TextTable::default();
    table.name(&["process"], pools.iter().map(|(process, _)| label(process)).collect());
    table.name(&["pid"], pools.iter().map(|(process, _)| process.pid.to_string()).collect());
    let creator = |pool: &LivePool| known(pool.creator.as_deref(), ascii);
    table.column(Align::Left, &["creator"], cells(creator));
    table.column(Align::Left, &["kind"], cells(|pool| pool.kind.to_string()));
    table.column(Align::Right, &["age"], cells(|pool| seconds(pool.age_s)));
    table.column(Align::Right, &["blocks"], cells(|pool| size(pool.bytes)));
    table.column(Align::Right, &["large"], cells(|pool| size(pool.large_bytes)));
    if pools.iter().any(|(_, pool)| pool.server_name.is_some()) {
        let server = |pool: &LivePool| pool.server_name.as_deref().map(ascii).unwrap_or_default();
        table.column(Align::Left, &["server"], cells(server));
    }
    table.column(Align::Left, &["of"], cells(of));
    section(out, title);
    table.print(out);
}

/// The request line or the configuration to which a pool belongs.
fn of(pool: &LivePool) -> String {
    let generation = pool.generation.map(|generation| format!("generation {generation}"));
    pool.request.as_deref().map(ascii).or(generation).unwrap_or_default()
}

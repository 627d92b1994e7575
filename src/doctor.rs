//! Judges a server: what is wrong, how bad, why, and which directive to change.
//!
//! A rule is a function from the model to verdicts, in a file of its own: the condition, its
//! thresholds as named constants with their reasons, and the words. A rule says nothing where a
//! figure that it needs is unknown. Each verdict gives a ratio and a number of bytes or requests, and
//! a rule is silent on amounts too small to matter.
//!
//! `doc/diagnosis.md` has a section for each rule, under its name.
#![forbid(unsafe_code)]

mod arenas_many;
mod bound;
mod cycle_large;
mod dict_never_frees;
mod heap;
mod heap_free_held;
mod holders;
mod keepalive_idle;
mod lua;
mod lua_footprint;
mod lua_gc_lazy;
mod lua_gc_stopped;
mod lua_near_limit;
mod near_cgroup_limit;
mod old_pools;
mod pool_size_poor;
mod pools_by_slow_clients;
mod reload_headroom;
mod reload_pileup;
mod room;
mod swap;
mod uneven_workers;
mod unexplained;
mod verdict;
mod worker_connections_large;
pub(crate) mod zone;
mod zone_evicts;
mod zone_failing;
mod zone_fragmented;
mod zone_nearly_full;
mod zone_oversized;

use crate::report::model::health::{Health, HealthStatus, Verdict, VerdictStatus};
use crate::report::model::Server;

/// Returns the verdicts of a rule, the worst first.
type Rule = fn(&Server) -> Vec<Verdict>;

/// The rules and their names. Of two verdicts with the same status, that of the earlier rule comes
/// first.
const RULES: &[(&str, Rule)] = &[
    (zone_failing::ID, zone_failing::rule),
    (near_cgroup_limit::ID, near_cgroup_limit::rule),
    (lua_near_limit::ID, lua_near_limit::rule),
    (zone_fragmented::ID, zone_fragmented::rule),
    (zone_nearly_full::ID, zone_nearly_full::rule),
    (lua_gc_stopped::ID, lua_gc_stopped::rule),
    (swap::ID, swap::rule),
    (reload_pileup::ID, reload_pileup::rule),
    (reload_headroom::ID, reload_headroom::rule),
    (old_pools::ID, old_pools::rule),
    (pools_by_slow_clients::ID, pools_by_slow_clients::rule),
    (arenas_many::ID, arenas_many::rule),
    (heap_free_held::ID, heap_free_held::rule),
    (lua_footprint::ID, lua_footprint::rule),
    (keepalive_idle::ID, keepalive_idle::rule),
    (unexplained::ID, unexplained::rule),
    (lua_gc_lazy::ID, lua_gc_lazy::rule),
    (uneven_workers::ID, uneven_workers::rule),
    (cycle_large::ID, cycle_large::rule),
    (worker_connections_large::ID, worker_connections_large::rule),
    (pool_size_poor::ID, pool_size_poor::rule),
    (dict_never_frees::ID, dict_never_frees::rule),
    (zone_evicts::ID, zone_evicts::rule),
    (zone_oversized::ID, zone_oversized::rule),
];

/// Returns the health of the server: all verdicts of all rules, the worst first.
pub fn examine(server: &Server) -> Health {
    let mut verdicts: Vec<Verdict> =
        RULES.iter().flat_map(|(_, rule)| bound::bound(rule(server))).collect();
    verdicts.sort_by_key(|verdict| verdict.status);
    Health { status: status(server, &verdicts), verdicts }
}

/// The worst status of the verdicts. Without one, it is unknown if nothing is known.
fn status(server: &Server, verdicts: &[Verdict]) -> HealthStatus {
    match verdicts.first().map(|verdict| verdict.status) {
        Some(VerdictStatus::Red) => HealthStatus::Red,
        Some(VerdictStatus::Yellow) => HealthStatus::Yellow,
        _ if is_dark(server) => HealthStatus::Unknown,
        _ => HealthStatus::Green,
    }
}

/// Whether too little is known to judge: no process has a breakdown, and no zone has been read.
fn is_dark(server: &Server) -> bool {
    let no_breakdown = server.processes.iter().all(|process| process.breakdown.is_none());
    no_breakdown && server.shared_zones.0.iter().all(|(_, zone)| zone.newest.pages.is_none())
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

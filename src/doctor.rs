//! Judges a server: what is wrong, how bad, why, and which directive to change.
//!
//! A rule is a function from the model to verdicts, in a file of its own: the condition, its
//! thresholds as named constants with their reasons, and the words. A rule says nothing where a
//! figure that it needs is unknown. Each verdict gives a ratio and a number of bytes or requests, and
//! a rule is silent on amounts too small to matter.
//!
//! `doc/diagnosis.md` has a section for each rule, under its name.
#![forbid(unsafe_code)]

mod bound;
mod lua;
mod lua_footprint;
mod lua_gc_stopped;
mod verdict;
pub(crate) mod zone;
mod zone_oversized;

use crate::report::model::health::{Health, HealthStatus, Verdict, VerdictStatus};
use crate::report::model::Server;

/// Returns the verdicts of a rule, the worst first.
type Rule = fn(&Server) -> Vec<Verdict>;

/// The rules and their names. Of two verdicts with the same status, that of the earlier rule comes
/// first.
const RULES: &[(&str, Rule)] = &[
    (lua_gc_stopped::ID, lua_gc_stopped::rule),
    (lua_footprint::ID, lua_footprint::rule),
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

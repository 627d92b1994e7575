//! Much memory has no known owner.
#![forbid(unsafe_code)]

use super::holders::holders;
use super::verdict::{is_share, percent, verdict, Words};
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::{Category, Process, ProcessState, Server};
use crate::report::units::size;

pub(super) const ID: &str = "unexplained";

/// The bytes of a process from which they are worth a word.
const LEAST: u64 = 64 << 20;

/// The percentage of the process's RAM.
const PERCENT: u64 = 25;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let other = holders(server, |process| {
        let bytes = process.breakdown.as_ref()?.get(Category::AnonOther)?.resident?;
        let is_much = bytes >= LEAST && is_share(bytes, process.system.resident?, PERCENT);
        (is_much && process.state != ProcessState::ShuttingDown).then_some(bytes)
    });
    let Some((worst, bytes)) = other.worst() else { return Vec::new() };
    let resident = worst.system.resident.unwrap_or(0);
    let words = Words {
        symptom: format!(
            "{} of anonymous memory in {} have no known owner, {}% of the RAM of {}{}",
            size(bytes),
            other.worst_name(),
            percent(bytes, resident).unwrap_or(0),
            match other.count() {
                1 => "the process".to_owned(),
                _ => format!("the process; so it is in {}", other.names()),
            },
            largest(worst),
        ),
        impact: "The figures cannot tell what it is for, nor whether it grows with requests".to_owned(),
        cause: "A library or a module maps memory itself instead of using malloc".to_owned(),
        action: "Compare anon_other in two answers, and look at mappings.anon_other. It is harmless if it \
                 does not grow"
            .to_owned(),
    };
    vec![verdict(ID, VerdictStatus::Info, words)
        .with("anon_other", bytes)
        .with("resident", resident)
        .with("processes", other.count())
        .about(other.processes())]
}

/// What is known of the largest mapping.
fn largest(process: &Process) -> String {
    let mappings = process.mappings.as_ref().map(|mappings| mappings.anon_other.as_slice());
    let Some(mapping) = mappings.and_then(|mappings| mappings.first()) else {
        return String::new();
    };
    let name = mapping.path.as_deref().unwrap_or("without a name");
    let bytes = mapping.resident.map(|bytes| format!(", {}", size(bytes))).unwrap_or_default();
    format!(". The largest mapping is {name}{bytes}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{healthy, with_workers};
    use crate::report::model::{Breakdown, Region};

    const M: u64 = 1 << 20;

    fn anon_other(bytes: u64, resident: u64) -> Server {
        with_workers(healthy(), |worker| {
            worker.system.resident = Some(resident);
            let region = Region { reserved: Some(bytes), resident: Some(bytes) };
            worker.breakdown = Some(Breakdown(vec![(Category::AnonOther, region)]));
        })
    }

    #[test]
    fn speaks() {
        let found = rule(&anon_other(LEAST, 256 * M));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        let symptom = "64.0 MiB of anonymous memory in worker 0 have no known owner, 25% of the RAM of the \
                       process; so it is in workers 0-1. The largest mapping is without a name, 400 KiB";
        assert_eq!(found[0].symptom, symptom);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&anon_other(LEAST - 1, 100 * M)), [], "small");
        assert_eq!(rule(&anon_other(LEAST, 257 * M)), [], "little of the RAM");
    }
}

//! Bounds the number of verdicts of a rule.
#![forbid(unsafe_code)]

use crate::report::model::health::Verdict;

/// The maximum number of verdicts of one rule. A server may have thousands of zones.
const VERDICTS: usize = 5;

/// The maximum number of names of zones, and of process ids, in a verdict.
const AFFECTED: usize = 32;

/// Returns the first verdicts. The last of them says how many more there are, and names their zones
/// and processes.
pub(super) fn bound(mut verdicts: Vec<Verdict>) -> Vec<Verdict> {
    let rest = verdicts.split_off(VERDICTS.min(verdicts.len()));
    if let Some(last) = verdicts.last_mut().filter(|_| !rest.is_empty()) {
        last.symptom.push_str(&format!("; {} more like this", rest.len()));
        for verdict in rest {
            last.affected.zones.extend(verdict.affected.zones);
            last.affected.processes.extend(verdict.affected.processes);
        }
    }
    for verdict in &mut verdicts {
        verdict.affected.zones.truncate(AFFECTED);
        verdict.affected.processes.truncate(AFFECTED);
    }
    verdicts
}

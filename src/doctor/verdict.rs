//! What the rules have in common: making verdicts, suggesting sizes, judging bytes that are held.
#![forbid(unsafe_code)]

use crate::report::model::health::{Affected, Confidence, Directive, Verdict, VerdictStatus};
use crate::report::model::{Named, Process, Server};

/// The words of a verdict: each a clause or a sentence without its full stop.
pub(super) struct Words {
    /// What is seen.
    pub(super) symptom: String,
    /// What it means.
    pub(super) impact: String,
    /// Why it is so.
    pub(super) cause: String,
    /// What to do.
    pub(super) action: String,
}

/// Returns a verdict that is measured, affects nothing in particular and names no directive.
pub(super) fn verdict(id: &'static str, status: VerdictStatus, words: Words) -> Verdict {
    let Words { symptom, impact, cause, action } = words;
    Verdict {
        id,
        status,
        symptom,
        impact,
        cause,
        action,
        directive: None,
        evidence: Named::default(),
        affected: Affected::default(),
        confidence: Confidence::Measured,
        since: None,
        help: format!("doc/diagnosis.md#{id}"),
    }
}

impl Verdict {
    /// Adds a figure that the verdict rests on; none if it is not known.
    pub(super) fn with(mut self, name: &str, figure: impl Into<Option<u64>>) -> Self {
        if let Some(figure) = figure.into() {
            self.evidence.0.push((name.to_owned(), figure));
        }
        self
    }

    /// Adds a zone that the verdict is about.
    pub(super) fn about_zone(mut self, name: &str) -> Self {
        self.affected.zones.push(name.to_owned());
        self
    }

    /// Adds processes that the verdict is about.
    pub(super) fn about<'a>(mut self, processes: impl IntoIterator<Item = &'a Process>) -> Self {
        self.affected.processes.extend(processes.into_iter().map(|process| process.pid));
        self
    }

    /// Sets the directive to change.
    pub(super) fn change(mut self, directive: impl Into<Option<Directive>>) -> Self {
        self.directive = directive.into();
        self
    }

    /// Marks the verdict as likely instead of proven.
    pub(super) fn estimated(mut self) -> Self {
        self.confidence = Confidence::Estimated;
        self
    }
}

/// Returns a part of a whole in percent, rounded down; `None` if the whole is 0.
pub(super) fn percent(part: u64, whole: u64) -> Option<u64> {
    let percent = u128::from(part).checked_mul(100)?.checked_div(u128::from(whole))?;
    u64::try_from(percent).ok()
}

/// Whether a part is at least this percentage of a whole.
pub(super) fn is_share(part: u64, whole: u64, least: u64) -> bool {
    percent(part, whole).is_some_and(|percent| percent >= least)
}

/// Writes a size as nginx's configuration does: `8m`, `96k`; bytes without a unit if it is no multiple
/// of 1024.
pub(super) fn configured(bytes: u64) -> String {
    const K: u64 = 1024;
    const M: u64 = K * K;
    match bytes {
        bytes if bytes > 0 && bytes % M == 0 => format!("{}m", bytes / M),
        bytes if bytes > 0 && bytes % K == 0 => format!("{}k", bytes / K),
        bytes => bytes.to_string(),
    }
}

/// Returns half as much again as `in_use` bytes, rounded up to a size that is easy to read: 4, 5, 6, 7
/// or 8 times a power of two, at least 32 KiB, the least that nginx accepts for a zone.
pub(super) fn suggested(in_use: u64) -> u64 {
    let wanted = in_use.saturating_add(in_use / 2).max(32 * 1024);
    // The unit is an eighth to a quarter of the wanted size.
    let unit = (wanted.checked_ilog2().unwrap_or(0)).saturating_sub(2);
    let unit = 1u64.checked_shl(unit).unwrap_or(1);
    wanted.checked_next_multiple_of(unit).unwrap_or(wanted)
}

/// Bytes that processes hold and do not use are worth a change from this sum on, in bytes, if they are
/// also half of what the server takes: less is cheaper than the time to look for it.
const HELD: u64 = 256 << 20;

/// The percentage of the server's memory from which held bytes are worth a change.
const HELD_PERCENT: u64 = 50;

/// Returns the bytes of RAM that the server takes.
pub(super) fn takes(server: &Server) -> Option<u64> {
    server.totals.resident_unique.or(server.totals.resident)
}

/// Returns how bad it is that the processes hold this many bytes that they do not use.
pub(super) fn held(bytes: u64, server: &Server) -> VerdictStatus {
    let is_most = takes(server).is_some_and(|takes| is_share(bytes, takes, HELD_PERCENT));
    match bytes >= HELD && is_most {
        true => VerdictStatus::Yellow,
        false => VerdictStatus::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 1024;
    const M: u64 = K * K;

    #[test]
    fn sizes() {
        let table = [(8 * M, "8m"), (96 * K, "96k"), (1537 * K, "1537k"), (1000, "1000"), (0, "0")];
        for (bytes, text) in table {
            assert_eq!(configured(bytes), text);
        }
    }

    #[test]
    fn suggestions() {
        let table = [
            (8 * M, 12 * M),
            (10 * M, 16 * M),
            (0, 32 * K),
            (64 * K, 96 * K),
            (M, 1536 * K),
            (100 * M, 160 * M),
        ];
        for (in_use, size) in table {
            assert_eq!(suggested(in_use), size, "{in_use}");
        }
        for in_use in (1..2_000).map(|n| n * 77_777) {
            let size = suggested(in_use);
            assert!(size >= in_use + in_use / 2 && size <= 2 * in_use.max(32 * K), "{in_use}");
            assert!(size % K == 0, "{in_use} {size}");
        }
        assert_eq!(suggested(u64::MAX), u64::MAX);
    }

    #[test]
    fn percentages() {
        assert_eq!((percent(1, 3), percent(1, 0), percent(u64::MAX, 1)), (Some(33), None, None));
        assert!(is_share(1, 2, 50) && !is_share(49, 100, 50) && !is_share(1, 0, 0));
    }
}

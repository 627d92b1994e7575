//! Verdicts for tests.
#![forbid(unsafe_code)]

use super::Random;
use crate::report::model::health::{
    Affected, Confidence, Directive, Health, HealthStatus, Verdict, VerdictStatus,
};
use crate::report::model::peak::At;
use crate::report::model::Named;

impl Random {
    /// Any verdict, even an impossible one.
    fn verdict(&mut self) -> Verdict {
        Verdict {
            id: ["zone-failing", "swap", "lua-footprint"][self.below(3) as usize],
            status: VerdictStatus::ALL[self.below(3) as usize],
            symptom: self.text(),
            impact: self.text(),
            cause: self.text(),
            action: self.text(),
            directive: self.maybe(|r| Directive {
                name: r.text(),
                context: r.text(),
                now: r.maybe(Self::text),
                suggest: r.text(),
            }),
            evidence: Named(self.names().into_iter().map(|name| (name, self.figure())).collect()),
            affected: Affected {
                zones: self.many(Self::text),
                processes: self.many(|r| (r.bits() as i32).saturating_abs().max(1)),
            },
            confidence: [Confidence::Measured, Confidence::Estimated][self.below(2) as usize],
            since: self.maybe(|r| At(r.below(1 << 42))),
            help: self.text(),
        }
    }

    /// Any health, even an impossible one.
    pub(crate) fn health(&mut self) -> Health {
        let status = HealthStatus::ALL[self.below(4) as usize];
        Health { status, verdicts: self.many(Self::verdict) }
    }
}

/// A server with a zone that fails, and a harmless remark.
pub(crate) fn red() -> Health {
    let red = Verdict {
        id: "zone-failing",
        status: VerdictStatus::Red,
        symptom: "Zone one has no room: 312 of 2344 allocations failed".to_owned(),
        impact: "Requests fail with 503".to_owned(),
        cause: "The zone is full".to_owned(),
        action: "Make the zone larger".to_owned(),
        directive: Some(Directive {
            name: "limit_conn_zone".to_owned(),
            context: "http".to_owned(),
            now: Some("zone=one:10m".to_owned()),
            suggest: "zone=one:16m".to_owned(),
        }),
        evidence: Named(vec![("failures".to_owned(), 312), ("fill_percent".to_owned(), 97)]),
        affected: Affected { zones: vec!["one".to_owned()], processes: Vec::new() },
        confidence: Confidence::Measured,
        since: None,
        help: "doc/diagnosis.md#zone-failing".to_owned(),
    };
    let info = Verdict {
        id: "lua-footprint",
        status: VerdictStatus::Info,
        symptom: "LuaJIT of worker 0 holds 80.0 MiB".to_owned(),
        directive: None,
        affected: Affected { zones: Vec::new(), processes: vec![11] },
        confidence: Confidence::Estimated,
        since: Some(At(1_767_225_600_007)),
        ..red.clone()
    };
    Health { status: HealthStatus::Red, verdicts: vec![red, info] }
}

//! What is wrong with the server: verdicts in words, with the figures that they rest on.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::named::Named;
use super::peak::At;

/// The health of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The worst status of the verdicts.
    pub status: HealthStatus,
    /// The verdicts, the worst first.
    pub verdicts: Vec<Verdict>,
}

/// The status of the whole server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Nothing needs attention.
    Green,
    /// Something should be changed soon.
    Yellow,
    /// Requests fail, or will soon.
    Red,
    /// Too few figures are known to judge.
    #[default]
    Unknown,
}

impl HealthStatus {
    /// All statuses, the harmless one first.
    pub const ALL: [HealthStatus; 4] =
        [HealthStatus::Green, HealthStatus::Yellow, HealthStatus::Red, HealthStatus::Unknown];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            HealthStatus::Green => "green",
            HealthStatus::Yellow => "yellow",
            HealthStatus::Red => "red",
            HealthStatus::Unknown => "unknown",
        }
    }
}

/// The status of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictStatus {
    /// Requests fail, or will soon.
    Red,
    /// Something should be changed soon.
    Yellow,
    /// Harmless, or harmless under a condition that the verdict names.
    Info,
}

impl VerdictStatus {
    /// All statuses, the worst first.
    pub const ALL: [VerdictStatus; 3] =
        [VerdictStatus::Red, VerdictStatus::Yellow, VerdictStatus::Info];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            VerdictStatus::Red => "red",
            VerdictStatus::Yellow => "yellow",
            VerdictStatus::Info => "info",
        }
    }
}

/// One thing that is wrong, or that looks wrong and is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The name of the rule, such as `zone-failing`.
    pub id: &'static str,
    /// How bad it is.
    pub status: VerdictStatus,
    /// What is seen, with a ratio and a number of bytes.
    pub symptom: String,
    /// What it means for requests or for memory.
    pub impact: String,
    /// Why it is so.
    pub cause: String,
    /// What to do.
    pub action: String,
    /// The directive to change; `None` if there is none, or if it is not known.
    pub directive: Option<Directive>,
    /// The figures that the verdict rests on.
    pub evidence: Named<u64>,
    /// The zones and processes that it is about.
    pub affected: Affected,
    /// Whether the figures prove it.
    pub confidence: Confidence,
    /// When it began; `None` if that is not known.
    pub since: Option<At>,
    /// The section that explains the rule: a file of the project and an anchor.
    pub help: String,
}

/// A directive of nginx, and the value that the figures suggest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Directive {
    /// Its name.
    pub name: String,
    /// The block that it belongs to, such as `http`.
    pub context: String,
    /// The value in force, or the part of it that matters; `None` if it is not known.
    pub now: Option<String>,
    /// The suggested value, or the part of it that changes.
    pub suggest: String,
}

/// What a verdict is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// Names of zones.
    pub zones: Vec<String>,
    /// Process ids.
    pub processes: Vec<i32>,
}

/// Whether the figures prove a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// They do.
    Measured,
    /// They only make it likely.
    Estimated,
}

impl Confidence {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Confidence::Measured => "measured",
            Confidence::Estimated => "estimated",
        }
    }
}

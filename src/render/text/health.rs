//! The health of the server: the first lines of the text, or all of it for monitoring.
#![forbid(unsafe_code)]

use crate::format::ascii;
use crate::render::layout::paragraph;
use crate::report::model::health::{Directive, Health, HealthStatus, Verdict, VerdictStatus};

/// The maximum number of verdicts in the first lines.
const VERDICTS: usize = 3;

/// Prints the health in front of the other figures: one line if nothing needs attention.
pub(super) fn lead(out: &mut String, health: &Health) {
    let (pressing, remarks) = split(health);
    let name = health.status.name();
    let more = |count: usize, what: &str| format!("Health: {name}; {count} {what}: &fields=health");
    match (pressing.len(), remarks.len()) {
        (0, 0) if health.status == HealthStatus::Unknown => {
            paragraph(
                out,
                "",
                "Health: unknown, too few figures are known: &fields=processes.notes",
            );
        }
        (0, 0) => paragraph(out, "", &format!("Health: {name}")),
        (0, 1) => paragraph(out, "", &more(1, "remark")),
        (0, remarks) => paragraph(out, "", &more(remarks, "remarks")),
        (1, 0) => paragraph(out, "", &more(1, "verdict")),
        (pressing, remarks) => {
            paragraph(out, "", &more(pressing.saturating_add(remarks), "verdicts"))
        }
    }
    for verdict in pressing.iter().take(VERDICTS) {
        let Verdict { symptom, impact, action, .. } = verdict;
        let change = verdict.directive.as_ref().map(change);
        let change = change.map(|change| format!(". Change: {change}")).unwrap_or_default();
        let text = format!("{}: {symptom}. {impact}. {action}{change}.", verdict.status.name());
        paragraph(out, "- ", &ascii(&text));
    }
    if !pressing.is_empty() {
        out.push('\n');
    }
}

/// Prints everything. The first line is for programs such as Nagios: a word for the status, then the
/// symptoms, in one line of any length.
pub(super) fn in_full(out: &mut String, health: &Health) {
    let word = match health.status {
        HealthStatus::Green => "OK",
        HealthStatus::Yellow => "WARNING",
        HealthStatus::Red => "CRITICAL",
        HealthStatus::Unknown => "UNKNOWN",
    };
    let (pressing, remarks) = split(health);
    let symptoms: Vec<_> = pressing.iter().map(|verdict| verdict.symptom.as_str()).collect();
    let said = match (symptoms.is_empty(), health.status) {
        (false, _) => symptoms.join("; "),
        (true, HealthStatus::Unknown) => "too few figures are known".to_owned(),
        (true, _) if remarks.is_empty() => "nothing needs attention".to_owned(),
        (true, _) => format!("nothing needs attention, remarks: {}", remarks.len()),
    };
    // What is behind a bar would be performance data.
    let line = format!("{word} - {}", ascii(&said).replace('|', "/"));
    out.push_str(line.trim_end());
    out.push('\n');
    for verdict in &health.verdicts {
        out.push('\n');
        one(out, verdict);
    }
}

/// The verdicts that need attention, and the remarks.
fn split(health: &Health) -> (Vec<&Verdict>, Vec<&Verdict>) {
    health.verdicts.iter().partition(|verdict| verdict.status != VerdictStatus::Info)
}

/// Prints all of a verdict.
fn one(out: &mut String, verdict: &Verdict) {
    let Verdict { id, symptom, impact, cause, action, help, .. } = verdict;
    let since = verdict.since.map(|at| format!(", since {}", at.text())).unwrap_or_default();
    let (status, confidence) = (verdict.status.name(), verdict.confidence.name());
    paragraph(out, "", &format!("{id} ({status}, {confidence}{since})"));
    let mut line = |name: &str, text: &str| {
        if !text.is_empty() {
            paragraph(out, "  ", &format!("{name}: {}", ascii(text)));
        }
    };
    line("symptom", symptom);
    line("impact", impact);
    line("cause", cause);
    line("action", action);
    line("change", &verdict.directive.as_ref().map(change).unwrap_or_default());
    let figures: Vec<_> =
        verdict.evidence.0.iter().map(|(name, figure)| format!("{name} {figure}")).collect();
    line("figures", &figures.join(", "));
    line("zones", &verdict.affected.zones.join(", "));
    let pids: Vec<_> = verdict.affected.processes.iter().map(i32::to_string).collect();
    line("processes", &pids.join(", "));
    line("see", help);
}

/// The directive in force and the suggested one.
fn change(directive: &Directive) -> String {
    let Directive { name, context, now, suggest } = directive;
    match now {
        Some(now) => format!("in {context}, \"{name} {now}\" becomes \"{name} {suggest}\""),
        None => format!("in {context}, \"{name} {suggest}\""),
    }
}

#[cfg(test)]
mod tests;

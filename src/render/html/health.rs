//! The health of the server, on top of the page.
#![forbid(unsafe_code)]

use maud::{html, Markup};

use super::cells::visible;
use crate::report::model::health::{Health, HealthStatus, Verdict, VerdictStatus};

/// The section: one line if there is no verdict. A remark has only what to do; text and JSON have all.
pub(super) fn health(health: &Health) -> Markup {
    let class = match health.status {
        HealthStatus::Green => "good",
        HealthStatus::Yellow => "warn",
        HealthStatus::Red => "bad",
        HealthStatus::Unknown => "soft",
    };
    html! {
        section #health .(class) aria-labelledby="health-title" {
            h2 #health-title { "Health: " span.state.(class) { (health.status.name()) } }
            @if health.status == HealthStatus::Unknown {
                p { "Too few figures are known to judge: " a href="#notes" { "see the reasons" } "." }
            }
            @for verdict in &health.verdicts { (one(verdict)) }
        }
    }
}

fn one(verdict: &Verdict) -> Markup {
    let class = match verdict.status {
        VerdictStatus::Red => "bad",
        VerdictStatus::Yellow => "warn",
        VerdictStatus::Info => "soft",
    };
    let row = |name: &str, text: &str| {
        html! { @if !text.is_empty() { div { dt { (name) } dd { (visible(text)) } } } }
    };
    let is_remark = verdict.status == VerdictStatus::Info;
    let figures: Vec<_> =
        verdict.evidence.0.iter().map(|(name, figure)| format!("{name} {figure}")).collect();
    let pids: Vec<_> = verdict.affected.processes.iter().map(i32::to_string).collect();
    html! {
        div.verdict.(class) {
            p.symptom {
                span.state.(class) { (verdict.status.name()) } " "
                strong { (visible(&verdict.symptom)) }
            }
            dl {
                (row("Impact", &verdict.impact))
                @if !is_remark { (row("Cause", &verdict.cause)) }
                (row("Action", &verdict.action))
                @if let Some(directive) = &verdict.directive {
                    div {
                        dt { "Change" }
                        dd {
                            "in " (visible(&directive.context)) ": "
                            @if let Some(now) = &directive.now {
                                code { (visible(&directive.name)) " " (visible(now)) } " to "
                            }
                            code { (visible(&directive.name)) " " (visible(&directive.suggest)) }
                        }
                    }
                }
                @if !is_remark {
                    (row("Figures", &figures.join(", ")))
                    (row("Zones", &verdict.affected.zones.join(", ")))
                    (row("Processes", &pids.join(", ")))
                }
                @if let Some(since) = verdict.since { (row("Since", &since.text())) }
                (row("Rule", &format!("{}, {}; {}", verdict.id, verdict.confidence.name(), verdict.help)))
            }
        }
    }
}

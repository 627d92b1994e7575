//! Metrics of the whole server.
#![forbid(unsafe_code)]

use super::family::{Families, Labels, MetricName};
use super::groups::kind;
use crate::report::model::health::{HealthStatus, Verdict, VerdictStatus};
use crate::report::model::{Process, ProcessState, Server};

const STATES: [(ProcessState, &str); 3] = [
    (ProcessState::Active, "active"),
    (ProcessState::ShuttingDown, "shutting_down"),
    (ProcessState::Unresponsive, "unresponsive"),
];

pub(super) fn server(families: &mut Families, server: &Server) {
    let one = |figure| [(Labels::default(), figure)];
    let mut versions = vec![("nginx", server.nginx.clone()), ("module", server.module.clone())];
    versions.extend(server.product.clone().map(|product| ("product", product)));
    families.number(
        MetricName(
            "build_info",
            "The versions of nginx, of the module, and of the product; always 1.",
        ),
        [(Labels::from(versions), Some(1))],
    );
    families.seconds(
        MetricName("answer_duration", "The time from the arrival of the request to this answer."),
        one_real(seconds_of_us(server.elapsed_us)),
    );
    let mut kinds: Vec<_> = server.processes.iter().map(|process| process.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    families.number(
        MetricName("processes", "Processes by kind and state."),
        kinds.iter().flat_map(|of| {
            STATES.iter().map(move |(state, name)| {
                let is = |p: &&Process| p.kind == *of && p.state == *state;
                let count = server.processes.iter().filter(is).count();
                let labels = [("kind", kind(*of).to_owned()), ("state", (*name).to_owned())];
                (Labels::from(labels), u64::try_from(count).ok())
            })
        }),
    );
    health(families, server);
    let totals = server.totals;
    families.bytes(
        MetricName(
            "server_resident",
            "Resident memory summed over all processes; shared pages count in each of them.",
        ),
        one(totals.resident),
    );
    families.bytes(
        MetricName(
            "server_resident_unique",
            "Memory that the server takes: each page in RAM once.",
        ),
        one(totals.resident_unique),
    );
    families.bytes(
        MetricName(
            "server_resident_unique_error",
            "The largest possible error of server_resident_unique.",
        ),
        one(totals.resident_unique_error),
    );
    families.bytes(
        MetricName("server_swap", "Memory of all processes that is swapped out."),
        one(totals.swap),
    );
    families.bytes(
        MetricName("server_shared_memory", "nginx's shared memory in RAM, counted once."),
        one(totals.shared_memory),
    );
}

/// The values of the status are those of a Nagios plugin.
fn health(families: &mut Families, server: &Server) {
    let value = match server.health.status {
        HealthStatus::Green => 0,
        HealthStatus::Yellow => 1,
        HealthStatus::Red => 2,
        HealthStatus::Unknown => 3,
    };
    families.number(
        MetricName("health", "Health: 0 is green, 1 yellow, 2 red, 3 unknown."),
        [(Labels::default(), Some(value))],
    );
    let of = |verdict: &Verdict| (verdict.id, verdict.status);
    let mut kinds: Vec<_> = server.health.verdicts.iter().map(of).collect();
    kinds.sort_unstable();
    kinds.dedup();
    families.number(
        MetricName("verdict", "Verdicts on the server by rule and status."),
        kinds.into_iter().map(|kind| {
            let count = server.health.verdicts.iter().filter(|verdict| of(verdict) == kind).count();
            let (id, status): (&str, VerdictStatus) = kind;
            let labels = [("id", id.to_owned()), ("status", status.name().to_owned())];
            (Labels::from(labels), u64::try_from(count).ok())
        }),
    );
}

fn one_real(figure: f64) -> [(Labels, Option<f64>); 1] {
    [(Labels::default(), Some(figure))]
}

/// Converts microseconds to seconds.
pub(super) fn seconds_of_us(us: u64) -> f64 {
    us as f64 / 1e6
}

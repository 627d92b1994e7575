#![forbid(unsafe_code)]

use crate::render::layout::WIDTH;
use crate::render::text::text as render;
use crate::report::fields::Fields;
use crate::report::model::health::{Health, HealthStatus};
use crate::report::model::Server;
use crate::report::sample::{self, Random};

/// Checks that a text is printable and that no line is too long.
fn check(shown: &str) {
    for line in shown.lines() {
        assert!(line.len() <= WIDTH, "{line}");
        assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
        assert_eq!(line, line.trim_end());
    }
    assert!(shown.ends_with('\n') && !shown.contains("\n\n\n"), "{shown}");
}

/// The text without `fields=`.
fn summary(server: &Server) -> String {
    let shown = render(server, None);
    check(&shown);
    shown
}

/// The text with only the health.
fn health(server: &Server) -> String {
    render(server, Fields::parse(b"health").ok().as_ref())
}

/// The first line is one for programs, of any length; the others are for people.
fn check_health(shown: &str) -> &str {
    let (first, rest) = shown.split_once('\n').unwrap();
    assert!(first.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'|'), "{first:?}");
    if !rest.is_empty() {
        assert!(rest.starts_with('\n'), "{rest}");
        check(rest);
    }
    first
}

#[test]
fn health_for_monitoring() {
    let mut server = sample::small();
    let shown = health(&server);
    let first = check_health(&shown);
    // Remarks are not among the symptoms.
    assert_eq!(first, "CRITICAL - Zone one has no room: 312 of 2344 allocations failed");
    for line in [
        "zone-failing (red, measured)",
        "  change: in http, \"limit_conn_zone zone=one:10m\" becomes \"limit_conn_zone zone=one:16m\"",
        "  figures: failures 312, fill_percent 97",
        "lua-footprint (info, estimated, since 2026-01-01T00:00:00.007Z)",
        "  processes: 11",
        "  see: doc/diagnosis.md#zone-failing",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    assert!(!shown.contains("nginx 1.22.1"), "{shown}");
    server.health.verdicts.remove(0);
    server.health.status = HealthStatus::Green;
    assert_eq!(check_health(&health(&server)), "OK - nothing needs attention, remarks: 1");
    for (status, line) in [
        (HealthStatus::Green, "OK - nothing needs attention\n"),
        (HealthStatus::Unknown, "UNKNOWN - too few figures are known\n"),
    ] {
        server.health = Health { status, verdicts: Vec::new() };
        assert_eq!(health(&server), line);
    }
    let mut random = Random::new(8);
    for _ in 0..1_000 {
        server.health = random.health();
        check_health(&health(&server));
        check(&render(&server, None));
    }
}

/// With other fields, the health comes first, and only if it is requested.
#[test]
fn health_among_others() {
    let server = sample::small();
    let shown = render(&server, Fields::parse(b"totals,health.status").ok().as_ref());
    assert!(
        shown.starts_with("CRITICAL - ") && shown.contains("\nTotal of 7 processes"),
        "{shown}"
    );
    let shown = render(&server, Fields::parse(b"totals").ok().as_ref());
    assert!(shown.starts_with("nginx 1.22.1"), "{shown}");
}

#[test]
fn health_leads() {
    let mut server = sample::small();
    let shown = summary(&server);
    let (first, rest) = shown.split_once('\n').unwrap();
    assert_eq!(first, "Health: red; 2 verdicts: &fields=health");
    assert!(rest.starts_with("- red: Zone one has no room: 312 of 2344 "), "{rest}");
    // Parts of the server have the health of all of it.
    assert!(server.narrow("one"));
    assert!(summary(&server).starts_with(first));
    for (status, verdicts, line) in [
        (HealthStatus::Green, 0, "Health: green"),
        (HealthStatus::Green, 1, "Health: green; 1 remark: &fields=health"),
        (
            HealthStatus::Unknown,
            0,
            "Health: unknown, too few figures are known: &fields=processes.notes",
        ),
    ] {
        let health = sample::health::red();
        let verdicts = health.verdicts.into_iter().skip(1).take(verdicts).collect();
        server.health = Health { status, verdicts };
        let shown = summary(&server);
        assert!(shown.starts_with(&format!("{line}\nnginx 1.22.1, ")), "{shown}");
    }
}

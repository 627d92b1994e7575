#![forbid(unsafe_code)]

mod healthy;
mod loaded;

use super::*;
use crate::report::sample;

#[test]
fn dark() {
    let mut server = sample::server(vec![sample::bare()]);
    assert_eq!(examine(&server).status, HealthStatus::Green, "the zones are known");
    server.shared_zones.0.clear();
    assert_eq!(examine(&server).status, HealthStatus::Unknown);
    assert_eq!(examine(&sample::server(Vec::new())).status, HealthStatus::Green);
}

/// doc/diagnosis.md has a section for each rule, and the verdicts refer to it.
#[test]
fn documented() {
    let guide = include_str!("../../doc/diagnosis.md");
    for (id, _) in RULES {
        assert!(guide.lines().any(|line| line == format!("### {id}")), "{id}");
    }
    let titles: Vec<_> = RULES.iter().map(|(id, _)| *id).collect();
    let (_, verdicts) = guide.split_once("\n## Verdicts\n").unwrap();
    let verdicts = verdicts.split("\n## ").next().unwrap();
    let sections = verdicts.lines().filter_map(|line| line.strip_prefix("### "));
    for section in sections {
        assert!(titles.contains(&section), "{section} is no rule");
    }
}

/// Any server, even an impossible one, is examined, and its verdicts are bounded.
#[test]
fn any_server() {
    let mut random = sample::Random::new(13);
    for _ in 0..1_000 {
        let processes: Vec<_> = (0..random.below(20)).map(|_| random.process()).collect();
        let mut server = sample::server(processes);
        let reported = (0..random.below(4)).map(|_| random.reported()).collect();
        server.shared_zones = crate::report::merge::zones::merge(reported, &server.processes);
        let health = examine(&server);
        assert!(health.verdicts.len() <= 5 * RULES.len());
        for verdict in &health.verdicts {
            assert!(RULES.iter().any(|(id, _)| *id == verdict.id));
            assert_eq!(verdict.help, format!("doc/diagnosis.md#{}", verdict.id));
            for text in [&verdict.symptom, &verdict.impact, &verdict.cause, &verdict.action] {
                assert!(!text.is_empty() && !text.ends_with('.'), "{text:?}");
            }
        }
        assert!(health.verdicts.windows(2).all(|two| two[0].status <= two[1].status));
    }
}

#[test]
fn bounded() {
    let one = |pid| {
        let mut verdict = sample::health::red().verdicts.swap_remove(1);
        verdict.affected.processes = vec![pid];
        verdict
    };
    let five = bound::bound((0..5).map(one).collect());
    assert_eq!((five.len(), five[4].symptom.as_str()), (5, one(4).symptom.as_str()));
    let bounded = bound::bound((0..100).map(one).collect());
    assert_eq!(bounded.len(), 5);
    assert!(bounded[4].symptom.ends_with("; 95 more like this"), "{}", bounded[4].symptom);
    assert_eq!(bounded[4].affected.processes, (4..36).collect::<Vec<_>>());
    assert_eq!(bound::bound(Vec::new()), []);
}

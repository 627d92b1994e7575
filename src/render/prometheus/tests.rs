#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use crate::format::Media;
use crate::render::render;
use crate::report::merge::zones::merge;
use crate::report::model::health::{Health, HealthStatus};
use crate::report::model::{ProcessKind, ProcessState, Server};
use crate::report::sample::{self, Random};

fn classic(server: &Server) -> Result<String, std::string::FromUtf8Error> {
    String::from_utf8(render(Media::Classic, server, None).unwrap())
}

fn open_metrics(server: &Server) -> Result<String, std::string::FromUtf8Error> {
    String::from_utf8(render(Media::OpenMetrics, server, None).unwrap())
}

/// Parses series and their values. Fails if a series occurs twice or under the name of another
/// family.
fn series(text: &str) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    let (mut family, mut helped) = (String::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_owned();
            assert!(helped.insert(family.clone()), "{family} twice");
            assert!(help.len() > family.len() + 2, "{line}");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(&family) && name.starts_with("nginx_memstat_"), "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && value >= 0.0, "{line}");
            assert!(series.insert(name.to_owned(), value).is_none(), "{name} twice");
        }
    }
    series
}

fn classic_series(server: &Server) -> BTreeMap<String, f64> {
    series(&classic(server).unwrap())
}

/// The values of the series of a name, by labels.
fn of<'a>(all: &'a BTreeMap<String, f64>, name: &str) -> Vec<(&'a str, f64)> {
    let of = |(key, value): (&'a String, &f64)| {
        Some((key.strip_prefix(&format!("nginx_memstat_{name}"))?, *value))
    };
    all.iter().filter_map(of).filter(|(rest, _)| rest.is_empty() || rest.starts_with('{')).collect()
}

/// The sum of a name over these labels.
fn sum(all: &BTreeMap<String, f64>, name: &str, labels: &str) -> f64 {
    of(all, name).iter().filter(|(key, _)| key.contains(labels)).map(|(_, value)| value).sum()
}

#[test]
fn figures_of_the_model() {
    let server = sample::small();
    let all = classic_series(&server);
    for worker in server.processes.iter().filter(|p| p.generation == Some(3) && p.id.is_some()) {
        let labels = format!("{{kind=\"worker\",worker=\"{}\"}}", worker.id.unwrap());
        let value = |name: &str| all[&format!("nginx_memstat_{name}{labels}")] as u64;
        assert_eq!(Some(value("process_resident_bytes")), worker.system.resident);
        assert_eq!(Some(value("process_swap_bytes")), worker.system.swap);
        assert_eq!(Some(value("process_uptime_seconds")), worker.uptime_s);
        let pools = worker.pools.as_ref().unwrap();
        assert_eq!(value("pools_created_total"), pools.created);
        let inner = &labels[1..labels.len() - 1];
        assert_eq!(sum(&all, "pools_live", inner) as u64, pools.live);
        assert_eq!(sum(&all, "pools_blocks_bytes", inner) as u64, pools.bytes);
        assert_eq!(sum(&all, "pools_unused_bytes", inner) as u64, pools.unused);
        assert_eq!(sum(&all, "pools_large_bytes", inner) as u64, pools.large_bytes);
        let resident = sum(&all, "category_resident_bytes", inner) as u64;
        assert_eq!(Some(resident), worker.system.resident);
    }
    let lua = server.processes.iter().find(|p| p.pid == 11).unwrap().lua.as_ref().unwrap();
    for lua in lua {
        let subsystem = lua.subsystem.name();
        let labels = format!("{{kind=\"worker\",worker=\"0\",subsystem=\"{subsystem}\"}}");
        let value = |name: &str| all[&format!("nginx_memstat_{name}{labels}")] as u64;
        assert_eq!(value("lua_allocated_bytes"), lua.allocated_bytes);
        assert_eq!(Some(value("lua_resident_bytes")), lua.resident);
        assert_eq!(Some(value("lua_gc_bytes")), lua.gc_bytes);
        assert_eq!(value("lua_failures_total"), lua.failures);
    }
    let zone = &server.shared_zones.get("one").unwrap().newest;
    let value = |name: &str| all[&format!("nginx_memstat_{name}")] as u64;
    assert_eq!(value("zone_size_bytes{zone=\"one\"}"), zone.size);
    assert_eq!(value("zone_older_size_bytes{zone=\"one\"}"), 20 << 20);
    assert_eq!(Some(value("zone_failures_total{zone=\"one\"}")), zone.failures);
    for (size, slot) in &zone.slots.as_ref().unwrap().0 {
        let value = |name: &str, more: &str| {
            value(&format!("{name}{{zone=\"one\",slot=\"{size}\"{more}}}"))
        };
        assert_eq!(value("zone_slots", ",state=\"used\""), slot.used);
        assert_eq!(value("zone_slots", ",state=\"free\""), slot.free);
        assert_eq!(value("zone_slot_requests_total", ""), slot.reqs);
        assert_eq!(value("zone_slot_failures_total", ""), slot.fails);
    }
    assert_eq!(Some(value("server_resident_bytes")), server.totals.resident);
    assert_eq!(value("processes{kind=\"worker\",state=\"unresponsive\"}"), 1);
    assert_eq!(value("processes{kind=\"worker\",state=\"shutting_down\"}"), 1);
    assert_eq!(value("processes{kind=\"cache_manager\",state=\"unresponsive\"}"), 0);
}

#[test]
fn unknown_is_left_out() {
    let all = classic_series(&sample::server(vec![sample::bare()]));
    let names: BTreeSet<_> =
        all.keys().filter(|key| key.contains("kind=\"other\"")).map(|key| &key[14..]).collect();
    let expected: BTreeSet<_> = [
        "processes{kind=\"other\",state=\"active\"}",
        "processes{kind=\"other\",state=\"shutting_down\"}",
        "processes{kind=\"other\",state=\"unresponsive\"}",
        "process_figures_age_seconds{kind=\"other\",worker=\"\"}",
        "process_notes{kind=\"other\",worker=\"\"}",
    ]
    .into();
    assert_eq!(names, expected);
    assert_eq!(of(&all, "server_resident_bytes"), []);
    let text = classic(&sample::server(vec![sample::bare()])).unwrap();
    assert!(!text.contains("process_resident"), "{text}");
}

/// Workers that shut down are one series, separate from the workers that took over their numbers.
#[test]
fn old_workers() {
    let worker = |id, pid, generation, state, resident| {
        let mut process = sample::full(ProcessKind::Worker, Some(id), pid);
        process.generation = Some(generation);
        process.state = state;
        process.system.resident = Some(resident);
        process
    };
    let server = sample::server(vec![
        worker(0, 11, 1, ProcessState::ShuttingDown, 1),
        worker(0, 12, 2, ProcessState::ShuttingDown, 10),
        worker(1, 13, 2, ProcessState::Unresponsive, 100),
        worker(0, 14, 3, ProcessState::Active, 1000),
        worker(1, 15, 3, ProcessState::Unresponsive, 10_000),
    ]);
    let all = classic_series(&server);
    let expected = [
        ("{kind=\"worker\",worker=\"0\"}", 1000.0),
        ("{kind=\"worker\",worker=\"1\"}", 10_000.0),
        ("{kind=\"worker\",worker=\"old\"}", 111.0),
    ];
    assert_eq!(of(&all, "process_resident_bytes"), expected);
    let counters: Vec<_> = of(&all, "pools_created_total").iter().map(|(key, _)| *key).collect();
    assert_eq!(counters, [expected[0].0, expected[1].0]);
    // If the figure of one process is unknown, so is the sum.
    let mut server = server;
    server.processes[0].system.resident = None;
    let all = classic_series(&server);
    assert_eq!(of(&all, "process_resident_bytes").len(), 2);
}

#[test]
fn bounded() {
    let mut process = sample::full(ProcessKind::Worker, Some(0), 11);
    let pools = process.pools.as_mut().unwrap();
    let like = pools.by_creator[0].clone();
    for i in 0..500 {
        let creator = Some(format!("creator_{i}"));
        pools.by_creator.push(crate::report::model::pools::Creator {
            creator,
            bytes: i,
            ..like.clone()
        });
    }
    (pools.live, pools.bytes) = (1_000, 10 << 30);
    let all = classic_series(&sample::server(vec![process.clone()]));
    assert_eq!(of(&all, "pools_live").len(), 11);
    assert_eq!(sum(&all, "pools_live", ""), 1_000.0);
    assert_eq!(sum(&all, "pools_blocks_bytes", ""), (10u64 << 30) as f64);
    let many = |count: u32| {
        let of = |id: u32| crate::report::model::Process { id: Some(id), ..process.clone() };
        classic_series(&sample::server((0..count).map(of).collect())).len()
    };
    let each = many(2) - many(1);
    assert_eq!(many(64) - many(1), 63 * each);
    assert!(each <= 125, "{each}");
}

#[test]
fn hostile_names() {
    let zone = "a\"b\\c\nd</style><script>{x=\"y\"} 1";
    let mut server = sample::small();
    server.shared_zones.0[0].0 = zone.to_owned();
    for text in [classic(&server).unwrap(), open_metrics(&server).unwrap()] {
        let label = r#"{zone="a\"b\\c\nd</style><script>{x=\"y\"} 1"}"#;
        let line = format!("nginx_memstat_zone_size_bytes{label} {}\n", 10 << 20);
        assert!(text.contains(&line), "{text}");
    }
}

#[test]
fn any_server() {
    let mut random = Random::new(9);
    for _ in 0..500 {
        let processes = (0..random.below(20)).map(|_| random.process()).collect();
        let mut server = sample::server(processes);
        let reported = (0..random.below(4)).map(|_| random.reported()).collect();
        server.shared_zones = merge(reported, &server.processes);
        let all = classic_series(&server);
        assert!(!all.keys().any(|key| key.contains("pid=")));
        let other = open_metrics(&server).unwrap();
        let body = other.strip_suffix("# EOF\n").unwrap();
        assert!(!body.contains("# EOF"));
        // The same series in both.
        assert_eq!(series(body), all);
    }
}

#[test]
fn health() {
    let mut server = sample::small();
    let verdicts = [
        ("{id=\"lua-footprint\",status=\"info\"}", 1.0),
        ("{id=\"zone-failing\",status=\"red\"}", 2.0),
    ];
    server.health.verdicts.push(server.health.verdicts[0].clone());
    let all = classic_series(&server);
    assert_eq!(of(&all, "verdict"), verdicts);
    assert_eq!(of(&all, "health"), [("", 2.0)]);
    for (status, value) in HealthStatus::ALL.into_iter().zip([0.0, 1.0, 2.0, 3.0]) {
        server.health = Health { status, verdicts: Vec::new() };
        let all = classic_series(&server);
        assert_eq!((of(&all, "health"), of(&all, "verdict")), (vec![("", value)], Vec::new()));
    }
    let mut random = Random::new(10);
    for _ in 0..200 {
        server.health = random.health();
        classic_series(&server);
    }
}

/// doc/formats.md names every metric and no others.
#[test]
fn documented() {
    let formats = include_str!("../../../doc/formats.md");
    let section = formats.split_once("\n## Prometheus\n").unwrap().1;
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let named =
        rows.flat_map(|row| row.split(['`', ',', ';', ' ']).filter(|name| !name.is_empty()));
    let named: BTreeSet<_> = named.collect();
    let mut server = sample::small();
    for lua in server.processes.iter_mut().filter_map(|p| p.lua.as_mut()).flatten() {
        if let Some(gc) = &mut lua.gc {
            gc.limit_bytes = Some(2 << 30);
        }
    }
    let counters =
        server.shared_zones.0.iter_mut().find(|(_, zone)| zone.newest.failures.is_none());
    counters.unwrap().1.newest.failures_at_least = Some(3);
    let text = classic(&server).unwrap();
    let there = text.lines().filter_map(|line| line.strip_prefix("# TYPE nginx_memstat_"));
    let there: BTreeSet<_> = there.map(|rest| rest.split(' ').next().unwrap()).collect();
    assert_eq!(named, there);
}

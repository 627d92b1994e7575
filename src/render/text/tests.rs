#![forbid(unsafe_code)]

use super::text as render;
use crate::render::layout::WIDTH;
use crate::report::fields::Fields;
use crate::report::merge::zones::merge;
use crate::report::model::health::{Health, HealthStatus};
use crate::report::model::lua::Gc;
use crate::report::model::{Note, Process, ProcessKind, ProcessState, Server};
use crate::report::sample::{self, Random};

/// The text with all fields.
fn text(server: &Server) -> String {
    let all = Fields::parse(b"processes,shared_zones,totals").ok();
    assert!(all.is_some());
    render(server, all.as_ref())
}

/// Checks that a text is printable and that no line is too long.
fn check(shown: &str) {
    for line in shown.lines() {
        assert!(line.len() <= WIDTH, "{line}");
        assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
        assert_eq!(line, line.trim_end());
    }
    assert!(shown.ends_with('\n') && !shown.contains("\n\n\n"), "{shown}");
}

/// The lines of a section.
fn section<'a>(shown: &'a str, title: &str) -> Vec<&'a str> {
    let lines = shown.lines().skip_while(|line| !line.starts_with(title)).skip(1);
    lines.take_while(|line| !line.is_empty()).collect()
}

/// The words of a line.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn small_server() {
    let shown = text(&sample::small());
    println!("{shown}");
    check(&shown);
    assert_eq!(
        shown.lines().next().unwrap(),
        format!(
            "nginx 1.22.1, memstat {}, 2026-01-01T00:00:00.007Z, answered by worker 0, pid 11 in \
             1.83 ms",
            crate::report::model::MODULE
        )
    );
    let summary = section(&shown, "Processes");
    assert_eq!(
        words(summary[0]),
        [
            "process", "pid", "gen", "state", "uptime", "resident", "anon", "file", "shmem",
            "swap", "virtual", "peak"
        ]
    );
    let first: Vec<_> = summary[1..].iter().map(|line| words(line)[..3].join(" ")).collect();
    let expected = [
        "master 10 3",
        "worker 0 11",
        "worker 1 7",
        "worker 1 12",
        "worker 2 13",
        "worker 3 14",
        "cache manager 15",
    ];
    assert_eq!(first[..7], expected);
    assert_eq!(summary[8..], ["Figures of worker 2 pid 13 are 12.3 s old"]);
}

#[test]
fn old_figures_of_an_allocator() {
    let mut server = sample::small();
    let old = server.processes.iter_mut().find(|p| p.pid == 12).unwrap();
    old.allocator.as_mut().unwrap().measured_ms_ago = Some(7000);
    for format in [text(&server), render(&server, None)] {
        assert!(
            format.contains("\nAllocator's figures of worker 1 pid 12 are 7.00 s old\n"),
            "{format}"
        );
    }
}

#[test]
fn largest_category_first() {
    let shown = text(&sample::small());
    let resident = section(&shown, "Resident memory");
    let names: Vec<_> = resident[2..].iter().map(|line| words(line)[0]).collect();
    let expected = [
        "http_luajit",
        "text",
        "glibc_heap",
        "file_other",
        "data",
        "anon_other",
        "nginx_shm",
        "luajit_mcode",
        "stacks",
        "total",
    ];
    assert_eq!(names, expected);
    assert!(resident[2].contains("5.66 MiB  44%"), "{}", resident[2]);
    assert!(shown.contains("Virtual memory by category"));
}

#[test]
fn zones() {
    let mut server = sample::small();
    let shown = text(&server);
    let zones = section(&shown, "Shared memory zones");
    let first: Vec<_> = zones[2..5].iter().map(|line| words(line)[..3].join(" ")).collect();
    assert_eq!(first, ["one 3 http_limit_req", "one 2 old", "nginx_shared_zone 1 ?"]);
    assert!(zones[2].contains(" 10.0 MiB "), "{}", zones[2]);
    let together = section(&shown, "Use of the zones by these processes together");
    // The cache manager of the sample does not report zones.
    assert_eq!(words(together[1]), ["one", "3", "6", "420", "52.7", "KiB", "120", "12"]);
    assert_eq!(words(together[2]), ["one", "2", "old", "0", "0", "0", "0", "0"]);
    assert!(shown.contains("- nginx_shared_zone: pages, slots: it is no zone"), "{shown}");
    assert!(!shown.contains("slots of"), "{shown}");

    assert!(server.narrow("one"));
    let shown = text(&server);
    check(&shown);
    assert_eq!(section(&shown, "Shared memory zones").len(), 4);
    assert_eq!(section(&shown, "Use of the zone by process").len(), 2 + 6);
    assert_eq!(section(&shown, "Slots, generation 3").len(), 1 + 9 + 2, "{shown}");
    assert!(!shown.contains("Resident memory") && !shown.contains("nginx_shared_zone"), "{shown}");
    assert!(!server.narrow("two"));
}

#[test]
fn lua_vms() {
    let mut server = sample::small();
    if let Some(lua) = server.processes[1].lua.as_mut().and_then(|all| all.first_mut()) {
        (lua.failures, lua.reserved) = (3, None);
        lua.gc = lua.gc.map(|gc| Gc { running: Some(false), ..gc });
    }
    let shown = text(&server);
    check(&shown);
    let lines = section(&shown, "Lua VMs");
    let rows: Vec<_> = lines.iter().map(|line| words(line).join(" ")).collect();
    assert!(rows[0].starts_with("process pid of VMs"), "{shown}");
    let figures = "3.03 MiB 3.03 MiB 5.76 MiB 200 KiB 3.03 MiB 1.86 MiB";
    assert_eq!(rows[2], format!("master 10 http 1 {figures} 6.25 MiB 5.66 MiB"));
    assert_eq!(rows[3], format!("worker 0 11 http 1 {figures} ? 5.66 MiB"));
    assert!(rows[8].starts_with("Lua of http in"), "{shown}");
    for said in [
        "Lua of http in worker 0: 3 allocations failed because memory was refused",
        "Garbage collector of http in worker 0: stopped, pause 200, stepmul 200, not GC64",
        "workers 2-3: running, pause",
    ] {
        assert!(shown.contains(said), "{said}\n{shown}");
    }
}

#[test]
fn same_notes_once() {
    let shown = text(&sample::small());
    let all = shown.split("\nNotes\n").nth(1).unwrap();
    let notes: Vec<_> = all.split("\n- ").collect();
    assert_eq!(notes.len(), 3, "{all}");
    assert!(notes[0].starts_with("- "), "{all}");
    assert!(notes[0].contains("the heap's figures are an estimate"), "{all}");
    assert!(notes[1].starts_with("worker 2: it did not answer within 200 ms"), "{all}");
    assert!(notes[2].starts_with("cache manager: breakdown, allocator: the process"), "{all}");
}

#[test]
fn unknown_is_never_zero() {
    let shown = text(&sample::server(vec![sample::bare()]));
    check(&shown);
    let summary = section(&shown, "Processes");
    assert_eq!(
        words(summary[1]),
        ["other", "1", "?", "active", "?", "?", "?", "?", "?", "?", "?", "?"]
    );
    assert!(!shown.contains("Allocator") && !shown.contains("Notes"), "{shown}");
    assert!(
        shown.contains("Total of 1 processes: ? in RAM, each page once; ? summed up"),
        "{shown}"
    );
}

#[test]
fn many_workers() {
    for count in [1, 2, 6, 12, 13, 64, 300] {
        let mut processes: Vec<_> = (0..count)
            .map(|i| sample::full(ProcessKind::Worker, Some(i), 1_000_000 + i as i32))
            .collect();
        processes.push(sample::full(ProcessKind::Master, None, 999_999));
        let shown = text(&sample::server(processes));
        check(&shown);
        for pid in [999_999, 1_000_000, 1_000_000 + count - 1] {
            let times = shown.lines().filter(|line| line.contains(&pid.to_string())).count();
            assert!(times >= 5, "{pid} {times}\n{shown}");
        }
        assert!(shown.contains("- all processes: the heap's"), "{shown}");
        let lines = shown.lines().count();
        assert!(lines <= 124 + 12 * count as usize, "{lines}\n{shown}");
    }
}

#[test]
fn widest_realistic_process_takes_a_line() {
    let mut process = sample::full(ProcessKind::CacheManager, None, 4_194_303);
    process.state = ProcessState::ShuttingDown;
    process.generation = Some(123);
    process.uptime_s = Some(100 * 86_400);
    let shown = text(&sample::server(vec![process]));
    check(&shown);
    assert_eq!(section(&shown, "Processes").len(), 2, "{shown}");
}

#[test]
fn hostile_names() {
    let mut process = sample::full(ProcessKind::Worker, Some(0), 11);
    let evil = "\u{1b}]0;x\u{7}\nevil\u{202e}".to_owned();
    if let Some(text) = &mut process.text {
        text.objects[0].path.clone_from(&evil);
    }
    if let Some(allocator) = &mut process.allocator {
        allocator.version = Some(evil.clone());
    }
    process.notes = vec![Note::new(evil.clone())];
    let mut server = sample::server(vec![process]);
    server.nginx = evil;
    let shown = text(&server);
    check(&shown);
    assert!(shown.contains(r"\u{1b}]0;x\u{7}\nevil\u{202e}"), "{shown}");
}

#[test]
fn any_server() {
    let mut random = Random::new(6);
    for _ in 0..1_000 {
        let processes: Vec<Process> = (0..random.below(20)).map(|_| random.process()).collect();
        let mut server = sample::server(processes);
        server.elapsed_us = random.figure();
        server.nginx = random.text();
        let reported = (0..random.below(4)).map(|_| random.reported()).collect();
        server.shared_zones = merge(reported, &server.processes);
        server.health = random.health();
        check(&text(&server));
        summary(&server);
        let names = server.shared_zones.names();
        if let Some(name) = names.get(random.below(4) as usize) {
            assert!(server.narrow(name));
            check(&text(&server));
        }
    }
}

/// The summary that fits a screen.
fn summary(server: &Server) -> String {
    let shown = render(server, None);
    check(&shown);
    shown
}

#[test]
fn small_server_fits_a_screen() {
    let mut server = sample::small();
    server.health = Health { status: HealthStatus::Green, verdicts: Vec::new() };
    // One process is a cache manager with few known figures. More workers take no more lines.
    for (more, lines) in [(0, 50), (1, 51), (50, 51)] {
        let workers =
            (0..more).map(|i| sample::full(ProcessKind::Worker, Some(4 + i), 100 + i as i32));
        server.processes.extend(workers);
        server.totals.processes = server.processes.len() as u64;
        let shown = summary(&server);
        let count = shown.lines().count();
        assert!(count <= lines, "{count}\n{shown}");
    }
}

#[test]
fn largest_first() {
    let mut server = sample::small();
    let order = [15, 13, 7, 14, 10, 12, 11];
    for (rank, pid) in order.iter().enumerate() {
        let process = server.processes.iter_mut().find(|p| p.pid == *pid).unwrap();
        process.system.resident = Some((20 - rank as u64) << 20);
    }
    server.processes.iter_mut().find(|p| p.pid == 11).unwrap().system.resident = None;
    let shown = summary(&server);
    let mut rows = section(&shown, "process ");
    let ages = rows.split_off(order.len());
    assert_eq!(ages, ["Figures of worker 2 pid 13 are 12.3 s old"]);
    let at = shown.lines().find_map(|line| line.strip_prefix("process ")?.find("pid")).unwrap();
    let pid = |row: &&str| words(&row["process ".len() + at..])[0].parse::<i32>().unwrap();
    assert_eq!(rows.iter().map(pid).collect::<Vec<_>>(), order, "{shown}");
    let categories = section(&shown, "resident ");
    assert!(categories[0].trim().starts_with("pid 13"), "{}", categories[0]);
    let names: Vec<_> = categories[1..].iter().map(|line| words(line)[0]).collect();
    let known: Vec<_> = server.processes.iter().filter_map(|p| p.breakdown.as_ref()).collect();
    let sum = |name: &str| {
        let all = known.iter().flat_map(|breakdown| &breakdown.0);
        all.filter(|(c, _)| c.name() == name).map(|(_, r)| r.resident.unwrap()).sum::<u64>()
    };
    let (last, names) = names.split_last().unwrap();
    assert_eq!(*last, "total");
    assert_eq!(names.len(), known[0].0.len());
    assert!(names.windows(2).all(|pair| sum(pair[0]) >= sum(pair[1])), "{shown}");
    let first = words(categories[1]);
    assert_eq!(first[1..3].join(" "), crate::render::units::size(sum(names[0])), "{shown}");
    let zones = section(&shown, "zone ");
    assert!(zones[0].starts_with("one  ") && zones[1].starts_with("one (old)"), "{shown}");
    let creators = section(&shown, "pools by creator");
    assert!(creators[0].starts_with("ngx_init_cycle"), "{shown}");
}

#[test]
fn what_is_cut_is_told() {
    let mut server = sample::small();
    let extra = (0..5).map(|i| sample::full(ProcessKind::Worker, Some(4 + i), 100 + i as i32));
    server.processes.extend(extra);
    server.totals.processes = 12;
    let shown = summary(&server);
    assert!(shown.contains("process (4 more)"), "{shown}");
    // The notes of the small server and one of each of the five workers.
    let notes: usize = server.processes.iter().map(|p| p.notes.len()).sum();
    assert!(shown.contains(&format!("{notes} notes: &fields=processes.notes")), "{shown}");
    let alone = summary(&sample::server(vec![sample::full(ProcessKind::Single, None, 11)]));
    assert!(!alone.contains(" more)") && !alone.contains("all 1"), "{alone}");
}

/// Each field adds only its own section.
#[test]
fn narrowed_by_fields() {
    let server = sample::small();
    let table = [
        ("processes.system", "Processes"),
        ("processes.breakdown", "Resident memory by category"),
        ("processes.allocator", "Allocator"),
        ("processes.pools", "Pools"),
        ("processes.peak", "Worst moments"),
        ("processes.stacks", "Threads"),
        ("processes.text", "Code of"),
        ("processes.hooks", "Hooks in"),
        ("processes.notes", "Notes"),
        ("shared_zones.pages", "Shared memory zones"),
        ("totals.swap", "Total of"),
    ];
    for (field, _) in table {
        let fields = Fields::parse(field.as_bytes()).ok();
        let shown = render(&server, fields.as_ref());
        check(&shown);
        for (other, title) in table {
            let there = shown.lines().any(|line| line.starts_with(title));
            assert_eq!(there, other == field, "{field}: {title}\n{shown}");
        }
    }
}

#[test]
fn one_process_in_full() {
    let mut server = sample::small();
    assert!(!server.narrow_to_process(1));
    let mut server = sample::small();
    assert!(server.narrow_to_process(13));
    let shown = render(&server, None);
    check(&shown);
    assert!(shown.contains("pid 13") && !shown.contains("worker 1"), "{shown}");
    assert!(shown.contains("Allocator") && shown.contains("Oldest pools"), "{shown}");
}

#![forbid(unsafe_code)]

use super::text;
use crate::render::layout::WIDTH;
use crate::report::lua::Gc;
use crate::report::model::{Kind, Process, State};
use crate::report::sample::{self, Random};
use crate::report::zones::merge;

/// Whatever is shown, it is printable, and no line is too long.
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

/// The first words of a line.
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
            crate::report::MODULE
        )
    );
    let summary = section(&shown, "Processes");
    assert_eq!(
        words(summary[0]),
        [
            "process", "pid", "gen", "state", "uptime", "virtual", "resident", "anon", "file",
            "shmem", "swap"
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
    let together = section(&shown, "What these processes together did");
    // The cache manager of the sample tells nothing of zones.
    assert_eq!(words(together[1]), ["one", "3", "6", "420", "52.7", "KiB", "120", "12"]);
    assert_eq!(words(together[2]), ["one", "2", "old", "0", "0", "0", "0", "0"]);
    assert!(shown.contains("- nginx_shared_zone: pages, slots: it is no zone"), "{shown}");
    assert!(!shown.contains("slots of"), "{shown}");

    assert!(server.narrow("one"));
    let shown = text(&server);
    check(&shown);
    assert_eq!(section(&shown, "Shared memory zones").len(), 4);
    assert_eq!(section(&shown, "What each process has and did").len(), 2 + 6);
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
        "Lua of http in worker 0: 3 requests were refused for want of memory",
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
    assert!(notes[2].starts_with("cache manager: the process does not run"), "{all}");
}

#[test]
fn unknown_is_never_zero() {
    let shown = text(&sample::server(vec![sample::bare()]));
    check(&shown);
    let summary = section(&shown, "Processes");
    assert_eq!(words(summary[1]), ["other", "1", "?", "active", "?", "?", "?", "?", "?", "?", "?"]);
    assert!(!shown.contains("Allocator") && !shown.contains("Notes"), "{shown}");
    assert!(shown.contains("Total of 1 processes: resident ? "), "{shown}");
}

#[test]
fn many_workers() {
    for count in [1, 2, 6, 12, 13, 64, 300] {
        let mut processes: Vec<_> =
            (0..count).map(|i| sample::full(Kind::Worker, Some(i), 1_000_000 + i as i32)).collect();
        processes.push(sample::full(Kind::Master, None, 999_999));
        let shown = text(&sample::server(processes));
        check(&shown);
        for pid in [999_999, 1_000_000, 1_000_000 + count - 1] {
            let times = shown.lines().filter(|line| line.contains(&pid.to_string())).count();
            assert!(times >= 5, "{pid} {times}\n{shown}");
        }
        assert!(shown.contains("- all processes: the heap's"), "{shown}");
        let lines = shown.lines().count();
        assert!(lines <= 110 + 9 * count as usize, "{lines}\n{shown}");
    }
}

#[test]
fn widest_realistic_process_takes_a_line() {
    let mut process = sample::full(Kind::CacheManager, None, 4_194_303);
    process.state = State::ShuttingDown;
    process.generation = Some(123);
    process.uptime_s = Some(100 * 86_400);
    let shown = text(&sample::server(vec![process]));
    check(&shown);
    assert_eq!(section(&shown, "Processes").len(), 2, "{shown}");
}

#[test]
fn hostile_names() {
    let mut process = sample::full(Kind::Worker, Some(0), 11);
    let evil = "\u{1b}]0;x\u{7}\nevil\u{202e}".to_owned();
    if let Some(text) = &mut process.text {
        text.objects[0].path.clone_from(&evil);
    }
    if let Some(allocator) = &mut process.allocator {
        allocator.version = Some(evil.clone());
    }
    process.notes = vec![evil.clone()];
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
        check(&text(&server));
        let names = server.shared_zones.names();
        if let Some(name) = names.get(random.below(4) as usize) {
            assert!(server.narrow(name));
            check(&text(&server));
        }
    }
}

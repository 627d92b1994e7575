//! Tests each allocator in a live process. The test harness runs tests on threads, but a probe
//! belongs on the main thread of a process with a young heap. So each case runs in a process of its
//! own: the test binary is started once more, and runs the case before its `main`.

#![allow(unsafe_code)]

use std::process::Command;
use std::time::{Duration, Instant};

use procfs::process::Process;

use super::*;
use crate::sys::maps;

mod live;

const CASE: &str = "MEMSTAT_HEAP_CASE";

/// Runs a case in a process of its own, with a preloaded library.
fn run(case: &str, preload: Option<&str>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(CASE, case);
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("case passed"), "{case}: {}", output.status);
}

#[used]
#[link_section = ".init_array"]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    let Ok(case) = std::env::var(CASE) else {
        return;
    };
    let passed = std::panic::catch_unwind(|| match case.as_str() {
        "jemalloc" => holds_what_it_was_given("jemalloc", Category::Jemalloc),
        "tcmalloc" => holds_what_it_was_given("tcmalloc", Category::Tcmalloc),
        "mimalloc" => holds_what_it_was_given("mimalloc", Category::Mimalloc),
        case => live::case(case),
    });
    if passed.is_ok() {
        println!("case passed");
    }
    std::process::exit(i32::from(passed.is_err()));
}

fn measure(probe: &mut HeapProbe, budget: impl Fn() -> Budget) -> (HeapReading, u32, Duration) {
    let process = Process::myself().unwrap();
    let all: Vec<_> = process.maps().unwrap().into_iter().collect();
    let claimed: Vec<_> = all.iter().filter(|m| maps::has_file(m)).map(maps::range).collect();
    let pages = PageMap::open().unwrap();
    while probe.count(&budget()) == Progress::More {}
    probe.begin(&all, &claimed);
    let (mut steps, mut longest) = (0, Duration::ZERO);
    loop {
        let start = Instant::now();
        let Ok(progress) = probe.step(&pages, &budget());
        longest = longest.max(start.elapsed());
        steps += 1;
        if progress == Progress::Done {
            return (probe.finish(), steps, longest);
        }
    }
}

fn library(name: &str) -> Option<String> {
    let output = Command::new("/sbin/ldconfig").arg("-p").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.trim_start().starts_with(name))?;
    Some(line.rsplit("=> ").next()?.to_owned())
}

/// Checks an allocator that holds 64 MiB in 4 KiB blocks.
fn holds_what_it_was_given(name: &str, category: Category) {
    let mut probe = HeapProbe::new();
    let blocks: Vec<Vec<u8>> = (0..16384).map(|_| vec![1; 4096]).collect();
    let (reading, _, _) = measure(&mut probe, || Budget::new(Duration::from_micros(300)));
    println!("{reading:?}");
    let allocator = &reading.allocator;
    assert_eq!(allocator.name, name);
    assert!(allocator.version.as_ref().is_some_and(|version| version.contains('.')));
    assert_eq!(reading.category, Some(category));
    let about = |size: Option<u64>| size.is_none_or(|size| (64 << 20..128 << 20).contains(&size));
    assert!(allocator.reserved.is_some() && about(allocator.reserved));
    assert!(about(allocator.in_use) && about(reading.resident));
    // Only mimalloc reports where its memory is.
    assert_eq!(reading.ranges.is_empty(), category != Category::Mimalloc);
    let found = |block: &Vec<u8>| {
        let address = block.as_ptr() as usize;
        reading.ranges.iter().any(|range| range.contains(&address))
    };
    assert!(category != Category::Mimalloc || blocks.iter().all(found));
    drop(blocks);
    let (after, _, _) = measure(&mut probe, || Budget::new(Duration::from_micros(300)));
    if let Some(in_use) = after.allocator.in_use {
        assert!(in_use < 8 << 20, "{after:?}");
        let free = after.allocator.free.unwrap();
        assert!(free + in_use <= after.allocator.reserved.unwrap());
    }
}

fn preloaded(case: &str, soname: &str) {
    match library(soname) {
        Some(path) => run(case, Some(&path)),
        None => println!("skipped: {soname} is not installed"),
    }
}

#[test]
fn jemalloc() {
    preloaded("jemalloc", "libjemalloc.so.2");
}

#[test]
fn tcmalloc() {
    preloaded("tcmalloc", "libtcmalloc_minimal.so.4");
}

#[test]
fn mimalloc() {
    preloaded("mimalloc", "libmimalloc.so.2");
}

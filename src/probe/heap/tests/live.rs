//! Compares the probe of glibc with glibc's own figures.
//!
//! Invariants of the unsafe code:
//!
//! 1. A block is allocated with a layout of a size that is not 0, and freed with the same layout or
//!    never. The page in front of a block of this size and alignment has its header.
//! 2. The process that forks has one thread, and waits for its only child.
//! 3. A mapping is new, anonymous and writable, and is written within its size.
//! 4. The filter program has four statements, and applies to this process only.

use std::hint::black_box;

use super::super::pace::cpu_time;
use super::super::symbols::AllocatorObject;
use super::*;

/// Returns malloc's own figures.
fn mallinfo() -> super::super::glibc::MallInfo {
    super::super::glibc::mallinfo(AllocatorObject::of_malloc().unwrap())
}

fn slices() -> Budget {
    Budget::new(Duration::from_micros(300))
}

/// Makes a probe that counts at each measurement, and that does not give up the lists on a busy
/// machine: only the limit of chunks applies.
fn patient() -> HeapProbe {
    let mut probe = HeapProbe::new();
    glibc(&mut probe).counting.lists_time = Duration::from_secs(10);
    glibc(&mut probe).counting.pause = 0;
    probe
}

fn glibc(probe: &mut HeapProbe) -> &mut Glibc {
    match &mut probe.kind {
        AllocatorProbe::Glibc(glibc) => glibc,
        _ => panic!("not glibc"),
    }
}

/// Checks that the probe and malloc report the same figures. Nothing is allocated between the two.
fn agrees(probe: &mut HeapProbe) -> HeapReading {
    let (reading, steps, longest) = measure(probe, slices);
    // The reading itself takes memory, too: take it again while the first one exists.
    let info = mallinfo();
    println!("{reading:?}\n{info:?}\n{steps} steps, longest {longest:?}");
    let allocator = &reading.allocator;
    let near = |figure: Option<u64>, info: usize| {
        let figure = figure.unwrap() as usize;
        assert!(figure.abs_diff(info) <= 256 << 10, "{figure} {info}");
    };
    near(allocator.free, info.fordblks);
    near(allocator.in_use, info.uordblks + info.hblkhd);
    near(allocator.reserved, info.arena + info.hblkhd);
    near(allocator.mmapped, info.hblkhd);
    assert!(reading.unlocated.is_empty() && reading.notes.is_empty());
    assert!(reading.ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
    reading
}

fn inside(reading: &HeapReading, address: usize, size: usize) -> bool {
    reading.ranges.iter().any(|range| range.contains(&address) && address + size <= range.end)
}

fn fragment(count: usize, size: usize) -> Vec<Box<[u8]>> {
    let all: Vec<Box<[u8]>> =
        (0..count * 2).map(|i| vec![1; size + i % 7 * 16].into_boxed_slice()).collect();
    all.into_iter().enumerate().filter(|(i, _)| i % 2 == 0).map(|(_, block)| block).collect()
}

pub fn case(name: &str) {
    let mut probe = patient();
    match name {
        "young" => {
            let reading = agrees(&mut probe);
            assert_eq!(reading.allocator.arenas, Some(1));
            let block = Box::new([1u8; 100]);
            assert!(inside(&reading, block.as_ptr() as usize, 100));
        }
        "fragmented" => {
            let kept = fragment(2000, 1100);
            let reading = agrees(&mut probe);
            assert!(reading.allocator.free.unwrap() > 2000 * 1100);
            drop(black_box(kept));
        }
        "many" => {
            agrees(&mut probe);
            let kept = fragment(100_000, 1100);
            let reading = agrees(&mut probe);
            assert!(reading.allocator.free.unwrap() > 100_000_000);
            assert_ne!(reading.allocator.measured_over_ms, Some(0), "in one go");
            drop(black_box(kept));
            agrees(&mut probe);
            assert_eq!(agrees(&mut probe).allocator.measured_over_ms, Some(0));
        }
        "old" => old(&mut probe),
        "threads" => threads(&mut probe),
        "mapped" => mapped(&mut probe),
        "forked" => forked(&mut probe),
        "refused" => refused(&mut probe),
        "bench" => bench(&mut probe),
        "twice" => {
            agrees(&mut patient());
            agrees(&mut patient());
            agrees(&mut probe);
        }
        name => panic!("no case {name}"),
    }
}

/// Checks several arenas, one of them with more than one heap.
fn threads(probe: &mut HeapProbe) {
    let (done, wait) = std::sync::mpsc::channel::<usize>();
    let gate = std::sync::Arc::new(std::sync::Barrier::new(5));
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let (done, gate) = (done.clone(), gate.clone());
            std::thread::spawn(move || {
                let kept = fragment(if i == 0 { 50_000 } else { 50 }, 1100);
                done.send(kept[0].as_ptr() as usize).unwrap();
                gate.wait();
                drop(black_box(kept));
            })
        })
        .collect();
    let blocks: Vec<usize> = (0..4).map(|_| wait.recv().unwrap()).collect();
    let (reading, _, _) = measure(probe, slices);
    println!("{reading:?}");
    assert!(reading.allocator.arenas.unwrap() >= 4);
    assert!(blocks.iter().all(|block| inside(&reading, *block, 1100)));
    gate.wait();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // The large arena has kept one heap, and the small ones have few free chunks.
    agrees(probe);
}

/// Maps other memory, all of it in RAM, which the kernel places next to malloc's.
fn foreign(size: usize) -> usize {
    // SAFETY: the mapping is new and is written within its size (3).
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let map = libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0);
        assert_ne!(map, libc::MAP_FAILED);
        std::ptr::write_bytes(map.cast::<u8>(), 2, size);
        map as usize
    }
}

/// Checks blocks with mappings of their own, next to each other and to another mapping.
fn mapped(probe: &mut HeapProbe) {
    let mut kept: Vec<Vec<u8>> = (0..20).map(|i| vec![1; (300 << 10) + i * 5000]).collect();
    let layout = std::alloc::Layout::from_size_align(400 << 10, 4096).unwrap();
    // SAFETY: the size is not 0; the block is freed below with the same layout (1).
    let aligned = unsafe { std::alloc::alloc(layout) };
    let foreign = foreign(64 << 20);
    kept.extend((0..5).map(|_| vec![1; 200 << 10]));
    let reading = agrees(probe);
    for block in &kept {
        assert!(inside(&reading, block.as_ptr() as usize, block.len()));
    }
    assert!(inside(&reading, aligned as usize, 400 << 10));
    assert!(!inside(&reading, foreign + (1 << 20), 1));
    let (_, steps, longest) = measure(probe, slices);
    println!("again: {steps} steps, longest {longest:?}");
    assert!(steps < 3, "what was found is remembered");
    kept.truncate(7);
    let reading = agrees(probe);
    assert!(kept.iter().all(|block| inside(&reading, block.as_ptr() as usize, block.len())));
    // SAFETY: the block was allocated above with this layout (1).
    unsafe { std::alloc::dealloc(aligned, layout) };
    agrees(probe);
}

/// Checks that the probe works in a child, which has no figures of its own at first.
fn forked(probe: &mut HeapProbe) {
    let block = vec![1u8; 500 << 10];
    agrees(probe);
    // SAFETY: the process has one thread (2).
    match unsafe { libc::fork() } {
        0 => {
            let reading = agrees(probe);
            assert!(inside(&reading, block.as_ptr() as usize, block.len()));
            println!("child passed");
        }
        child => {
            let mut status = 0;
            // SAFETY: the call waits for the child that was just made (2).
            unsafe { libc::waitpid(child, &mut status, 0) };
            assert_eq!(status, 0);
        }
    }
}

/// Installs a system call filter that refuses `process_vm_readv`, as some containers do.
fn refused(probe: &mut HeapProbe) {
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let refuse = 0x0005_0000 | libc::EPERM as u32;
    let mut filter = [
        statement(0x20, 0),
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_process_vm_readv as u32 },
        statement(0x06, refuse),
        statement(0x06, 0x7fff_0000),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the program describes four statements, as its length says (4).
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, 2, &program), 0);
    }
    let read = |probe: &mut HeapProbe| {
        let (reading, _, _) = measure(probe, slices);
        println!("{reading:?}");
        assert!(!(reading.unlocated.is_empty() && reading.notes.is_empty()));
        assert_eq!(reading.ranges.len(), 1, "the brk heap is known all the same");
        reading.allocator
    };
    // malloc's figures from the start remain, with their age.
    let before = read(probe);
    std::thread::sleep(Duration::from_millis(20));
    let after = read(probe);
    assert_eq!((after.reserved, after.free), (before.reserved, before.free));
    assert!(after.measured_ms_ago.unwrap() >= 20);
    glibc(probe).counting.old = Duration::ZERO;
    let (reading, _, _) = measure(probe, slices);
    assert!(reading
        .notes
        .iter()
        .any(|note| note.reason.contains("s old: the system does not allow")));
    // SAFETY: the process has one thread (2).
    if unsafe { libc::fork() } == 0 {
        assert_eq!(read(probe).reserved, None, "they are another process's");
        std::process::exit(0);
    }
    let mut status = 1;
    // SAFETY: the call waits for the child that was just made (2).
    unsafe { libc::wait(&mut status) };
    assert_eq!(status, 0);
    let mut late = HeapProbe::new();
    assert_eq!(read(&mut late).arenas, None);
}

/// Checks that figures that are not renewed are reported as old.
fn old(probe: &mut HeapProbe) {
    let before = agrees(probe).allocator;
    let kept = fragment(100_000, 1100);
    let (probe, slice) = (glibc(probe), Budget::new(Duration::ZERO));
    probe.counting.lists_time = Duration::ZERO;
    // A count is started, but not waited for.
    assert_eq!(probe.count(&slice), Progress::More);
    let read = |probe: &mut Glibc| {
        probe.begin(&[], &[]);
        while probe.step(&PageMap::open().unwrap(), &Budget::unlimited()) == Ok(Progress::More) {}
        probe.finish()
    };
    let reading = read(probe);
    let figures = |a: &Allocator| (a.reserved, a.in_use, a.free, a.mmapped);
    assert_eq!(figures(&reading.allocator), figures(&before), "of one moment together");
    assert!(!reading.notes.iter().any(|note| note.reason.contains(" s old: ")));
    probe.counting.old = Duration::ZERO;
    let reading = read(probe);
    assert!(reading
        .notes
        .iter()
        .any(|note| note.reason.contains("s old: a new count is under way")));
    let mut steps = 1;
    while probe.count(&Budget::new(Duration::from_micros(300))) == Progress::More {
        steps += 1;
    }
    assert!(steps > 3);
    let after = read(probe).allocator;
    assert!(after.free.unwrap() > before.free.unwrap() + 100_000_000);
    assert_eq!(after.reserved, Some(after.free.unwrap() + after.in_use.unwrap()));
    // The count pauses now.
    probe.counting.pause = 1000;
    assert_eq!(probe.count(&Budget::unlimited()), Progress::Done);
    assert_eq!(figures(&read(probe).allocator), figures(&after));
    drop(black_box(kept));
}

/// Prints costs: run it with `--release --nocapture --ignored`.
fn bench(probe: &mut HeapProbe) {
    let start = Instant::now();
    *probe = HeapProbe::new();
    println!("new: {:?}", start.elapsed());
    glibc(probe).counting.pause = 0;
    measure(probe, slices);
    for alone in [true, false] {
        for size in [1100, 64, 4000] {
            let kept = fragment(200_000, size);
            sweep(probe, &format!("alone {alone}, 200,000 of {size}"));
            drop(black_box(kept));
        }
        let many = fragment(1_000_000, 64);
        sweep(probe, &format!("alone {alone}, 1,000,000 of 64"));
        drop(black_box(many));
        let mut kept = Vec::new();
        for chunks in [100, 900, 1000, 3000, 5000, 10_000, 20_000] {
            kept.push(fragment(chunks, 1100));
            measure(probe, slices);
            let (reading, steps, longest) = measure(probe, slices);
            let (free, age) = (reading.allocator.free, reading.allocator.measured_ms_ago);
            println!("alone {alone}, {chunks} more: {free:?} {age:?}, {steps}, {longest:?}");
        }
        drop(black_box(kept));
        std::thread::spawn(|| std::thread::sleep(Duration::from_secs(15)));
    }
    // A block next to 512 MiB in RAM is found. Then its header is overwritten, and everything is
    // searched.
    let layout = std::alloc::Layout::from_size_align(40 << 20, 4096).unwrap();
    // SAFETY: the size is not 0; the block is never freed (1).
    let moved = unsafe { std::alloc::alloc(layout) };
    let size = 512 << 20;
    foreign(size);
    for _ in 0..3 {
        let (reading, steps, longest) = measure(probe, slices);
        println!("search {size}: {:?}, {steps} steps, longest {longest:?}", reading.unlocated);
    }
    // SAFETY: the address is in the header of the block, in the page in front of it (1).
    unsafe { (black_box(moved as usize - 4096 + 8) as *mut usize).write_volatile(7) };
    for _ in 0..3 {
        let (reading, steps, longest) = measure(probe, slices);
        println!("missing one: {:?}, {steps} steps, longest {longest:?}", reading.unlocated);
    }
}

fn sweep(probe: &mut HeapProbe, what: &str) {
    for _ in 0..3 {
        let (mut steps, mut longest, start) = (0, Duration::ZERO, Instant::now());
        loop {
            let begun = cpu_time();
            let progress = probe.count(&slices());
            longest = longest.max(cpu_time().saturating_sub(begun));
            steps += 1;
            if progress == Progress::Done {
                break;
            }
        }
        println!("{what}: {:?}, {steps} steps, longest {longest:?}", start.elapsed());
    }
}

#[test]
fn process_vm_readv_refused() {
    run("refused", None);
}

#[test]
#[ignore = "prints costs"]
fn costs() {
    run("bench", None);
}

#[test]
fn young() {
    run("young", None);
}

#[test]
fn found_again_by_a_second_probe() {
    run("twice", None);
}

#[test]
fn fragmented() {
    run("fragmented", None);
}

#[test]
fn many_free_chunks() {
    run("many", None);
}

#[test]
fn figures_that_are_old() {
    run("old", None);
}

#[test]
fn arenas_of_threads() {
    run("threads", None);
}

#[test]
fn blocks_with_mappings_of_their_own() {
    run("mapped", None);
}

#[test]
fn after_a_fork() {
    run("forked", None);
}

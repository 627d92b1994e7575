//! Processes and servers for tests.
#![forbid(unsafe_code)]

mod container;
pub(crate) mod health;
mod mappings;
mod peak;
mod random;
mod shares;
mod zones;

pub(crate) use random::Random;

use super::assemble::{assemble, Facts};
use super::merge::pages::Spans;
use super::merge::sharing::Merged;
use super::model::lua::{self, Gc, LuaMappings, LuaVms, Subsystem};
use super::model::pools::{self, Creator, LivePool, PoolSizes, Pools};
use super::model::sharing::Sharing;
use super::model::*;

/// The pools of a small server.
fn pools() -> Pools {
    let creator = |name: &str, kind, live: u64, bytes: u64| Creator {
        creator: Some(name.to_owned()),
        object: "nginx".to_owned(),
        kind,
        live,
        created: 40 * live,
        destroyed: 39 * live,
        reset: 0,
        bytes: bytes * K,
        unused: 64 * K,
        large_bytes: 16 * K,
        large_count: 4,
        peak_bytes: bytes * K,
        sizes: PoolSizes(vec![(512, 30 * live), (4096, 9 * live)]),
    };
    let live = |name: &str, kind, age_s: u64, bytes: u64| LivePool {
        creator: Some(name.to_owned()),
        kind,
        age_s,
        bytes: bytes * K,
        large_bytes: 0,
        generation: (kind == pools::PoolKind::Cycle).then_some(3),
        server_name: (kind == pools::PoolKind::Request).then(|| "example.org".to_owned()),
        request: None,
    };
    let cycle = live("ngx_init_cycle", pools::PoolKind::Cycle, 3725, 700);
    let request = live("ngx_http_create_request", pools::PoolKind::Request, 61, 12);
    Pools {
        live: 51,
        created: 2040,
        destroyed: 1989,
        reset: 0,
        bytes: 860 * K,
        unused: 192 * K,
        large_bytes: 48 * K,
        large_count: 12,
        by_creator: vec![
            creator("ngx_init_cycle", pools::PoolKind::Cycle, 1, 700),
            creator("ngx_http_create_request", pools::PoolKind::Request, 35, 140),
            creator("ngx_event_accept", pools::PoolKind::Connection, 15, 20),
        ],
        cycles: vec![cycle.clone()],
        oldest: vec![request.clone()],
        largest: vec![cycle, request],
        ..shares::shared_out()
    }
}

/// A process without any known figure.
pub(crate) fn bare() -> Process {
    Process {
        kind: ProcessKind::Other,
        id: None,
        pid: 1,
        generation: None,
        state: ProcessState::Active,
        age_ms: 0,
        uptime_s: None,
        system: System::default(),
        breakdown: None,
        mappings: None,
        limits: None,
        allocator: None,
        pools: None,
        peak: None,
        zones: None,
        lua: None,
        text: None,
        stacks: None,
        hooks: None,
        own: None,
        notes: Vec::new(),
    }
}

const K: u64 = 1024;

/// A typical process of a small server; every figure is known.
pub(crate) fn full(kind: ProcessKind, id: Option<u32>, pid: i32) -> Process {
    let more = u64::try_from(pid % 7).unwrap_or(0) * 132 * K;
    let region = |reserved: u64, resident: u64| Region {
        reserved: Some(reserved * K),
        resident: Some(resident * K),
    };
    let mut heap = region(2640, 1204);
    heap.resident = heap.resident.map(|bytes| bytes + more);
    Process {
        kind,
        id,
        pid,
        generation: Some(3),
        state: ProcessState::Active,
        age_ms: 0,
        uptime_s: Some(3725),
        system: System {
            virtual_: Some(79_340 * K),
            resident: Some(12_804 * K + more),
            resident_anon: Some(8_212 * K + more),
            resident_file: Some(4_480 * K),
            resident_shmem: Some(112 * K),
            swap: Some(0),
            peak_resident: Some(13_000 * K + more),
            page_tables: Some(120 * K),
            hugetlb: Some(0),
            data: Some(20_480 * K),
            resident_huge: Some(2_048 * K),
            resident_private: Some(5_804 * K + more),
            resident_shared: Some(7_000 * K),
            shared_ms_ago: Some(250),
        },
        breakdown: Some(Breakdown(vec![
            (Category::GlibcHeap, heap),
            (Category::HttpLuajit, region(6_400, 5_800)),
            (Category::LuajitMcode, region(128, 100)),
            (Category::NginxShm, region(32_768, 112)),
            (Category::Text, region(9_216, 2_764)),
            (Category::Data, region(1_480, 1_012)),
            (Category::Stacks, region(8_324, 28)),
            (Category::FileOther, region(12_912, 1_284)),
            (Category::AnonOther, region(5_472, 500)),
        ])),
        mappings: Some(mappings::full()),
        limits: Some(Named(vec![("address_space".to_owned(), 1 << 31)])),
        allocator: Some(Allocator {
            name: "glibc".to_owned(),
            version: Some("2.36".to_owned()),
            reserved: Some(2640 * K),
            in_use: Some(1100 * K + more),
            free: Some(96 * K),
            mmapped: Some(528 * K),
            pools: Some(900 * K + more),
            nginx: Named(
                [("connections", 112), ("read_events", 48), ("write_events", 48)]
                    .map(|(name, size)| (name.to_owned(), size * K))
                    .into(),
            ),
            arenas: Some(2),
            measured_ms_ago: Some(12),
            measured_over_ms: Some(0),
        }),
        pools: Some(pools()),
        peak: Some(peak::full()),
        zones: Some(zones::uses()),
        lua: Some(vec![lua()]),
        text: Some(Text {
            bytes: 9_216 * K,
            objects: ["libcrypto.so.3", "libc.so.6", "nginx", "libluajit-5.1.so.2", "libm.so.6"]
                .iter()
                .zip([4_096, 2_048, 1_536, 1_024, 512])
                .map(|(path, kib)| TextObject { path: (*path).to_owned(), bytes: kib * K })
                .collect(),
        }),
        stacks: Some(Stacks {
            threads: Some(2),
            reserved: Some(8_324 * K),
            resident: Some(28 * K),
        }),
        hooks: Some(Hooks {
            pool: HookState::On,
            slab: HookState::On,
            lua: HookState::On,
            thread: HookState::On,
            master: Some(HookState::On),
        }),
        own: Some(ModuleCost { bytes: 12_288, snapshot_us: 240, longest_slice_us: 130 }),
        notes: vec![Note::new("the heap's figures are an estimate")],
    }
}

/// The VM of a small server.
fn lua() -> LuaVms {
    let mut sizes = lua::BlockSizes::default();
    for (count, n) in sizes.0.iter_mut().zip([9_000, 12_000, 20_500, 3_100, 800, 60]) {
        *count = n;
    }
    LuaVms {
        subsystem: Subsystem::Http,
        vms: 1,
        gc_bytes: Some(3_100 * K),
        allocated_bytes: 3_100 * K,
        peak_bytes: 5_900 * K,
        allocations: 45_000,
        resizes: 460,
        frees: 22_000,
        failures: 0,
        sizes,
        reserved: Some(6_400 * K),
        resident: Some(5_800 * K),
        segments: Some(LuaMappings { count: 2, bytes: 5_376 * K }),
        direct: Some(LuaMappings { count: 1, bytes: 1_024 * K }),
        overhead_bytes: Some(200 * K),
        free_bytes: Some(3_100 * K),
        largest_free: Some(1_900 * K),
        gc: Some(Gc {
            running: Some(true),
            pause: Some(200),
            stepmul: Some(200),
            gc64: Some(false),
            limit_bytes: Some(1 << 31),
        }),
    }
}

/// A server with these processes and two zones.
pub(crate) fn server(processes: Vec<Process>) -> Server {
    let facts = Facts {
        nginx: "1.22.1".to_owned(),
        product: Ok("nginx/1.22.1".to_owned()),
        time: (1_767_225_600, 7),
        page_size: 4096,
        answered_by: AnsweredBy { pid: 11, id: Some(0) },
        elapsed_us: 1830,
        container: container::limited(),
    };
    let mut merged = Merged::default();
    for process in &processes {
        let files = (0..1_120).fold(Spans::default(), |mut all, page| {
            all.insert(page);
            all
        });
        let sharing = Sharing {
            anon_shared: 2_500 * K,
            shared: 7_000 * K,
            files: files.pack(2048),
            ..Sharing::default()
        };
        merged.add(process.pid, process.generation, &sharing);
    }
    assemble(facts, processes, zones::reported(), &merged)
}

/// A master, four workers, one of an older generation, one that does not answer, a cache manager.
pub(crate) fn small() -> Server {
    let mut processes: Vec<_> =
        (0..4).map(|i| full(ProcessKind::Worker, Some(i), 11 + i as i32)).collect();
    processes.push(full(ProcessKind::Master, None, 10));
    if let Some(stuck) = processes.get_mut(2) {
        stuck.state = ProcessState::Unresponsive;
        stuck.age_ms = 12_345;
        stuck.notes.push(Note::new("it did not answer within 200 ms"));
    }
    processes.push(Process {
        state: ProcessState::ShuttingDown,
        generation: Some(2),
        uptime_s: Some(88_000),
        ..full(ProcessKind::Worker, Some(1), 7)
    });
    processes.push(Process {
        kind: ProcessKind::CacheManager,
        pid: 15,
        generation: Some(3),
        uptime_s: Some(42),
        system: full(ProcessKind::Worker, None, 15).system,
        notes: vec![Note::of(
            &["breakdown", "allocator"],
            "the process does not run the module's code: only the kernel's figures are known",
        )],
        ..bare()
    });
    Server { health: health::red(), ..server(processes) }
}

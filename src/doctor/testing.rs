//! Servers for the tests of the rules. They begin with a healthy server of a master and two workers.
#![forbid(unsafe_code)]

use crate::report::model::container::Container;
use crate::report::model::lua::LuaVms;
use crate::report::model::zones::{SharedZone, SlotClass, ZonePages, ZoneUse, ZoneVersions};
use crate::report::model::{Category, Named, Process, ProcessKind, Region, Server};
use crate::report::sample;

/// A healthy server: a master (pid 10) and two workers (pids 11 and 12), each with a small Lua VM and a
/// zone `one` of 10 MiB that is nearly empty, in no container.
pub(super) fn healthy() -> Server {
    let worker = |id| sample::full(ProcessKind::Worker, Some(id), 11 + id as i32);
    let mut processes = vec![sample::full(ProcessKind::Master, None, 10), worker(0), worker(1)];
    for process in &mut processes {
        process.notes.clear();
        process.zones = None;
    }
    let mut server = sample::server(processes);
    server.shared_zones.0.clear();
    server.container = None;
    server
}

/// Changes all workers of a server.
pub(super) fn with_workers(mut server: Server, change: impl Fn(&mut Process)) -> Server {
    let workers = server.processes.iter_mut().filter(|p| p.kind == ProcessKind::Worker);
    workers.for_each(change);
    server
}

/// A server in a container with this limit, usage and page cache.
pub(super) fn with_container(
    mut server: Server,
    limit: u64,
    usage: u64,
    page_cache: u64,
) -> Server {
    server.container = Some(Container {
        limit: Some(limit),
        usage: Some(usage),
        page_cache: Some(page_cache),
        headroom: Some(limit.saturating_sub(usage)),
        ..Container::default()
    });
    server
}

/// The VM of a healthy worker, with another GC count. Its footprint is twice that.
pub(super) fn lua(gc_bytes: u64) -> LuaVms {
    let Some(lua) = healthy().processes.swap_remove(1).lua.unwrap_or_default().pop() else {
        panic!("no VM in the sample");
    };
    LuaVms {
        gc_bytes: Some(gc_bytes),
        allocated_bytes: gc_bytes,
        resident: Some(2 * gc_bytes),
        reserved: Some(2 * gc_bytes),
        free_bytes: Some(gc_bytes),
        ..lua
    }
}

/// A server whose two workers have this VM, changed, and twice its GC count in RAM.
pub(super) fn with_lua(lua: LuaVms, change: impl Fn(&mut LuaVms)) -> Server {
    with_workers(healthy(), |process| {
        let mut lua = lua.clone();
        change(&mut lua);
        process.system.resident = lua.gc_bytes.map(|bytes| 2 * bytes);
        process.lua = Some(vec![lua]);
    })
}

/// A server with this zone.
pub(super) fn with_zone(name: &str, zone: SharedZone) -> Server {
    let mut server = healthy();
    let versions = ZoneVersions { newest: zone, older: Vec::new() };
    server.shared_zones.0.push((name.to_owned(), versions));
    server
}

/// Slots of one size, all in use.
pub(super) fn class(size: u64, reqs: u64, fails: u64) -> (String, SlotClass) {
    (size.to_string(), SlotClass { used: reqs.saturating_sub(fails), free: 0, reqs, fails })
}

/// A zone of 8 MiB without a free page.
pub(super) fn full_zone(owner: &str, slots: Vec<(String, SlotClass)>) -> SharedZone {
    let total = 2030;
    SharedZone {
        owner: Some(owner.to_owned()),
        generation: Some(1),
        current: true,
        size: 8 << 20,
        resident: Some(8 << 20),
        page_size: 4096,
        largest_allocation: Some(0),
        in_use: Some(total * 4096),
        fill_percent: Some(100),
        pages: Some(ZonePages {
            total,
            used: total,
            free: 0,
            largest_free_run: Some(0),
            free_runs: Some(0),
            reqs: Some(0),
            fails: Some(0),
        }),
        slots: Some(Named(slots)),
        ..SharedZone::default()
    }
}

/// A server with a zone `one` of 8 MiB without a free page, and slots of 64 bytes with these counts.
pub(super) fn with_full_zone(owner: &str, reqs: u64, fails: u64) -> Server {
    with_zone("one", full_zone(owner, vec![class(64, reqs, fails)]))
}

/// A server whose processes, first the workers, did this to a zone: allocations, frees, failures.
pub(super) fn with_uses(mut server: Server, name: &str, uses: &[(u64, u64, u64)]) -> Server {
    let (generation, mapped) =
        server.shared_zones.get(name).map_or((None, 0), |z| (z.newest.generation, z.newest.size));
    let workers = server.processes.iter_mut().filter(|p| p.kind == ProcessKind::Worker);
    for (worker, (allocations, frees, failures)) in workers.zip(uses) {
        let uses = ZoneUse {
            generation,
            mapped,
            touched: Some(0),
            touched_ms_ago: Some(0),
            allocations: Some(*allocations),
            frees: Some(*frees),
            failures: Some(*failures),
            bytes_requested: Some(0),
        };
        worker.zones.get_or_insert_default().0.push((name.to_owned(), uses));
    }
    server
}

/// A server whose workers have a heap of this size, of which so much is free, all of it in RAM.
pub(super) fn with_heap(reserved: u64, free: u64, arenas: u64) -> Server {
    with_workers(healthy(), |process| {
        if let Some(allocator) = &mut process.allocator {
            (allocator.reserved, allocator.free) = (Some(reserved), Some(free));
            (allocator.in_use, allocator.arenas) = (Some(reserved - free), Some(arenas));
        }
        for (category, region) in process.breakdown.iter_mut().flat_map(|all| &mut all.0) {
            if *category == Category::GlibcHeap {
                *region = Region { reserved: Some(reserved), resident: Some(reserved) };
            }
        }
        process.system.resident_private = Some(reserved);
    })
}

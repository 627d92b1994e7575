//! Servers for the tests of the rules. They begin with a healthy server of a master and two workers.
#![forbid(unsafe_code)]

use crate::report::model::lua::LuaVms;
use crate::report::model::zones::{SharedZone, ZoneVersions};
use crate::report::model::{Process, ProcessKind, Server};
use crate::report::sample;

/// A healthy server: a master (pid 10) and two workers (pids 11 and 12), each with a small Lua VM and a
/// zone `one` of 10 MiB that is nearly empty.
pub(super) fn healthy() -> Server {
    let worker = |id| sample::full(ProcessKind::Worker, Some(id), 11 + id as i32);
    let mut processes = vec![sample::full(ProcessKind::Master, None, 10), worker(0), worker(1)];
    for process in &mut processes {
        process.notes.clear();
        process.zones = None;
    }
    let mut server = sample::server(processes);
    server.shared_zones.0.clear();
    server
}

/// Changes all workers of a server.
pub(super) fn with_workers(mut server: Server, change: impl Fn(&mut Process)) -> Server {
    let workers = server.processes.iter_mut().filter(|p| p.kind == ProcessKind::Worker);
    workers.for_each(change);
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

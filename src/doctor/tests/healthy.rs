//! Servers that are healthy, and look as if they were not: all of them are green.
#![forbid(unsafe_code)]

use crate::doctor::examine;
use crate::doctor::testing::*;
use crate::report::model::health::HealthStatus;
use crate::report::model::zones::SharedZone;
use crate::report::model::{Process, ProcessState, Server};
use crate::report::sample;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

fn zone(owner: &str, reqs: u64, fails: u64) -> SharedZone {
    full_zone(owner, vec![class(128, reqs, fails)])
}

/// A server with a full zone, and what its workers did to it.
fn full(owner: &str, reqs: u64, fails: u64) -> Server {
    let uses = [(reqs - fails, fails, fails)];
    with_uses(with_zone("full", zone(owner, reqs, fails)), "full", &uses)
}

/// A server right after a reload, with an old worker, and the free memory of the old configuration in
/// the new workers.
fn reloaded() -> Server {
    let mut server = with_heap(200 * M, 100 * M, 1);
    let mut server_now = with_workers(server.clone(), |worker| {
        worker.uptime_s = Some(1);
        worker.system.resident_private = Some(4 * M);
    });
    let old = server.processes.pop().unwrap();
    server_now.processes.push(Process { state: ProcessState::ShuttingDown, pid: 7, ..old });
    server_now
}

/// A server whose workers hold thousands of old connections.
fn web_sockets() -> Server {
    with_workers(healthy(), |worker| {
        worker.uptime_s = Some(30 * 86_400);
        if let Some(pools) = &mut worker.pools {
            (pools.live, pools.bytes) = (20_000, 200 * M);
            pools.oldest.iter_mut().for_each(|pool| pool.age_s = 20 * 86_400);
        }
        worker.system.resident = Some(300 * M);
        if let Some(allocator) = &mut worker.allocator {
            (allocator.reserved, allocator.in_use) = (Some(260 * M), Some(250 * M));
            (allocator.free, allocator.pools) = (Some(10 * M), Some(200 * M));
        }
    })
}

/// A large server: 64 workers, and zones of many gigabytes that are well used.
fn huge() -> Server {
    let mut server = healthy();
    let worker = server.processes.pop().unwrap();
    server.processes.extend((0..64).map(|id| Process {
        id: Some(id),
        pid: 100 + id as i32,
        uptime_s: Some(10 * 86_400),
        ..worker.clone()
    }));
    for n in 0..200 {
        let mut zone = zone("ngx_http_proxy_module", 1 << 30, 1 << 29);
        (zone.size, zone.resident, zone.in_use) = (4 * G, Some(4 * G), Some(4 * G));
        let mut one = with_zone(&format!("cache{n}"), zone);
        server.shared_zones.0.append(&mut one.shared_zones.0);
    }
    server
}

#[test]
fn all_are_green() {
    let mut dict = zone("ngx_http_lua_module", 60_000, 30_000);
    dict.fill_percent = Some(97);
    let dict = with_uses(with_zone("dict", dict), "dict", &[(15_000, 15_000, 15_000); 2]);
    let mut static_dict = zone("ngx_http_lua_module", 100_000, 0);
    static_dict.fill_percent = Some(95);
    let static_dict = with_uses(with_zone("dict", static_dict), "dict", &[(100_000, 0, 0)]);
    let mut spiked = with_heap(90 * M, 60 * M, 2);
    spiked.totals.resident_unique = Some(200 * M);
    let lua_spike = with_lua(lua(20 * M), |lua| lua.resident = Some(100 * M));
    let mut spiked_dict = zone("ngx_http_lua_module", 60_000, 20_000);
    if let Some(pages) = &mut spiked_dict.pages {
        (pages.free, pages.used) = (1000, pages.total - 1000);
        (pages.largest_free_run, pages.free_runs) = (Some(900), Some(20));
    }
    let mut limit = zone("ngx_http_limit_conn_module", 1_000_000, 12);
    if let Some(slots) = &mut limit.slots {
        slots.0[0].1.free = 5_000;
    }
    let mut unknown_figures = healthy();
    for process in &mut unknown_figures.processes {
        (process.lua, process.allocator, process.pools) = (None, None, None);
    }
    let mut oversized = zone("ngx_http_lua_module", 1_000, 0);
    (oversized.size, oversized.resident, oversized.in_use) = (4 * G, Some(40 * M), Some(30 * M));
    oversized.fill_percent = Some(1);
    let oversized = with_workers(with_zone("dict", oversized), |w| w.uptime_s = Some(99 * 86_400));
    let one_process = {
        let mut process = sample::full(crate::report::model::ProcessKind::Single, None, 11);
        process.notes.clear();
        sample::server(vec![process])
    };
    let servers = [
        ("idle", healthy()),
        ("a cache that is full by design", full("ngx_http_proxy_module", 2_000_000, 1_000_000)),
        ("a dict that evicts the least recently used", dict),
        ("a dict with data that stays", static_dict),
        ("limits that forget the oldest clients", full("ngx_http_limit_req_module", 9_000, 4_400)),
        ("a cache of TLS sessions that is full", full("ngx_http_ssl_module", 80_000, 30_000)),
        ("an upstream's zone, filled at the start", full("ngx_http_upstream_module", 300, 0)),
        ("the module's own zone", full("ngx_http_memstat_module", 300, 0)),
        (
            "a module's zone that is filled at the start",
            with_zone("other", zone("ngx_other", 9, 0)),
        ),
        ("just reloaded", reloaded()),
        ("WebSockets by design", web_sockets()),
        ("a heap after a spike", spiked),
        ("Lua after a spike", lua_spike),
        ("a dict that was full at a peak", with_zone("dict", spiked_dict)),
        ("connections that were refused long ago", with_zone("limit", limit)),
        ("allocator, pools and Lua unknown", unknown_figures),
        ("a zone sized for years to come", oversized),
        ("one process", one_process),
        (
            "tiny",
            with_zone("tiny", SharedZone { size: 32 << 10, ..zone("ngx_http_lua_module", 9, 4) }),
        ),
        ("huge", huge()),
        ("of any kind", sample::small()),
    ];
    assert!(servers.len() >= 12);
    for (name, server) in servers {
        let health = examine(&server);
        assert_eq!(health.status, HealthStatus::Green, "{name}: {health:#?}");
    }
}

//! Servers with much load or much memory by design: none of them needs attention.
#![forbid(unsafe_code)]

use crate::doctor::examine;
use crate::doctor::testing::*;
use crate::report::model::health::{HealthStatus, VerdictStatus};
use crate::report::model::pools::PoolKind;
use crate::report::model::shares::PoolSum;
use crate::report::model::{Breakdown, Category, Process, ProcessState, Region, Server};

const M: u64 = 1 << 20;
const DAY: u64 = 86_400;

/// A server whose two workers run for days and have this much in RAM, nearly all of it in use.
fn large(resident: u64, change: impl Fn(&mut Process)) -> Server {
    let mut server = with_workers(with_heap(resident, 0, 1), |worker| {
        worker.uptime_s = Some(9 * DAY);
        worker.system.resident = Some(resident + 8 * M);
        worker.system.resident_private = Some(resident);
        change(worker);
    });
    server.totals.resident_unique = Some(2 * resident + 20 * M);
    server
}

/// Sets the pools of the requests.
fn set_requests(worker: &mut Process, live: u64, bytes: u64, unused: u64, large_bytes: u64) {
    let creators = worker.pools.iter_mut().flat_map(|pools| &mut pools.by_creator);
    for creator in creators.filter(|creator| creator.kind == PoolKind::Request) {
        (creator.live, creator.bytes, creator.unused) = (live, bytes, unused);
        creator.large_bytes = large_bytes;
    }
}

/// 30,000 WebSockets in each worker, of nginx's default sizes.
fn web_sockets() -> Server {
    large(600 * M, |worker| {
        set_requests(worker, 30_000, 120 * M, 60 * M, 300 * M);
        let pools = worker.pools.iter_mut();
        for pool in pools.flat_map(|pools| pools.oldest.iter_mut().chain(&mut pools.largest)) {
            (pool.age_s, pool.large_bytes) = (8 * DAY, 10 << 10);
        }
    })
}

/// Two workers whose 60,000 idle connections have 1 KiB each, and caches beside them.
fn cdn() -> Server {
    large(200 * M, |worker| {
        let idle = PoolSum { live: 30_000, bytes: 30_000 << 10, large_bytes: 0 };
        worker.pools.iter_mut().for_each(|pools| pools.idle = idle);
    })
}

/// Old workers, of one configuration, as large as the new ones.
fn reloaded(uptime_s: u64) -> Server {
    let mut server = large(400 * M, |worker| worker.uptime_s = Some(uptime_s));
    let old: Vec<_> = server.processes.iter().skip(1).cloned().collect();
    server.processes.extend(old.into_iter().map(|old| Process {
        pid: old.pid + 10,
        state: ProcessState::ShuttingDown,
        generation: Some(2),
        ..old
    }));
    server.totals.resident_unique = Some(1650 * M);
    server
}

/// A configuration of 400 MiB, as of an API gateway with thousands of routes.
fn gateway() -> Server {
    large(500 * M, |worker| {
        let cycles = worker.pools.iter_mut().flat_map(|pools| &mut pools.cycles);
        cycles.for_each(|cycle| cycle.large_bytes = 400 * M);
    })
}

/// Busy: many requests with large buffers, which end soon.
fn busy() -> Server {
    large(500 * M, |worker| {
        set_requests(worker, 2_000, 8 * M, 2 * M, 400 * M);
        let pools = worker.pools.iter_mut();
        pools.flat_map(|pools| &mut pools.largest).for_each(|pool| pool.age_s = 0);
    })
}

/// A library that maps half of the memory itself.
fn own_allocator() -> Server {
    large(400 * M, |worker| {
        let region = Region { reserved: Some(300 * M), resident: Some(300 * M) };
        worker.breakdown = Some(Breakdown(vec![(Category::AnonOther, region)]));
    })
}

/// Each figure of a tiny server is at its worst, and all of it is a few MiB.
fn tiny() -> Server {
    let mut server = with_workers(healthy(), |worker| {
        set_requests(worker, 900, 4 * M, 4 * M, 0);
        worker.system.resident = Some(6 * M);
        worker.system.swap = Some(20 * M);
        worker.state = ProcessState::Active;
        let pools = worker.pools.iter_mut();
        pools.for_each(|pools| {
            pools.idle = PoolSum { live: 900, bytes: 4 * M, large_bytes: 0 };
            pools.oldest.iter_mut().for_each(|pool| (pool.age_s, pool.bytes) = (90 * DAY, 2 * M));
        });
    });
    let old = server.processes[1].clone();
    server.processes.push(Process {
        pid: 20,
        state: ProcessState::ShuttingDown,
        generation: Some(1),
        ..old
    });
    server.totals.resident_unique = Some(16 * M);
    server
}

#[test]
fn all_are_green() {
    let worker_connections = large(60 * M, |worker| {
        let arrays = worker.allocator.iter_mut().flat_map(|allocator| &mut allocator.nginx.0);
        arrays.for_each(|(_, bytes)| *bytes = 20 * M);
    });
    // What each server is, the server, and the rules that may have a remark.
    let servers: [(&str, Server, &[&str]); 9] = [
        ("WebSockets by design", web_sockets(), &[]),
        ("a CDN with 60,000 idle connections", cdn(), &[]),
        ("just reloaded", reloaded(5), &[]),
        ("reloaded an hour ago, with WebSockets", reloaded(3600), &["reload-pileup"]),
        ("a gateway with a large configuration", gateway(), &["cycle-large"]),
        ("busy with large replies", busy(), &[]),
        ("memory of a library's own allocator", own_allocator(), &["unexplained"]),
        ("ready for many connections", worker_connections, &["worker-connections-large"]),
        ("tiny", tiny(), &[]),
    ];
    for (name, server, remarks) in servers {
        let health = examine(&server);
        assert_eq!(health.status, HealthStatus::Green, "{name}: {health:#?}");
        let ids: Vec<_> = health.verdicts.iter().map(|verdict| verdict.id).collect();
        assert_eq!(ids, remarks, "{name}: {health:#?}");
        assert!(health.verdicts.iter().all(|verdict| verdict.status == VerdictStatus::Info));
    }
}

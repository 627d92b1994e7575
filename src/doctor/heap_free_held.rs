//! malloc holds much memory that is free.
#![forbid(unsafe_code)]

use super::arenas_many::is_many;
use super::heap::heaps;
use super::verdict::{held, percent, verdict, Words};
use crate::report::model::health::{Directive, Verdict};
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "heap-free-held";

/// The free bytes of a process from which they are worth a word: a busy minute leaves less.
const LEAST: u64 = 32 << 20;

/// The percentage of the heap that is free.
const PERCENT: u64 = 50;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let held_by = heaps(server, LEAST, PERCENT, |allocator| !is_many(allocator));
    let Some(worst) = held_by.worst() else { return Vec::new() };
    let sum = held_by.sum();
    let has_lua = server.processes.iter().any(|p| p.lua.as_ref().is_some_and(|l| !l.is_empty()));
    let is_glibc = worst.allocator.name == "glibc";
    let action = match (is_glibc, has_lua) {
        (true, true) => "Let ngx_lua return it from time to time",
        (true, false) => {
            "A reload returns it once the old workers are gone. To keep it small, lower what requests \
             hold at a time (proxy_buffers, keepalive_timeout), or preload jemalloc with \
             MALLOC_CONF=dirty_decay_ms:0,muzzy_decay_ms:0"
        }
        (false, _) => "Let the allocator return free memory sooner, as its documentation says",
    };
    let directive = (is_glibc && has_lua).then(|| Directive {
        name: "lua_malloc_trim".to_owned(),
        context: "http".to_owned(),
        now: None,
        suggest: "100".to_owned(),
    });
    let words = Words {
        symptom: format!(
            "malloc holds {} of free memory in {}; in {} {} of {} are free, {}%",
            size(sum),
            held_by.names(),
            worst.name,
            size(worst.free),
            size(worst.reserved),
            percent(worst.free, worst.reserved).unwrap_or(0),
        ),
        impact: "The memory is used again by the next busy hour, but no other program gets it".to_owned(),
        cause: "More was in use at a time. Blocks that are still in use lie between free ones, and malloc \
                returns only what is free at the end of the heap"
            .to_owned(),
        action: action.to_owned(),
    };
    vec![verdict(ID, held(sum, server), words)
        .with("free", sum)
        .with("worst_free", worst.free)
        .with("worst_reserved", worst.reserved)
        .with("worst_in_use", worst.allocator.in_use)
        .change(directive)
        .about(held_by.processes())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{with_heap, with_workers};
    use crate::report::model::health::VerdictStatus;

    const M: u64 = 1 << 20;

    #[test]
    fn speaks() {
        let found = rule(&with_heap(64 * M, 32 * M, 1));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        let symptom =
            "malloc holds 64.0 MiB of free memory in workers 0-1; in worker 0 32.0 MiB of 64.0 \
                       MiB are free, 50%";
        assert_eq!(found[0].symptom, symptom);
        assert_eq!(found[0].directive.clone().unwrap().name, "lua_malloc_trim");
        let mut server = with_workers(with_heap(400 * M, 300 * M, 1), |p| p.lua = Some(Vec::new()));
        server.processes[0].lua = Some(Vec::new());
        server.totals.resident_unique = Some(1000 * M);
        let found = rule(&server);
        assert_eq!((found[0].status, &found[0].directive), (VerdictStatus::Yellow, &None));
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&with_heap(64 * M, 32 * M - 1, 1)), []);
        assert_eq!(rule(&with_heap(64 * M + 4 * M, 32 * M, 1)), [], "less than half");
        // Free memory that a worker got from the master by its fork is the master's.
        let shared = with_workers(with_heap(200 * M, 100 * M, 1), |process| {
            process.system.resident_private = Some(8 * M);
        });
        assert_eq!(rule(&shared), []);
    }
}

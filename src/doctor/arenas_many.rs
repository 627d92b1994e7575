//! glibc's malloc has many arenas, and much free memory in them.
#![forbid(unsafe_code)]

use super::heap::heaps;
use super::verdict::{held, verdict, Words};
use crate::report::model::health::Verdict;
use crate::report::model::{Allocator, Server};
use crate::report::units::size;

pub(super) const ID: &str = "arenas-many";

/// The arenas that are many. nginx has one thread that allocates much; a pool of threads for files needs
/// few. glibc makes up to eight a processor.
const MANY: u64 = 8;

/// The free bytes of a process from which they are worth a word.
const LEAST: u64 = 32 << 20;

/// The percentage of the heap that is free: each arena has free memory of its own.
const PERCENT: u64 = 30;

/// Whether the allocator has many arenas.
pub(super) fn is_many(allocator: &Allocator) -> bool {
    allocator.name == "glibc" && allocator.arenas.is_some_and(|arenas| arenas >= MANY)
}

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let many = heaps(server, LEAST, PERCENT, is_many);
    let Some(worst) = many.worst() else { return Vec::new() };
    let sum = many.sum();
    let arenas = worst.allocator.arenas.unwrap_or(0);
    let words = Words {
        symptom: format!(
            "malloc holds {} of free memory in many arenas in {}; {} has {arenas} arenas, in which {} of \
             {} are free",
            size(sum),
            many.names(),
            worst.name,
            size(worst.free),
            size(worst.reserved),
        ),
        impact: "Free memory of one arena is of no use to the threads of another".to_owned(),
        cause: "glibc gives threads that allocate at the same time an arena each".to_owned(),
        action: "Start nginx with MALLOC_ARENA_MAX=2 in its environment (in a unit of systemd: \
                 Environment=MALLOC_ARENA_MAX=2)"
            .to_owned(),
    };
    vec![verdict(ID, held(sum, server), words)
        .with("arenas", arenas)
        .with("free", sum)
        .with("worst_free", worst.free)
        .with("worst_reserved", worst.reserved)
        .about(many.processes())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::heap_free_held;
    use crate::doctor::testing::with_heap;

    const M: u64 = 1 << 20;

    #[test]
    fn speaks() {
        let server = with_heap(100 * M, 60 * M, MANY);
        let said = rule(&server);
        assert_eq!((said.len(), said[0].evidence.get("arenas")), (1, Some(&MANY)));
        assert_eq!(said[0].affected.processes, [11, 12]);
        // The other rule leaves it to this one.
        assert_eq!(heap_free_held::rule(&server), []);
        assert_eq!(rule(&with_heap(100 * M, 32 * M, MANY)).len(), 1);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&with_heap(100 * M, 60 * M, MANY - 1)), []);
        assert_eq!(rule(&with_heap(100 * M, 32 * M - 1, MANY)), []);
        assert_eq!(rule(&with_heap(120 * M, 32 * M, MANY)), []);
    }
}

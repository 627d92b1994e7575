//! A reload may need more memory than the container has left.
#![forbid(unsafe_code)]

use super::holders::{holders, serves};
use super::verdict::{verdict, Words};
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::{ProcessState, Server};
use crate::report::units::size;

pub(super) const ID: &str = "reload-headroom";

/// The least private memory of the workers that is worth a word, in bytes: less is hardly ever what
/// fills a container.
const LEAST: u64 = 64 << 20;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let Some(container) = &server.container else { return Vec::new() };
    let (Some(headroom), Some(cache)) = (container.headroom, container.page_cache) else {
        return Vec::new();
    };
    let left = headroom.saturating_add(cache);
    let workers = holders(server, |process| {
        let is_current = serves(process) && process.state != ProcessState::ShuttingDown;
        process.system.resident_private.filter(|_| is_current)
    });
    let private = workers.sum();
    if private < LEAST || left >= private {
        return Vec::new();
    }
    let words = Words {
        symptom: format!(
            "A second generation of workers needs up to {}, and the container has {} left",
            size(private),
            size(left),
        ),
        impact:
            "After a reload, the kernel may kill a process, if the old workers are still busy when \
                 the new ones have grown as large"
                .to_owned(),
        cause: "Old workers keep their memory until their last request or connection ends"
            .to_owned(),
        action: "Leave room in the container for two generations, or end old workers soon"
            .to_owned(),
    };
    vec![verdict(ID, VerdictStatus::Info, words)
        .with("resident_private", private)
        .with("headroom", headroom)
        .with("page_cache", cache)
        .about(workers.processes())
        .estimated()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{healthy, with_container, with_workers};
    use crate::report::model::health::Confidence;

    const M: u64 = 1 << 20;

    fn of(private: u64, usage: u64, page_cache: u64) -> Server {
        let server = with_container(healthy(), 1000 * M, usage * M, page_cache * M);
        with_workers(server, |worker| worker.system.resident_private = Some(private * M))
    }

    #[test]
    fn speaks() {
        let found = rule(&of(300, 700, 299));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        assert_eq!(found[0].confidence, Confidence::Estimated);
        let symptom = "A second generation of workers needs up to 600 MiB, and the container has 599 MiB left";
        assert_eq!(found[0].symptom, symptom);
        assert_eq!(found[0].affected.processes, [11, 12]);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&of(300, 700, 300)), [], "it fits");
        assert_eq!(rule(&of(31, 999, 0)), [], "small workers");
        let old = with_workers(of(300, 999, 0), |worker| worker.state = ProcessState::ShuttingDown);
        assert_eq!(rule(&old), [], "old workers are not doubled");
    }
}

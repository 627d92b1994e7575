//! The container's memory is nearly used up.
#![forbid(unsafe_code)]

use super::verdict::{is_share, percent, verdict, Words};
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "near-cgroup-limit";

/// The percentage of the limit from which what the kernel cannot give back is worth a change: the rest
/// is less than what a reload or a burst of requests may take.
const PERCENT: u64 = 85;

/// The percentage from which the next burst may have a process killed.
const MUCH_PERCENT: u64 = 95;

/// The percentage of the limit that is used, page cache included, from which a remark helps: tools that
/// count the page cache show the container as full.
const FULL_PERCENT: u64 = 95;

/// The least page cache for that remark, in bytes.
const LEAST_CACHE: u64 = 64 << 20;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let Some(container) = &server.container else { return Vec::new() };
    let (Some(limit), Some(usage), Some(cache)) =
        (container.limit, container.usage, container.page_cache)
    else {
        return Vec::new();
    };
    let held = usage.saturating_sub(cache);
    let share = percent(held, limit).unwrap_or(0);
    let left = limit.saturating_sub(held);
    let (status, words) = if is_share(held, limit, PERCENT) {
        let is_much = is_share(held, limit, MUCH_PERCENT);
        let words = Words {
            symptom: format!(
                "The container holds {} of its limit of {} without page cache, {share}%",
                size(held),
                size(limit),
            ),
            impact: format!(
                "After {} more, the kernel kills a process. A reload needs memory for two configurations",
                size(left),
            ),
            cause: "Processes, shared memory and the kernel's buffers need nearly all that the container \
                    may have"
                .to_owned(),
            action: "Raise the container's limit, or let nginx take less: the largest entries of the \
                     breakdown show where"
                .to_owned(),
        };
        (if is_much { VerdictStatus::Red } else { VerdictStatus::Yellow }, words)
    } else if is_share(usage, limit, FULL_PERCENT) && cache >= LEAST_CACHE {
        let words = Words {
            symptom: format!(
                "The container uses {}% of its limit, and {} of that is page cache",
                percent(usage, limit).unwrap_or(0),
                size(cache),
            ),
            impact: "It is harmless: the kernel gives page cache back when processes need memory".to_owned(),
            cause: format!(
                "Files that were read or written stay in RAM as long as there is room. Without them the \
                 container holds {}, {share}%",
                size(held),
            ),
            action: "Watch usage without page cache instead of usage".to_owned(),
        };
        (VerdictStatus::Info, words)
    } else {
        return Vec::new();
    };
    vec![verdict(ID, status, words)
        .with("limit", limit)
        .with("usage", usage)
        .with("page_cache", cache)
        .with("oom_kills", container.oom_kills)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{healthy, with_container};

    const M: u64 = 1 << 20;

    fn of(limit: u64, usage: u64, page_cache: u64) -> Server {
        with_container(healthy(), limit * M, usage * M, page_cache * M)
    }

    #[test]
    fn speaks() {
        let found = rule(&of(1000, 960, 110));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Yellow));
        let symptom =
            "The container holds 850 MiB of its limit of 1000 MiB without page cache, 85%";
        assert_eq!(found[0].symptom, symptom);
        assert!(found[0].impact.starts_with("After 150 MiB more"), "{}", found[0].impact);
        assert_eq!(rule(&of(1000, 990, 40))[0].status, VerdictStatus::Red);
        let cached = rule(&of(1000, 950, 600));
        assert_eq!(cached[0].status, VerdictStatus::Info);
        let symptom = "The container uses 95% of its limit, and 600 MiB of that is page cache";
        assert_eq!(cached[0].symptom, symptom);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&of(1000, 940, 100)), [], "84% without page cache");
        assert_eq!(rule(&of(1000, 949, 600)), [], "there is room");
        assert_eq!(rule(&of(300, 285, 63)), [], "little page cache");
        let mut server = of(1000, 990, 40);
        if let Some(container) = &mut server.container {
            container.limit = None;
        }
        assert_eq!(rule(&server), [], "no limit");
        assert_eq!(rule(&healthy()), [], "no container");
    }
}

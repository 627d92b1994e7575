//! Workers are swapped out.
#![forbid(unsafe_code)]

use super::holders::{holders, serves};
use super::verdict::{is_share, percent, verdict, Words};
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "swap";

/// The bytes of all workers from which they are worth a word: the kernel swaps out some memory that is
/// not used, even where there is room.
const LEAST: u64 = 64 << 20;

/// The percentage of the workers' anonymous memory from which it is worth a word.
const PERCENT: u64 = 10;

/// The bytes from which requests will need some of it, if it is also [`MUCH_PERCENT`].
const MUCH: u64 = 256 << 20;

/// The percentage from which it is more than what workers need at their start only.
const MUCH_PERCENT: u64 = 33;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let swapped =
        holders(server, |process| process.system.swap.filter(|swap| *swap > 0 && serves(process)));
    let sum = swapped.sum();
    let in_ram = swapped.total(|process, _| process.system.resident_anon.unwrap_or(0));
    let all = sum.saturating_add(in_ram);
    if sum < LEAST || !is_share(sum, all, PERCENT) {
        return Vec::new();
    }
    let is_much = sum >= MUCH && is_share(sum, all, MUCH_PERCENT);
    let words = Words {
        symptom: format!(
            "{} of the memory of {} is swapped out, {}%",
            size(sum),
            swapped.names(),
            percent(sum, all).unwrap_or(0),
        ),
        impact: match is_much {
            true => "Requests wait for the disk, and a worker that waits serves no other request",
            false => "It is harmless if requests do not need what is swapped out",
        }
        .to_owned(),
        cause: "The machine, or the container, had too little memory at a time".to_owned(),
        action: "Look at the rate of pages swapped in (vmstat: si). If it is not 0, give nginx more memory, \
                 or let it take less: the largest entries of the breakdown show where"
            .to_owned(),
    };
    let status = if is_much { VerdictStatus::Yellow } else { VerdictStatus::Info };
    vec![verdict(ID, status, words)
        .with("swap", sum)
        .with("resident_anon", in_ram)
        .with("processes", swapped.count())
        .about(swapped.processes())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{healthy, with_workers};

    const M: u64 = 1 << 20;

    fn swapped(swap: u64, resident_anon: u64) -> Server {
        with_workers(healthy(), |worker| {
            (worker.system.swap, worker.system.resident_anon) = (Some(swap), Some(resident_anon));
        })
    }

    #[test]
    fn speaks() {
        let found = rule(&swapped(32 * M, 288 * M));
        assert_eq!((found.len(), found[0].status), (1, VerdictStatus::Info));
        assert_eq!(found[0].symptom, "64.0 MiB of the memory of workers 0-1 is swapped out, 10%");
        assert_eq!(rule(&swapped(128 * M, 256 * M))[0].status, VerdictStatus::Yellow);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&swapped(32 * M - 1, 10 * M)), [], "little");
        assert_eq!(rule(&swapped(32 * M, 300 * M)), [], "a small part");
        assert_eq!(rule(&swapped(128 * M, 270 * M))[0].status, VerdictStatus::Info);
        let mut master = healthy();
        master.processes[0].system.swap = Some(300 * M);
        assert_eq!(rule(&master), [], "a master has nothing to do");
    }
}

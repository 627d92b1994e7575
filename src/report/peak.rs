//! Selects and keeps the worst moment of a process.
#![forbid(unsafe_code)]

use super::model::peak::{At, Peak, PeakCreator, PeakPools};
use super::model::pools::{LivePool, Pools};

/// The number of creators kept.
const CREATORS: usize = 5;

/// A moment replaces the worst one so far if it exceeds it by this many bytes, and by one part in
/// `PART`. Smaller steps are not worth reading the pools.
const STEP: u64 = 256 << 10;
const PART: u64 = 100;

impl PeakPools {
    /// Returns the part of `pools` that is kept, with the largest pool of a request.
    pub fn of(pools: &Pools, request: Option<LivePool>) -> Self {
        let creators = pools.by_creator.iter().map(|creator| PeakCreator {
            creator: creator.creator.clone(),
            object: creator.object.clone(),
            kind: creator.kind,
            live: creator.live,
            bytes: creator.bytes,
            large_bytes: creator.large_bytes,
        });
        let server = pools.by_server.as_ref().and_then(|shares| shares.largest.first());
        PeakPools {
            live: pools.live,
            bytes: pools.bytes,
            large_bytes: pools.large_bytes,
            by_creator: creators.filter(|creator| creator.live > 0).take(CREATORS).collect(),
            server: server.cloned(),
            request,
        }
    }
}

/// The worst moment of a process so far.
#[derive(Debug, Default)]
pub struct Worst(Option<Peak>);

impl Worst {
    /// Returns whether a moment with this resident size, in bytes, replaces the worst one so far.
    pub fn is_worse(&self, resident: u64) -> bool {
        self.0.as_ref().is_none_or(|worst| {
            let step = (worst.resident / PART).max(STEP);
            resident >= worst.resident.saturating_add(step)
        })
    }

    /// Keeps a moment if it is worse than the worst one so far. `pools` is only called then.
    pub fn see(&mut self, at: At, resident: u64, pools: impl FnOnce() -> Option<PeakPools>) {
        if self.is_worse(resident) {
            self.0 = Some(Peak { at, resident, unseen: None, pools: pools() });
        }
    }

    /// Returns the worst moment so far. `highest` is the kernel's peak of the resident size.
    pub fn peak(&self, highest: Option<u64>) -> Option<Peak> {
        let worst = self.0.clone()?;
        let unseen = highest.map(|highest| highest.saturating_sub(worst.resident));
        Some(Peak { unseen, ..worst })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::pools::Creator;
    use crate::report::model::ProcessKind;
    use crate::report::sample::full;

    const M: u64 = 1 << 20;

    fn seen(moments: &[u64]) -> Peak {
        let mut worst = Worst::default();
        for (at, resident) in (1..).zip(moments) {
            worst.see(At(at), *resident, || None);
        }
        worst.peak(Some(500 * M)).unwrap()
    }

    #[test]
    fn the_worst_moment() {
        assert_eq!(Worst::default().peak(None), None);
        let table: [(&[u64], u64); 7] = [
            (&[M], 1),
            (&[0], 1),
            (&[M, 2 * M, M], 2),
            // Not worth a record.
            (&[M, M + STEP - 1], 1),
            (&[M, M + STEP], 2),
            (&[400 * M, 403 * M], 1),
            (&[400 * M, 404 * M, 405 * M], 2),
        ];
        for (moments, at) in table {
            let peak = seen(moments);
            assert_eq!(peak.at, At(at), "{moments:?}");
            assert_eq!(peak.resident, moments[at as usize - 1]);
            assert_eq!(peak.unseen, Some(500 * M - peak.resident));
        }
        assert_eq!(seen(&[u64::MAX, u64::MAX]).unseen, Some(0));
    }

    #[test]
    fn pools_are_asked_for_only_when_it_is_worse() {
        let mut worst = Worst::default();
        worst.see(At(1), M, || None);
        worst.see(At(2), M, || unreachable!());
    }

    #[test]
    fn five_creators_that_held_something() {
        let mut pools = full(ProcessKind::Worker, Some(0), 11).pools.unwrap();
        let one = pools.by_creator[0].clone();
        pools.by_creator = (0..8).map(|live| model_creator(&one, live)).collect();
        let peak = PeakPools::of(&pools, None);
        assert_eq!(peak.by_creator.iter().map(|c| c.live).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!((peak.size(), peak.live), (pools.bytes + pools.large_bytes, pools.live));
        let first = &pools.by_server.unwrap().largest[0];
        assert_eq!(peak.server.as_ref(), Some(first));
    }

    fn model_creator(one: &Creator, live: u64) -> Creator {
        Creator { live, ..one.clone() }
    }

    #[test]
    fn times() {
        assert_eq!(
            serde_json::to_string(&At(1_767_225_600_007)).unwrap(),
            "\"2026-01-01T00:00:00.007Z\""
        );
    }
}

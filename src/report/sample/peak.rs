//! Worst moments of samples.
#![forbid(unsafe_code)]

use super::{pools, shares, Random, K};
use crate::report::model::peak::{At, Peak, PeakCreator, PeakPools};

/// That of a process on a small server.
pub(super) fn full() -> Peak {
    let pools = pools();
    let request = pools.oldest.first().cloned();
    Peak {
        at: At(1_767_222_000_000),
        resident: 12_900 * K,
        unseen: Some(100 * K),
        pools: Some(PeakPools::of(&pools, request)),
    }
}

impl Random {
    pub(super) fn peak(&mut self) -> Peak {
        Peak {
            at: At(self.figure()),
            resident: self.figure(),
            unseen: self.maybe_figure(),
            pools: self.maybe(|r| PeakPools {
                live: r.figure(),
                bytes: r.figure(),
                large_bytes: r.figure(),
                by_creator: r.many(|r| PeakCreator {
                    creator: r.maybe(Self::text),
                    object: r.text(),
                    kind: r.kind(),
                    live: r.figure(),
                    bytes: r.figure(),
                    large_bytes: r.figure(),
                }),
                server: r.maybe(shares::share),
                request: r.maybe(Self::live_pool),
            }),
        }
    }
}

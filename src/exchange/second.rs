//! The worst moment of a process: it looks at itself once a second.
//!
//! The timer is one that nginx does not wait for when a worker ends. A look reads one line of the
//! kernel's; only where more is resident than ever before are the pools read, in slices. A snapshot
//! looks, too, see [`Snapshot::finish`](crate::probe::snapshot::Snapshot::finish).

use std::time::{Duration, Instant};

use super::{now_ms, Exchange, SLICE};
use crate::budget::{Budget, Progress};
use crate::nginx::event::{Handler, Timer};
use crate::nginx::trace;
use crate::probe::snapshot::{worst, Probes};
use crate::report::model::peak::At;
use crate::report::model::HookState;
use crate::sys::status;

/// From one look to the next, in milliseconds.
const SECOND_MS: u64 = 1000;

/// From one slice of reading pools to the next, in milliseconds.
const NEXT_MS: u64 = 1;

/// Reading pools rests for so many times as long as it took: half a percent of the time is for it.
const REST: u32 = 200;

/// The looks of a process.
pub(super) struct Looks {
    timer: Timer,
    /// The look whose pools are being read.
    look: Option<Sighting>,
    /// How long the pools have been read for it.
    spent: Duration,
    /// When pools may be read again.
    rests_until_ms: u64,
}

/// What a look has seen.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    at: At,
    resident: u64,
}

impl Looks {
    /// The first look is a second from now.
    pub(super) fn begin(handler: Handler) -> Self {
        let mut timer = Timer::cancelable(handler);
        timer.set(SECOND_MS);
        Looks { timer, look: None, spent: Duration::ZERO, rests_until_ms: 0 }
    }
}

impl Sighting {
    /// A look now, if it sees more than all before.
    fn now(probes: &Probes) -> Option<Self> {
        if !probes.worst.is_worse(status::own_resident().ok()?) {
            return None;
        }
        // `statm` is off by some pages for each processor.
        let resident = status::own().ok()?.system.resident?;
        probes.worst.is_worse(resident).then(|| Sighting { at: worst::now(), resident })
    }

    /// Reads pools until the budget is spent; whether all is seen.
    fn step(self, probes: &mut Probes, requests: bool, budget: &Budget) -> bool {
        if probes.pools.step(budget) == Progress::More {
            return false;
        }
        if let Ok(read) = probes.pools.finish(requests) {
            probes.worst.see(self.at, self.resident, || Some(read.moment()));
        }
        true
    }
}

impl Exchange {
    /// It is time for a look, or for more of one.
    pub fn second(&mut self) {
        let has_pools = self.hooks.pool == HookState::On;
        let (requests, probes) = (self.requests, &mut self.probes);
        let Some(local) = &mut self.local else { return };
        let looks = &mut local.looks;
        if local.job.is_some() {
            // The snapshot under way reads the same pools, and looks when it is done.
            looks.look = None;
            return looks.timer.set(SECOND_MS);
        }
        if looks.look.is_none() && now_ms() >= looks.rests_until_ms {
            looks.spent = Duration::ZERO;
            looks.look = Sighting::now(probes);
            match looks.look {
                Some(_) if has_pools => probes.pools.begin(trace::tracer()),
                Some(Sighting { at, resident }) => {
                    probes.worst.see(at, resident, || None);
                    looks.look = None;
                }
                None => {}
            }
        }
        let Some(look) = looks.look else { return looks.timer.set(SECOND_MS) };
        let begun = Instant::now();
        let has_seen = look.step(probes, requests, &Budget::new(SLICE));
        looks.spent = looks.spent.saturating_add(begun.elapsed());
        if !has_seen {
            return looks.timer.set(NEXT_MS);
        }
        looks.look = None;
        let rest = looks.spent.saturating_mul(REST).as_millis();
        looks.rests_until_ms = now_ms().saturating_add(u64::try_from(rest).unwrap_or(u64::MAX));
        looks.timer.set(SECOND_MS);
    }
}

/// Looks at this process in one piece, for so long at most: a master that has two configurations.
pub(super) fn look_at_once(probes: &mut Probes, has_pools: bool, most: Duration) {
    let Some(look) = Sighting::now(probes) else { return };
    if !has_pools {
        return probes.worst.see(look.at, look.resident, || None);
    }
    let begun = Instant::now();
    probes.pools.begin(trace::tracer());
    while !look.step(probes, false, &Budget::new(SLICE)) {
        if begun.elapsed() > most {
            return;
        }
    }
}

//! Records the worst moment of a process, which looks at itself once a second.
//!
//! The timer is cancelable: nginx does not wait for it when a worker exits. A look reads one line
//! from the kernel. The pools are read, in slices, only if more memory is resident than in any
//! earlier look. A snapshot counts as a look, see
//! [`Snapshot::finish`](crate::probe::snapshot::Snapshot::finish).

use std::time::{Duration, Instant};

use super::{now_ms, Exchange, SLICE};
use crate::budget::{Budget, Progress};
use crate::nginx::event::{Handler, Timer};
use crate::nginx::trace;
use crate::probe::snapshot::{worst, Probes};
use crate::report::model::peak::At;
use crate::report::model::HookState;
use crate::sys::status;

/// The time between two looks, in milliseconds.
const SECOND_MS: u64 = 1000;

/// The time between two slices of reading pools, in milliseconds.
const NEXT_MS: u64 = 1;

/// After reading the pools, the next reading waits for this multiple of the time it took, so that
/// reading takes at most half a percent of a processor.
const REST: u32 = 200;

/// The state of a process's looks at itself.
pub(super) struct Looks {
    timer: Timer,
    /// The look whose pools are being read.
    look: Option<Sighting>,
    /// The time spent on reading the pools for it.
    spent: Duration,
    /// When the pools may be read again.
    rests_until_ms: u64,
}

/// The result of a look.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    at: At,
    resident: u64,
}

impl Looks {
    /// Schedules the first look, a second from now.
    pub(super) fn begin(handler: Handler) -> Self {
        let mut timer = Timer::cancelable(handler);
        timer.set(SECOND_MS);
        Looks { timer, look: None, spent: Duration::ZERO, rests_until_ms: 0 }
    }
}

impl Sighting {
    /// Looks now. Returns `None` if no more memory is resident than in the worst moment so far.
    fn now(probes: &Probes) -> Option<Self> {
        if !probes.worst.is_worse(status::own_resident().ok()?) {
            return None;
        }
        // `statm` can differ by some pages for each processor, so the exact figure decides.
        let resident = status::own().ok()?.system.resident?;
        probes.worst.is_worse(resident).then(|| Sighting { at: worst::now(), resident })
    }

    /// Reads pools until the budget is spent. Returns whether all were read.
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
    /// Called by the timer: begins a look, or continues one.
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

/// Looks at this process at once, for at most the time `most`. Used in a master that holds two
/// configurations.
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

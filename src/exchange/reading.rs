//! A process's readings of itself, in slices: its snapshot, and the zones if it answers.

use std::time::Instant;

use super::ticket::{Ticket, FRESH_MS, REFRESH_HEAP, REFRESH_ZONES};
use super::{now_ms, Exchange, Local};
use crate::budget::{Budget, Progress};
use crate::nginx::{arrays, process, trace, zones};
use crate::probe::shared::Remembered;
use crate::probe::snapshot::{Identity, Probes, Snapshot, Taken};
use crate::probe::zones::ZonesReading;
use crate::report::model::zones::SharedZone;
use crate::report::model::{Hooks, ProcessState, Published, PublishedRef};
use crate::report::shrink;
use crate::scoreboard::{Asker, PublishError, Slot};

/// The zones as this process has read them. Only a process that answers reads them.
pub(super) enum Zones {
    Reading(Box<ZonesReading>),
    /// The zones by name, and when they were read.
    Read(Vec<(String, SharedZone)>, u64),
}

impl Zones {
    /// Returns when the zones were read; 0 if they were not, or are being read again.
    pub(super) fn read_ms(&self) -> u64 {
        match self {
            Zones::Read(_, at_ms) => *at_ms,
            Zones::Reading(_) => 0,
        }
    }
}

/// Publishes a snapshot. Shortens it if a slot has no room for all of it.
pub(super) fn publish(slot: Slot, taken: &Taken, done_ms: u64) {
    let Taken { process, zones, sharing } = taken;
    let whole = PublishedRef { process, zones, sharing };
    if slot.publish(&whole, done_ms) == Err(PublishError::TooLarge) {
        let Taken { process, zones, sharing } = taken.clone();
        let published = Published { process, zones, sharing };
        shrink::until(published, |shorter| slot.publish(shorter, done_ms).is_ok());
    }
}

/// Makes the next snapshot read the wanted figures again, whatever it costs.
pub(super) fn refresh(probes: &mut Probes, wants: u32) {
    if wants & REFRESH_HEAP != 0 {
        probes.heap.refresh_full();
    }
    if wants & REFRESH_ZONES != 0 {
        probes.refresh_zones = true;
        probes.resident = Remembered::default();
    }
}

impl Exchange {
    /// Works for a slice on the readings that a ticket or another process needs. Returns whether there
    /// is more to read.
    pub(super) fn read(&mut self, now: u64, budget: &Budget) -> bool {
        let Some(local) = &self.local else {
            return false;
        };
        if budget.spent() || local.tickets.iter().any(|ticket| ticket.deadline_ms <= now) {
            // Answers that are due come first.
            return true;
        }
        let mut oldest = local.tickets.iter().map(Ticket::oldest_ms).max();
        if !local.askers.is_empty() {
            let young = if local.wants_new { now } else { now.saturating_sub(FRESH_MS) };
            oldest = oldest.max(Some(young));
        }
        let Some(oldest) = oldest else { return self.count_on(budget) };
        let own_is_old =
            local.job.is_some() || local.own.as_ref().is_none_or(|(_, at_ms)| *at_ms < oldest);
        // Zones come first: reading them touches pages, which the snapshot then counts.
        self.read_zones(oldest, budget);
        if own_is_old {
            self.read_own(budget);
        }
        self.wake_askers(oldest);
        let is_under_way = |local: &Local| {
            let zones_are_old = !local.tickets.is_empty() && local.zones.read_ms() < oldest;
            local.job.is_some() || zones_are_old
        };
        let more = self.local.as_ref().is_some_and(is_under_way);
        self.count_on(budget) || more
    }

    /// Continues a count of the allocator that no snapshot waits for. Returns whether there is more.
    fn count_on(&mut self, budget: &Budget) -> bool {
        let is_waited_for = self.local.as_ref().is_none_or(|local| local.job.is_some());
        let heap = &mut self.probes.heap;
        if is_waited_for || !heap.is_counting() {
            return false;
        }
        budget.spent() || heap.count(budget) == Progress::More
    }

    /// Works for a slice on this process's own snapshot. Publishes it when it is done.
    fn read_own(&mut self, budget: &Budget) {
        let under_way = self.local.as_mut().and_then(|local| local.job.take());
        let (mut job, identity) = under_way.unwrap_or_else(|| (Snapshot::begin(), self.identity()));
        let Some(local) = &mut self.local else { return };
        if job.step(&identity, &mut self.probes, budget) == Progress::More {
            local.job = Some((job, identity));
            return;
        }
        let taken = job.finish(&identity, &mut self.probes);
        let done_ms = now_ms();
        let slot = local.me.and_then(|me| self.board.get(me));
        if let Some(slot) = slot.filter(|slot| slot.is_of(process::pid())) {
            publish(slot, &taken, done_ms);
        }
        local.own = Some((taken, done_ms));
        local.wants_new = false;
    }

    /// Works for a slice on the reading of zones, which only tickets need.
    fn read_zones(&mut self, oldest: u64, budget: &Budget) {
        let Some(local) = self.local.as_mut().filter(|local| !local.tickets.is_empty()) else {
            return;
        };
        if local.own.is_none() {
            return;
        }
        if matches!(local.zones, Zones::Read(_, at_ms) if at_ms < oldest) {
            let known = std::mem::take(&mut self.probes.resident);
            let reading = ZonesReading::begin(zones::mappings(), zones::LAYOUT, known);
            local.zones = Zones::Reading(Box::new(reading));
        }
        if let Zones::Reading(reading) = &mut local.zones {
            if reading.step(budget) == Progress::Done {
                let (zones, known) = reading.finish();
                self.probes.resident = known;
                local.zones = Zones::Read(zones, now_ms());
            }
        }
    }

    /// Wakes the processes that wait for this process's snapshot, if it is done.
    fn wake_askers(&mut self, oldest: u64) {
        let Some(local) = &mut self.local else { return };
        if local.job.is_none() && local.own.as_ref().is_some_and(|(_, at_ms)| *at_ms >= oldest) {
            let me = local.me.map(Asker::Slot);
            for asker in std::mem::take(&mut local.askers) {
                if Some(asker) != me {
                    self.wake_asker(asker);
                }
            }
        }
    }

    /// Starts new readings of the wanted figures, whatever they cost.
    pub(super) fn refresh(&mut self, wants: u32) {
        refresh(&mut self.probes, wants);
        if wants & REFRESH_ZONES != 0 {
            if let Some(local) = &mut self.local {
                // A reading under way may have figures from before.
                if matches!(local.zones, Zones::Reading(_)) {
                    local.zones = Zones::Read(Vec::new(), 0);
                }
            }
        }
        if let Some(local) = self.local.as_mut().filter(|_| wants != 0) {
            local.job = None;
            local.wants_new = true;
        }
    }

    /// Returns the hooks of this process.
    fn hooks_here(&self) -> Hooks {
        let hooks = self.hooks.clone();
        let master = hooks.master.filter(|_| !process::is_single());
        Hooks { master, ..hooks }
    }

    pub(super) fn identity(&mut self) -> Identity {
        let (kind, started) = match &mut self.local {
            Some(local) => (*local.kind.get_or_insert_with(process::kind), local.started),
            None => (process::kind(), Instant::now()),
        };
        Identity {
            kind,
            id: process::worker_id(),
            pid: process::pid(),
            generation: self.generation,
            state: if process::is_shutting_down() {
                ProcessState::ShuttingDown
            } else {
                ProcessState::Active
            },
            started,
            hooks: self.hooks_here(),
            own_bytes: crate::own::live_bytes(),
            arrays: arrays::arrays(),
            membership: self.board.membership(),
            zones: zones::mappings(),
            slab: zones::LAYOUT,
            tracer: trace::tracer,
            requests: self.requests,
        }
    }
}

//! The master's part: it runs no event loop, and answers while it sleeps (see [`hook::sleep`]).
//!
//! It is asked like every process, by a bit in its slot, and woken by an eventfd of its own. What it
//! has is never used by its children, which inherit it: they drop all but the eventfd.

use std::time::{Duration, Instant};

use super::reading::{publish, refresh};
use super::ticket::FRESH_MS;
use super::{now_ms, Exchange, EXCHANGE, SLICE, WAKERS};
use crate::budget::{Budget, Progress};
use crate::hook::slab;
use crate::hook::sleep::{Event, Next};
use crate::nginx::event::Waker;
use crate::nginx::{guard, process};
use crate::probe::snapshot::{Identity, Probes, Snapshot, Taken};
use crate::report::model::{Kind, Process};
use crate::scoreboard::{Asker, Board};
use crate::sys::{life, status};

/// A process this young waits for a master that has not published yet.
const YOUNG: Duration = Duration::from_secs(2);
/// The most time that reading the configuration is prolonged by a snapshot of the master.
const MOST_AT_ONCE: Duration = Duration::from_millis(100);

/// The master's part in answering.
pub(super) struct Master {
    /// Wakes it: the same descriptor in all its children.
    waker: Option<Waker>,
    /// A snapshot of when it had read the configuration, where it cannot answer; and its time.
    loaded: Option<(Taken, u64)>,
    awake: Option<Box<Awake>>,
}

/// What only the master itself has.
struct Awake {
    probes: Probes,
    me: Option<usize>,
    /// The signals that nginx has noticed, when it went to sleep.
    noticed: process::Signals,
    /// The snapshot under way.
    job: Option<(Snapshot, Identity)>,
    /// When the last one was published.
    published_ms: Option<u64>,
    /// Whether the next one is wanted however young the last one is.
    fresh: bool,
    /// Who is to be woken once it is done.
    askers: Vec<Asker>,
}

impl Master {
    /// A master that answers, if it is hooked. `before` is that of the cycle before.
    pub(super) fn prepare(
        is_hooked: bool,
        board: &Board,
        before: Option<Master>,
    ) -> Result<Self, String> {
        if !is_hooked {
            before.into_iter().for_each(|mut before| before.release(board));
            return Ok(Master { waker: None, loaded: None, awake: None });
        }
        if let Some(before @ Master { waker: Some(_), awake: Some(_), .. }) = before {
            return Ok(Master { loaded: None, ..before });
        }
        let waker = Waker::new().map_err(|error| format!("eventfd() failed: {error}"))?;
        let awake = Awake {
            probes: Probes::default(),
            me: None,
            noticed: process::signals(),
            job: None,
            published_ms: None,
            fresh: false,
            askers: Vec::new(),
        };
        Ok(Master { waker: Some(waker), loaded: None, awake: Some(Box::new(awake)) })
    }

    /// A child begins: it is not the master.
    pub(super) fn forget(&mut self) {
        self.awake = None;
    }

    /// Gives the slot back.
    pub(super) fn release(&mut self, board: &Board) {
        if let Some(awake) = &mut self.awake {
            awake.job = None;
            awake.published_ms = None;
            if let Some(slot) = awake.me.take().and_then(|me| board.get(me)) {
                slot.release(process::pid(), |_| {});
            }
        }
    }
}

/// The master sleeps, or is woken.
pub fn asleep(event: Event) -> Next {
    guard(Next::Leave, || {
        let next = EXCHANGE.with(|exchange| {
            // Another cycle may come to be at the same address.
            exchange.take_if(|exchange| process::is_master() && !exchange.is_current());
            exchange.as_mut().map(|exchange| exchange.sleeps(event))
        });
        next.flatten().unwrap_or(Next::Leave)
    })
}

impl Exchange {
    /// There is no location any more that could ask.
    pub fn retire(mut self) -> Option<Exchange> {
        self.master.release(&self.board);
        self.has_joined().then_some(self)
    }

    /// Whether this is the master of the cycle that this was prepared for. The board is gone with the
    /// cycle: nginx may have read a configuration that does not load this module.
    fn is_current(&self) -> bool {
        process::is_master() && self.masters_cycle == Some(process::cycle())
    }

    /// The master is about to sleep, or was woken: see [`Event`].
    fn sleeps(&mut self, event: Event) -> Next {
        if !self.is_current() {
            return Next::Leave;
        }
        let Some(waker) = self.master.waker.as_ref().map(Waker::descriptor) else {
            return Next::Leave;
        };
        match event {
            Event::Sleeps => self.fall_asleep(),
            Event::Woken => self.master.waker.iter().for_each(Waker::take),
            Event::Quiet => {}
            Event::Interrupted => {
                self.wake_up();
                return Next::Return;
            }
            Event::Refused => {
                self.master.release(&self.board);
                return Next::Leave;
            }
        }
        let Some(awake) = &self.master.awake else { return Next::Leave };
        if awake.noticed != process::signals() {
            // Some kernels run handlers although they say that there was no signal.
            self.wake_up();
            return Next::Return;
        }
        if awake.me.is_none() {
            return Next::Leave;
        }
        match self.turn_of_master() {
            Progress::More => Next::GoOn,
            Progress::Done => Next::Sleep(waker),
        }
    }

    fn fall_asleep(&mut self) {
        let Some(awake) = &mut self.master.awake else { return };
        awake.noticed = process::signals();
        let pid = process::pid();
        let slot = awake.me.and_then(|me| self.board.get(me));
        if !slot.is_some_and(|slot| slot.is_of(pid)) {
            slab::is_master();
            awake.me = self.board.claim(pid, true, life::exists);
            awake.published_ms = None;
            // So that the first snapshot is there before anybody asks for one.
            awake.fresh = true;
        }
        if let Some(slot) = awake.me.and_then(|me| self.board.get(me)) {
            slot.set_away(false);
        }
    }

    /// nginx has something to do, which may change what a snapshot under way has read.
    fn wake_up(&mut self) {
        let Some(awake) = &mut self.master.awake else { return };
        awake.job = None;
        if !process::is_to_reload() {
            return;
        }
        // That may take long: nobody waits for it.
        if let Some(slot) = awake.me.and_then(|me| self.board.get(me)) {
            slot.set_away(true);
            slot.take_askers(|asker| awake.askers.push(asker));
        }
        let askers = std::mem::take(&mut awake.askers);
        askers.into_iter().for_each(|asker| self.wake_asker(asker));
    }

    /// A slice of what others asked for.
    fn turn_of_master(&mut self) -> Progress {
        if self.master_has_to_begin() {
            let job = (Snapshot::begin(), self.identity());
            if let Some(awake) = &mut self.master.awake {
                awake.job = Some(job);
            }
        }
        let Some(awake) = self.master.awake.as_deref_mut() else { return Progress::Done };
        let Some(slot) = awake.me.and_then(|me| self.board.get(me)) else { return Progress::Done };
        if let Some((mut job, identity)) = awake.job.take() {
            if job.step(&identity, &mut awake.probes, &Budget::new(SLICE)) == Progress::More {
                awake.job = Some((job, identity));
                return Progress::More;
            }
            let taken = with_uptime(job.finish(&identity, &mut awake.probes));
            let done_ms = now_ms();
            publish(slot, &taken, done_ms);
            awake.fresh = false;
            if awake.published_ms.replace(done_ms).is_none() {
                // Children that began before wait for it, without having asked.
                (0..WAKERS).for_each(|waker| self.ring(waker));
                return Progress::Done;
            }
        }
        let askers = std::mem::take(&mut awake.askers);
        askers.into_iter().for_each(|asker| self.wake_asker(asker));
        Progress::Done
    }

    /// Whether a snapshot is to begin.
    fn master_has_to_begin(&mut self) -> bool {
        let now = now_ms();
        let Some(awake) = &mut self.master.awake else { return false };
        let Some(slot) = awake.me.and_then(|me| self.board.get(me)) else { return false };
        // It keeps its slot to the end.
        let wants = slot.take_wants(now, false);
        slot.take_askers(|asker| awake.askers.push(asker));
        if wants != 0 {
            refresh(&mut awake.probes, wants);
            awake.job = None;
            awake.fresh = true;
        }
        let is_old = awake.published_ms.is_none_or(|ms| ms.saturating_add(FRESH_MS) < now);
        let is_wanted = awake.fresh || (is_old && !awake.askers.is_empty());
        awake.job.is_none() && is_wanted
    }

    /// Takes a snapshot of the master while it reads its configuration, for want of a later moment.
    pub(super) fn take_master(&mut self) {
        let hooks = self.hooks.clone();
        let identity = Identity { kind: Kind::Master, id: None, hooks, ..self.identity() };
        let (begun, mut job) = (Instant::now(), Snapshot::begin());
        let mut probes = Probes::default();
        while job.step(&identity, &mut probes, &Budget::new(SLICE)) == Progress::More {
            if begun.elapsed() > MOST_AT_ONCE {
                return;
            }
        }
        self.master.loaded = Some((job.finish(&identity, &mut probes), now_ms()));
    }

    /// The master as it was when it had read the configuration, where there is nothing newer.
    pub(super) fn master_at_load(&self, now: u64) -> Option<Process> {
        let (taken, at_ms) = self.master.loaded.as_ref()?;
        let pid = process::master()?;
        let mut process = Process {
            pid,
            age_ms: now.saturating_sub(*at_ms),
            uptime_s: status::uptime_s(pid),
            ..taken.process.clone()
        };
        process.notes.push(format!(
            "all figures: the master does not answer ({}); these are of when it had read the \
             configuration",
            self.hooks.master.as_ref().map_or("off".to_owned(), ToString::to_string)
        ));
        Some(process)
    }

    /// Whether the master will soon have published for the first time.
    pub(super) fn awaits_master(&self) -> bool {
        let Some(pid) = process::master().filter(|_| self.master.waker.is_some()) else {
            return false;
        };
        let is_young = self.local.as_ref().is_some_and(|local| local.started.elapsed() < YOUNG);
        let has_published = || {
            let mut owned = self.board.owned();
            owned.any(|(_, owner, slot)| owner == pid && slot.published_ms().is_some())
        };
        is_young && !has_published()
    }

    /// Wakes the master, if that is who owns the slot.
    pub(super) fn wake_master(&self, index: usize) -> bool {
        let owner = self.board.get(index).and_then(|slot| slot.pid());
        let is_masters = owner.is_some() && owner == process::master();
        if is_masters {
            self.master.waker.iter().for_each(Waker::wake);
        }
        is_masters
    }
}

/// The master may be older than what this module knows of it.
fn with_uptime(mut taken: Taken) -> Taken {
    taken.process.uptime_s = status::uptime_s(taken.process.pid);
    taken
}

//! The master's part in the exchange: it has no event loop, and answers while it sleeps (see
//! [`hook::sleep`]).
//!
//! The master is asked like every process, by a bit in its slot, and woken by its own eventfd. Its
//! children inherit its state but never use it: they drop everything except the eventfd.

use std::time::{Duration, Instant};

use super::looks::look_at_once;
use super::reading::{publish, refresh};
use super::ticket::FRESH_MS;
use super::{now_ms, Exchange, EXCHANGE, SLICE, WAKERS};
use crate::budget::{Budget, Progress};
use crate::hook::slab;
use crate::hook::sleep::{Event, Next};
use crate::nginx::event::Waker;
use crate::nginx::{guard, process};
use crate::probe::snapshot::{Identity, Probes, Snapshot, Taken};
use crate::report::model::{HookState, Note, Process, ProcessKind};
use crate::scoreboard::{Asker, Board};
use crate::sys::{life, status};

/// A process younger than this waits for a master that has not published yet.
const YOUNG: Duration = Duration::from_secs(2);
/// The maximum time by which a snapshot of the master delays the start of a configuration.
const MOST_AT_ONCE: Duration = Duration::from_millis(100);

/// The master's part in the exchange.
pub(super) struct Master {
    /// Wakes the master. The descriptor is the same in all its children.
    waker: Option<Waker>,
    /// If the master cannot answer: a snapshot taken when it had read the configuration, and its time.
    loaded: Option<(Taken, u64)>,
    awake: Option<Box<Awake>>,
}

/// The state of a master that answers; only the master itself has it.
struct Awake {
    probes: Probes,
    me: Option<usize>,
    /// The signals that nginx had received when the master went to sleep.
    noticed: process::Signals,
    /// The snapshot under way.
    job: Option<(Snapshot, Identity)>,
    /// When the last snapshot was published.
    published_ms: Option<u64>,
    /// Whether a new snapshot is wanted however young the last one is.
    fresh: bool,
    /// The processes to wake once the snapshot is done.
    askers: Vec<Asker>,
}

impl Master {
    /// Prepares the master of a cycle. It answers if it is hooked. `before` is the master's part in the
    /// previous cycle.
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

    /// Drops the master's state. To be called in a child of the master.
    pub(super) fn forget(&mut self) {
        self.awake = None;
    }

    /// Releases the master's slot.
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

/// Called when the master is about to sleep or is woken.
pub fn asleep(event: Event) -> Next {
    guard(Next::Leave, || {
        let next = EXCHANGE.with(|exchange| {
            // A later cycle may get the same address.
            exchange.take_if(|exchange| process::is_master() && !exchange.is_current());
            exchange.as_mut().map(|exchange| exchange.sleeps(event))
        });
        next.flatten().unwrap_or(Next::Leave)
    })
}

impl Exchange {
    /// Ends the exchange of a configuration without `memstat` locations. Returns it if this process
    /// still takes part.
    pub fn retire(mut self) -> Option<Exchange> {
        self.master.release(&self.board);
        self.has_joined().then_some(self)
    }

    /// Returns whether this process is the master and runs the cycle that the exchange was prepared
    /// for. The board is freed with the cycle: nginx may have read a configuration that does not load
    /// this module.
    fn is_current(&self) -> bool {
        process::is_master() && self.masters_cycle == Some(process::cycle())
    }

    /// Handles an [`Event`] of the master's sleep.
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
            // Some kernels run signal handlers although they report that there was no signal.
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
            // Takes the first snapshot before it is asked for.
            awake.fresh = true;
        }
        if let Some(slot) = awake.me.and_then(|me| self.board.get(me)) {
            slot.set_away(false);
        }
    }

    /// Lets nginx run, which may change what the current snapshot has read: drops that snapshot.
    fn wake_up(&mut self) {
        let Some(awake) = &mut self.master.awake else { return };
        awake.job = None;
        if !process::is_to_reload() {
            return;
        }
        // Reading a configuration may take long, so no process must wait for the master meanwhile.
        // Those that still wait for other processes when the master is back get its figures then.
        if let Some(slot) = awake.me.and_then(|me| self.board.get(me)) {
            slot.set_away(true);
            slot.take_askers(|asker| awake.askers.push(asker));
        }
        let askers = awake.askers.clone();
        askers.into_iter().for_each(|asker| self.wake_asker(asker));
    }

    /// Works for one slice on the figures that other processes asked for.
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
                // Children that started before wait for it without having asked.
                (0..WAKERS).for_each(|waker| self.ring(waker));
                return Progress::Done;
            }
        }
        let askers = std::mem::take(&mut awake.askers);
        askers.into_iter().for_each(|asker| self.wake_asker(asker));
        Progress::Done
    }

    /// Returns whether the master has to begin a snapshot.
    fn master_has_to_begin(&mut self) -> bool {
        let now = now_ms();
        let Some(awake) = &mut self.master.awake else { return false };
        let Some(slot) = awake.me.and_then(|me| self.board.get(me)) else { return false };
        // The master keeps its slot to the end.
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

    /// Looks at a master that reloads: it has two configurations now.
    pub(super) fn look_at_reload(&mut self) {
        let has_pools = self.hooks.pool == HookState::On;
        if let Some(awake) = self.master.awake.as_mut().filter(|_| process::is_master()) {
            awake.job = None;
            look_at_once(&mut awake.probes, has_pools, MOST_AT_ONCE);
        }
    }

    /// Takes a snapshot of the master when it has read the configuration, because a master that does
    /// not answer has no later opportunity.
    pub(super) fn take_master(&mut self) {
        let hooks = self.hooks.clone();
        let identity = Identity { kind: ProcessKind::Master, id: None, hooks, ..self.identity() };
        let (begun, mut job) = (Instant::now(), Snapshot::begin());
        let mut probes = Probes::default();
        while job.step(&identity, &mut probes, &Budget::new(SLICE)) == Progress::More {
            if begun.elapsed() > MOST_AT_ONCE {
                return;
            }
        }
        self.master.loaded = Some((job.finish(&identity, &mut probes), now_ms()));
    }

    /// Returns the master's snapshot from when it had read the configuration, if there is one.
    pub(super) fn master_at_load(&self, now: u64) -> Option<Process> {
        let (taken, at_ms) = self.master.loaded.as_ref()?;
        let pid = process::master()?;
        let mut process = Process {
            pid,
            age_ms: now.saturating_sub(*at_ms),
            uptime_s: status::uptime_s(pid),
            ..taken.process.clone()
        };
        let reason = format!(
            "the master does not answer ({}); these are from when it had read the configuration",
            self.hooks.master.as_ref().map_or("off".to_owned(), ToString::to_string)
        );
        process.notes.push(Note::of(Note::ALL, reason));
        Some(process)
    }

    /// Returns whether the master is about to publish its first snapshot.
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

    /// Wakes the master if it owns the slot. Returns whether it does.
    pub(super) fn wake_master(&self, index: usize) -> bool {
        let owner = self.board.get(index).and_then(|slot| slot.pid());
        let is_masters = owner.is_some() && owner == process::master();
        if is_masters {
            self.master.waker.iter().for_each(Waker::wake);
        }
        is_masters
    }
}

/// Sets the master's uptime from the kernel: it may have started before this module was loaded.
fn with_uptime(mut taken: Taken) -> Taken {
    taken.process.uptime_s = status::uptime_s(taken.process.pid);
    taken
}

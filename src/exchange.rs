//! Ask, publish, wait: how one process gets the figures of all. What it needs them for it leaves to
//! those who ask: they take a ticket, and come back when their figures are there.
//!
//! A process asks another by setting a bit in its slot and waking it. The one asked takes its
//! snapshot in slices of its own event loop, publishes it in its slot, and wakes those whose bits it
//! finds. Nobody waits for anybody on the loop: a ticket waits for a timer, and whoever is silent
//! until then is reported with its last snapshot.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustix::time::{clock_gettime, ClockId};

use crate::budget::{Budget, Progress};
use crate::nginx::event::{Handler, Timer, Waker};
use crate::nginx::global::MainThread;
use crate::nginx::process;
use crate::probe::snapshot::{Identity, Probes, Snapshot, Taken};
use crate::report::model::{HookState, Hooks, Kind};
use crate::scoreboard::{Asker, Board};

pub use collect::Collected;
use collect::{Arrived, Collecting};
pub use master::asleep;
use master::Master;
use peers::Peer;
use place::{WAKERS, WITHOUT_SLOT};
use reading::Zones;
pub use ticket::Refresh;
use ticket::Ticket;

mod collect;
mod master;
mod peers;
mod place;
mod reading;
mod ticket;

/// How long a turn of the event loop goes on with readings and answers.
pub const SLICE: Duration = Duration::from_micros(300);

/// How often a process that cannot be woken looks for what it waits for.
const POLL_MS: u64 = 5;

/// How often a process that waits for others looks whether they are still alive.
const ALIVE_MS: u64 = 20;

/// This process's part in answering.
pub static EXCHANGE: MainThread<Option<Exchange>> = MainThread::new(None);

/// A process's part in answering. The master prepares it, and its children inherit it.
pub struct Exchange {
    board: Board,
    /// [`WAKERS`] of them. A descriptor has the same number in all processes of the server.
    wakers: Vec<Waker>,
    probes: Probes,
    master: Master,
    hooks: Hooks,
    /// Whether request lines are told.
    requests: bool,
    generation: u64,
    /// The cycle's address, where a master runs it.
    masters_cycle: Option<usize>,
    /// What only a process that runs an event loop has.
    local: Option<Local>,
}

struct Local {
    /// This process's slot; `None` where the board has none for it, or it cannot be woken.
    me: Option<usize>,
    /// When it may try to claim one.
    claim_ms: u64,
    /// What is called when it is woken, and a bit for each waker that it listens to.
    woken: Handler,
    listens: u32,
    /// What it is, once its title tells.
    kind: Option<Kind>,
    started: Instant,
    /// The snapshot under way.
    job: Option<(Snapshot, Identity)>,
    /// Whether the next snapshot is wanted however young the last one is.
    anew: bool,
    /// The last one, and when it was done.
    own: Option<(Taken, u64)>,
    zones: Zones,
    /// Who is to be woken once the snapshot is done.
    askers: Vec<Asker>,
    tickets: Vec<Ticket>,
    /// Slots to ask on their behalf, and for what.
    to_ask: Vec<(usize, u32)>,
    /// What others have published for them.
    arrived: Arrived,
    /// The figures for one of them in the making.
    collecting: Option<Collecting>,
    /// Figures that are there to be taken, and the tickets that they are for.
    ready: VecDeque<(usize, Collected)>,
    timer: Timer,
}

impl Exchange {
    /// Prepares the processes of a cycle; `before` is what the cycle before it had. `masters_cycle`
    /// is the cycle's address, where there is a master to run it.
    pub fn prepare(
        board: Board,
        hooks: Hooks,
        requests: bool,
        generation: u64,
        masters_cycle: Option<usize>,
        before: Option<Exchange>,
    ) -> Result<Self, String> {
        let (mut wakers, probes, local, master) = match before {
            // The same slots, or the same process (`master_process off`).
            Some(before) if before.board == board || before.has_joined() => {
                (before.wakers, before.probes, before.local, Some(before.master))
            }
            // Who is left of the last cycle still listens to its own wakers.
            Some(mut before) => {
                before.master.release(&before.board);
                (Vec::new(), before.probes, None, Some(before.master))
            }
            None => (Vec::new(), Probes::default(), None, None),
        };
        let answers = masters_cycle.is_some() && hooks.master == Some(HookState::On);
        let master = Master::prepare(answers, &board, master)?;
        while wakers.len() < WAKERS {
            wakers.push(Waker::new().map_err(|error| format!("eventfd() failed: {error}"))?);
        }
        let mut exchange = Exchange {
            board,
            wakers,
            probes,
            master,
            hooks,
            requests,
            generation,
            masters_cycle,
            local,
        };
        if masters_cycle.is_some() && !answers {
            exchange.take_master();
        }
        exchange.settle(now_ms());
        Ok(exchange)
    }

    /// Whether this process takes part itself.
    pub fn has_joined(&self) -> bool {
        self.local.is_some()
    }

    /// Takes part: the event loop calls `woken` when this process is woken, and `tick` when time is up.
    pub fn join(&mut self, tick: Handler, woken: Handler) {
        self.master.forget();
        self.local = Some(Local {
            me: None,
            claim_ms: 0,
            woken,
            listens: 0,
            kind: None,
            started: Instant::now(),
            job: None,
            anew: false,
            own: None,
            zones: Zones::Read(Vec::new(), 0),
            askers: Vec::new(),
            tickets: Vec::new(),
            to_ask: Vec::new(),
            arrived: Arrived::default(),
            collecting: None,
            ready: VecDeque::new(),
            timer: Timer::new(tick),
        });
        self.settle(now_ms());
        if !self.has_slot() {
            self.listen(WITHOUT_SLOT);
        }
    }

    /// Takes a ticket, by a number of the caller's. [`Exchange::take_ready`] has the figures for it
    /// after one of the next turns, in `timeout_ms` milliseconds at the latest.
    pub fn arrive(&mut self, id: usize, refresh: Refresh, timeout_ms: u64) {
        let asked_ms = now_ms();
        let deadline_ms = asked_ms.saturating_add(timeout_ms);
        let wants = refresh.bits();
        let ticket = Ticket { id, refresh, asked_ms, deadline_ms };
        let mut to_ask = Vec::new();
        for Peer { index, .. } in peers::live(&self.board, asked_ms) {
            let published_ms = self.board.get(index).and_then(|slot| slot.published_ms());
            if published_ms.is_none_or(|ms| ms < ticket.oldest_ms()) {
                to_ask.push((index, wants));
            }
        }
        self.refresh(wants);
        if let Some(local) = &mut self.local {
            local.tickets.push(ticket);
            local.to_ask.extend(to_ask);
        }
    }

    /// Asks others, until the budget is spent: to wake one takes some microseconds. Whether there are
    /// more.
    fn ask(&mut self, budget: &Budget) -> bool {
        let Some(local) = &mut self.local else { return false };
        let me = local.me;
        let mut to_ask = std::mem::take(&mut local.to_ask);
        while let Some((index, wants)) = to_ask.pop() {
            if let Some(slot) = self.board.get(index) {
                slot.ask(me, wants);
                self.wake(index);
            }
            if budget.spent() {
                break;
            }
        }
        let more = !to_ask.is_empty();
        if let Some(local) = &mut self.local {
            local.to_ask = to_ask;
        }
        more
    }

    /// Gives a ticket back.
    pub fn forget(&mut self, id: usize) {
        if let Some(local) = &mut self.local {
            local.tickets.retain(|ticket| ticket.id != id);
            local.ready.retain(|(ticket, _)| *ticket != id);
            local.collecting.take_if(|collecting| collecting.id() == id);
        }
    }

    /// The next figures that are there, and the ticket that they are for.
    pub fn take_ready(&mut self) -> Option<(usize, Collected)> {
        self.local.as_mut()?.ready.pop_front()
    }

    /// Does what there is to do, for one slice. The budget is what is left of it for whoever uses the
    /// figures that are ready; [`Exchange::go_on`] is to follow where there were any.
    pub fn turn(&mut self) -> Budget {
        let now = now_ms();
        let budget = Budget::new(SLICE);
        self.settle(now);
        if let Some(slot) = self.slot() {
            let wants = slot.take_wants(now, process::is_shutting_down());
            let mut askers = Vec::new();
            slot.take_askers(|asker| askers.push(asker));
            if let Some(local) = &mut self.local {
                local.askers.extend(askers);
            }
            self.refresh(wants);
        }
        let mut more = self.ask(&budget);
        more |= self.read(now, &budget);
        more |= self.collect_ready(&budget);
        self.go_on(more, false);
        budget
    }

    /// Collects the figures for a ticket for which all are there, or which has waited long enough;
    /// whether there is more to do for such tickets.
    fn collect_ready(&mut self, budget: &Budget) -> bool {
        let awaits_master = self.awaits_master();
        let Some(local) = &mut self.local else { return false };
        if let Some(collecting) = local.collecting.take() {
            return self.collect_for(collecting, budget);
        }
        if local.tickets.is_empty() {
            local.arrived = Arrived::default();
            return false;
        }
        let now = now_ms();
        let own = local.own.as_ref().map_or(0, |(_, at_ms)| *at_ms);
        let read = local.zones.read_ms();
        let oldest = if awaits_master { 0 } else { peers::oldest_ms(&self.board, now) };
        let oldest = oldest.min(own).min(read);
        let ready = |ticket: &Ticket| oldest >= ticket.oldest_ms() || now >= ticket.deadline_ms;
        let peers = peers::owners(&self.board);
        let all_arrived = local.arrived.take(&self.board, &peers, budget);
        let Some(place) = local.tickets.iter().position(ready) else { return !all_arrived };
        if !all_arrived || budget.spent() {
            return true;
        }
        let ticket = local.tickets.remove(place);
        let arrived = std::mem::take(&mut local.arrived);
        let begun = self.collect(ticket, arrived, now);
        self.collect_for(begun, budget)
    }

    /// Goes on with the figures for a ticket; whether there may be more to do.
    fn collect_for(&mut self, mut collecting: Collecting, budget: &Budget) -> bool {
        let progress = self.collect_on(&mut collecting, budget);
        let Some(local) = &mut self.local else { return false };
        if progress == Progress::More {
            local.collecting = Some(collecting);
            return true;
        }
        local.ready.push_back(collecting.finish());
        !local.tickets.is_empty()
    }

    /// Sees to being called again: right away if there is more to do, else in time. `is_used` says
    /// that figures which were taken are still in use on the event loop.
    pub fn go_on(&mut self, more: bool, is_used: bool) {
        let Some(local) = &mut self.local else { return };
        let now = now_ms();
        let deadline = local.tickets.iter().map(|ticket| ticket.deadline_ms).min();
        let is_used = is_used || local.collecting.is_some() || !local.ready.is_empty();
        match (local.me, deadline) {
            (Some(me), deadline) => {
                match deadline {
                    // One that is killed wakes nobody.
                    Some(deadline) => {
                        local.timer.set(deadline.saturating_sub(now).clamp(1, ALIVE_MS));
                    }
                    // A worker that shuts down leaves when it has no timer.
                    None if is_used => local.timer.set(1),
                    None => local.timer.unset(),
                }
                if more {
                    self.wake(me);
                }
            }
            (None, _) if is_used => local.timer.set(1),
            (None, Some(_)) => local.timer.set(POLL_MS),
            (None, None) => local.timer.unset(),
        }
    }
}

/// Milliseconds of the clock that all processes share.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).saturating_mul(1000).saturating_add(now.tv_nsec as u64 / 1_000_000)
}

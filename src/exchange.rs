//! Exchanges figures between processes: asks, publishes, waits. Callers take a ticket, and fetch the
//! figures of all processes when they are ready. This room does not know what the figures are for.
//!
//! A process asks another by setting a bit in the other's slot and waking it. The other process takes
//! its snapshot in slices of its own event loop, publishes it in its slot, and wakes the processes
//! whose bits are set. No process waits for another on its event loop: a ticket has a deadline, and
//! processes that have not answered by then are reported with their last snapshot.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustix::time::{clock_gettime, ClockId};

use crate::budget::{Budget, Progress};
use crate::nginx::event::{Handler, Listener, Timer, Waker};
use crate::nginx::global::MainThread;
use crate::nginx::process;
use crate::probe::snapshot::{Identity, Probes, Snapshot, Taken};
use crate::report::model::{HookState, Hooks, ProcessKind};
use crate::report::peak::Worst;
use crate::scoreboard::{Asker, Board};

pub use collect::Collected;
use collect::{Arrived, Collecting};
use looks::Looks;
pub use master::asleep;
use master::Master;
use peers::Peer;
use place::{WAKERS, WITHOUT_SLOT};
use reading::Zones;
pub use ticket::Refresh;
use ticket::Ticket;

mod collect;
mod looks;
mod master;
mod peers;
mod place;
mod reading;
mod ticket;

/// The time that a turn of the event loop spends on readings and answers.
pub const SLICE: Duration = Duration::from_micros(300);

/// The time that each part of a turn may take, even if the parts before it have used up the slice:
/// otherwise, on a slow machine, these could use up every slice.
const LEAST: Duration = Duration::from_micros(75);

/// How often a process that cannot be woken checks for the figures it waits for, in milliseconds.
const POLL_MS: u64 = 5;

/// How often a process that waits for others checks that they are alive, in milliseconds.
const ALIVE_MS: u64 = 20;

/// The exchange of this process, if a `memstat` location is configured.
pub static EXCHANGE: MainThread<Option<Exchange>> = MainThread::new(None);

/// A process's part in the exchange. The master prepares it, and its children inherit it.
pub struct Exchange {
    board: Board,
    /// [`WAKERS`] wakers. A descriptor has the same number in all processes of the server.
    wakers: Vec<Waker>,
    probes: Probes,
    master: Master,
    hooks: Hooks,
    /// Whether snapshots contain request lines.
    requests: bool,
    generation: u64,
    /// The cycle's address, if there is a master.
    masters_cycle: Option<usize>,
    /// The state of a process that runs an event loop; `None` in the master.
    local: Option<Local>,
}

/// The part of the exchange that only a process with an event loop has.
struct Local {
    /// This process's slot; `None` if the board has no free slot or the process cannot be woken.
    me: Option<usize>,
    /// When the process may try to claim a slot again.
    claim_ms: u64,
    /// The handler that is called when the process is woken, and a bit for each waker that it listens
    /// to.
    woken: Handler,
    listens: u32,
    listener: Listener,
    /// The kind of the process, once it is known from its title.
    kind: Option<ProcessKind>,
    started: Instant,
    /// The snapshot under way.
    job: Option<(Snapshot, Identity)>,
    /// Whether a new snapshot is wanted however young the last one is.
    wants_new: bool,
    /// The last snapshot, and when it was completed.
    own: Option<(Taken, u64)>,
    zones: Zones,
    /// The processes to wake once the snapshot is done.
    askers: Vec<Asker>,
    tickets: Vec<Ticket>,
    /// Slots that are still to be asked for these tickets, with the bits of what is wanted.
    to_ask: Vec<(usize, u32)>,
    /// The snapshots that other processes have published for these tickets.
    arrived: Arrived,
    /// The figures that are being collected for one of these tickets.
    collecting: Option<Collecting>,
    /// Collected figures that can be taken, and their tickets.
    ready: VecDeque<(usize, Collected)>,
    timer: Timer,
    looks: Looks,
}

impl Exchange {
    /// Prepares the exchange of a cycle's processes. `before` is the exchange of the previous cycle;
    /// `masters_cycle` is the cycle's address if there is a master. An error says why it failed.
    pub fn prepare(
        board: Board,
        hooks: Hooks,
        requests: bool,
        generation: u64,
        masters_cycle: Option<usize>,
        before: Option<Exchange>,
    ) -> Result<Self, String> {
        let (mut wakers, probes, local, master) = match before {
            // The slots are the same, or the process is (`master_process off`).
            Some(before) if before.board == board || before.has_joined() => {
                (before.wakers, before.probes, before.local, Some(before.master))
            }
            // Processes of the previous cycle still listen to its wakers.
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
        exchange.look_at_reload();
        exchange.settle(now_ms());
        Ok(exchange)
    }

    /// Returns whether this process has joined the exchange.
    pub fn has_joined(&self) -> bool {
        self.local.is_some()
    }

    /// Joins the exchange. The event loop calls `woken` when this process is woken, `tick` when the timer
    /// expires, and `second` once a second.
    pub fn join(&mut self, tick: Handler, woken: Handler, second: Handler) {
        self.master.forget();
        self.probes.worst = Worst::default();
        self.local = Some(Local {
            me: None,
            claim_ms: 0,
            woken,
            listens: 0,
            listener: Listener::default(),
            kind: None,
            started: Instant::now(),
            job: None,
            wants_new: false,
            own: None,
            zones: Zones::Read(Vec::new(), 0),
            askers: Vec::new(),
            tickets: Vec::new(),
            to_ask: Vec::new(),
            arrived: Arrived::default(),
            collecting: None,
            ready: VecDeque::new(),
            timer: Timer::new(tick),
            looks: Looks::begin(second),
        });
        self.settle(now_ms());
        if !self.has_slot() {
            self.listen(WITHOUT_SLOT);
        }
    }

    /// Takes a ticket with a number that the caller chooses. [`Exchange::take_ready`] returns the
    /// figures for it after one of the next turns, `timeout_ms` milliseconds later at the latest.
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

    /// Asks other processes until the budget is spent: waking one takes some microseconds. Returns
    /// whether there are more to ask.
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

    /// Drops a ticket.
    pub fn forget(&mut self, id: usize) {
        if let Some(local) = &mut self.local {
            local.tickets.retain(|ticket| ticket.id != id);
            local.ready.retain(|(ticket, _)| *ticket != id);
            local.collecting.take_if(|collecting| collecting.id() == id);
        }
    }

    /// Returns the next collected figures, and the number of their ticket.
    pub fn take_ready(&mut self) -> Option<(usize, Collected)> {
        self.local.as_mut()?.ready.pop_front()
    }

    /// Works for one slice. Returns the budget that is left for the users of ready figures. If there
    /// are any, the caller must call [`Exchange::go_on`] afterwards.
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
        // However long the rest of a turn takes, each turn advances the readings.
        more |= self.read(now, &budget.at_least(LEAST));
        more |= self.collect_ready(&budget);
        self.go_on(more, false);
        budget
    }

    /// Collects the figures for a ticket once all processes have published them or its deadline has
    /// passed. Returns whether there is more to do for such tickets.
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
        let peers = peers::owners(&self.board);
        let oldest = if awaits_master { 0 } else { peers::oldest_ms(&self.board, &peers, now) };
        let oldest = oldest.min(own).min(read);
        let ready = |ticket: &Ticket| oldest >= ticket.oldest_ms() || now >= ticket.deadline_ms;
        // To ask the kernel about peers may have used up the slice, and would do so in each turn.
        let budget = &budget.at_least(LEAST);
        let all_arrived = local.arrived.take(&self.board, &peers, budget);
        let Some(place) = local.tickets.iter().position(ready) else { return !all_arrived };
        if !all_arrived {
            return true;
        }
        let ticket = local.tickets.remove(place);
        let arrived = std::mem::take(&mut local.arrived);
        let begun = self.collect(ticket, arrived, now);
        self.collect_for(begun, budget)
    }

    /// Continues to collect the figures for a ticket. Returns whether there may be more to do.
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

    /// Arranges the next call: at once if there is `more` to do, otherwise in time for the next
    /// deadline. `is_used`: figures that were taken are still in use on the event loop.
    pub fn go_on(&mut self, more: bool, is_used: bool) {
        let Some(local) = &mut self.local else { return };
        let now = now_ms();
        let deadline = local.tickets.iter().map(|ticket| ticket.deadline_ms).min();
        let is_used = is_used || local.collecting.is_some() || !local.ready.is_empty();
        match (local.me, deadline) {
            (Some(me), deadline) => {
                match deadline {
                    // A killed process does not wake those who wait for it.
                    Some(deadline) => {
                        local.timer.set(deadline.saturating_sub(now).clamp(1, ALIVE_MS));
                    }
                    // A worker that is shutting down exits when it has no timer.
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

/// Returns the time of the clock that all processes share, in milliseconds.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).saturating_mul(1000).saturating_add(now.tv_nsec as u64 / 1_000_000)
}

//! Ask, publish, wait: how one request gets the figures of all processes.
//!
//! A process asks another by setting a bit in its slot and waking it. The one asked takes its
//! snapshot in slices of its own event loop, publishes it in its slot, and wakes those whose bits it
//! finds. Nobody waits for anybody on the loop: a request waits for a timer, and whoever is silent
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
use waiter::{wants, Waiter};
pub use waiter::{Answer, Question, Stage};

mod collect;
mod master;
mod peers;
mod place;
mod reading;
mod waiter;

/// How long a turn of the event loop goes on with readings and answers.
pub const SLICE: Duration = Duration::from_micros(300);

/// How often a process that cannot be woken looks for what it waits for.
const POLL_MS: u64 = 5;

/// How often a process that waits for others looks whether they are still alive.
const ALIVE_MS: u64 = 20;

/// This process's part in answering.
pub static GATHER: MainThread<Option<Gather>> = MainThread::new(None);

/// A process's part in answering. The master prepares it, and its children inherit it.
pub struct Gather {
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
    waiters: Vec<Waiter>,
    /// Slots to ask on their behalf, and for what.
    to_ask: Vec<(usize, u32)>,
    /// What others have published for them.
    arrived: Arrived,
    /// The figures for one of them in the making.
    collecting: Option<Collecting>,
    /// Answers under way.
    answers: VecDeque<Answer>,
    timer: Timer,
}

impl Gather {
    /// Prepares the processes of a cycle; `before` is what the cycle before it had. `masters_cycle`
    /// is the cycle's address, where there is a master to run it.
    pub fn prepare(
        board: Board,
        hooks: Hooks,
        requests: bool,
        generation: u64,
        masters_cycle: Option<usize>,
        before: Option<Gather>,
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
        let mut gather = Gather {
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
            gather.take_master();
        }
        gather.settle(now_ms());
        Ok(gather)
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
            waiters: Vec::new(),
            to_ask: Vec::new(),
            arrived: Arrived::default(),
            collecting: None,
            answers: VecDeque::new(),
            timer: Timer::new(tick),
        });
        self.settle(now_ms());
        if !self.has_slot() {
            self.listen(WITHOUT_SLOT);
        }
    }

    /// A request came. Whether it can be answered right now, [`Gather::turn`] says.
    pub fn arrive(&mut self, question: Question, timeout_ms: u64) {
        let asked_ms = now_ms();
        let deadline_ms = asked_ms.saturating_add(timeout_ms);
        let wants = wants(&question.query);
        let waiter = Waiter { question, asked_ms, deadline_ms };
        let mut to_ask = Vec::new();
        for Peer { index, .. } in peers::live(&self.board, asked_ms) {
            let published_ms = self.board.get(index).and_then(|slot| slot.published_ms());
            if published_ms.is_none_or(|ms| ms < waiter.oldest_ms()) {
                to_ask.push((index, wants));
            }
        }
        self.refresh(wants);
        if let Some(local) = &mut self.local {
            local.waiters.push(waiter);
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

    /// A request is gone, answered or not.
    pub fn forget(&mut self, address: usize) {
        if let Some(local) = &mut self.local {
            local.waiters.retain(|waiter| !waiter.question.is_of(address));
            local.answers.retain(|answer| !answer.question.is_of(address));
            local.collecting.take_if(|collecting| collecting.question().is_of(address));
        }
    }

    /// The next answer, or that to the request with this address.
    pub fn take_answer(&mut self, address: Option<usize>) -> Option<Answer> {
        let answers = &mut self.local.as_mut()?.answers;
        let index = match address {
            Some(address) => answers.iter().position(|a| a.question.is_of(address))?,
            None => 0,
        };
        answers.remove(index)
    }

    /// Keeps an answer for the next turn.
    pub fn put_back(&mut self, answer: Answer) {
        if let Some(local) = &mut self.local {
            local.answers.push_front(answer);
        }
    }

    /// Does what there is to do, for one slice. Answers are there to be taken afterwards, for what is
    /// left of the budget; where there were any, [`Gather::go_on`] is to follow.
    pub fn turn(&mut self) -> Budget {
        let now = now_ms();
        let budget = Budget::new(SLICE);
        if self.local.as_ref().is_some_and(|local| !local.answers.is_empty()) {
            // To go on with these is what this turn does.
            return budget;
        }
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
        more |= self.answer(&budget);
        self.go_on(more);
        budget
    }

    /// Answers a request that has all it asked for, or has waited long enough; whether there is more
    /// to do for those that can be answered.
    fn answer(&mut self, budget: &Budget) -> bool {
        let awaits_master = self.awaits_master();
        let Some(local) = &mut self.local else { return false };
        if let Some(collecting) = local.collecting.take() {
            return self.collect_for(collecting, budget);
        }
        if local.waiters.is_empty() {
            local.arrived = Arrived::default();
            return false;
        }
        let now = now_ms();
        let own = local.own.as_ref().map_or(0, |(_, at_ms)| *at_ms);
        let read = local.zones.read_ms();
        let oldest = if awaits_master { 0 } else { peers::oldest_ms(&self.board, now) };
        let oldest = oldest.min(own).min(read);
        let ready = |waiter: &Waiter| oldest >= waiter.oldest_ms() || now >= waiter.deadline_ms;
        let peers = peers::owners(&self.board);
        let all_arrived = local.arrived.take(&self.board, &peers, budget);
        let Some(place) = local.waiters.iter().position(ready) else { return !all_arrived };
        if !all_arrived || budget.spent() {
            return true;
        }
        let waiter = local.waiters.remove(place);
        let arrived = std::mem::take(&mut local.arrived);
        let begun = self.collect(waiter, arrived, now);
        self.collect_for(begun, budget)
    }

    /// Goes on with the figures for an answer; whether there may be more to do.
    fn collect_for(&mut self, mut collecting: Collecting, budget: &Budget) -> bool {
        let progress = self.collect_on(&mut collecting, budget);
        let Some(local) = &mut self.local else { return false };
        if progress == Progress::More {
            local.collecting = Some(collecting);
            return true;
        }
        let (question, collected) = collecting.finish();
        local.answers.push_back(Answer { question, stage: Stage::Collected(collected) });
        !local.waiters.is_empty()
    }

    /// Sees to being called again: right away if there is more to do, else in time.
    pub fn go_on(&mut self, more: bool) {
        let Some(local) = &mut self.local else { return };
        let now = now_ms();
        let deadline = local.waiters.iter().map(|waiter| waiter.deadline_ms).min();
        let answers = local.collecting.is_some() || !local.answers.is_empty();
        match (local.me, deadline) {
            (Some(me), deadline) => {
                match deadline {
                    // One that is killed wakes nobody.
                    Some(deadline) => {
                        local.timer.set(deadline.saturating_sub(now).clamp(1, ALIVE_MS));
                    }
                    // A worker that shuts down leaves when it has no timer.
                    None if answers => local.timer.set(1),
                    None => local.timer.unset(),
                }
                if more {
                    self.wake(me);
                }
            }
            (None, _) if answers => local.timer.set(1),
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

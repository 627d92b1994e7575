//! Answers on the event loop: requests that wait for figures, and replies that are written and sent a
//! slice of the loop at a time.

use std::collections::VecDeque;
use std::ffi::c_void;

use nginx_sys::{ngx_event_t, ngx_int_t};

use crate::budget::Budget;
use crate::exchange::{Collected, Exchange, Refresh, EXCHANGE, SLICE};
use crate::nginx::global::MainThread;
use crate::nginx::guard;
use crate::nginx::request::{Request, FAILED, PART};

pub use stages::Question;
use stages::{finish, go_on, Answer, Stage};

mod stages;

/// The answers of this process.
static ANSWERS: MainThread<Answers> =
    MainThread::new(Answers { waiting: Vec::new(), under_way: VecDeque::new() });

/// The answers of a process.
struct Answers {
    /// Whose figures are not there yet.
    waiting: Vec<Question>,
    under_way: VecDeque<Answer>,
}

impl Answers {
    /// The figures for a request are there.
    fn begin(&mut self, address: usize, collected: Collected) {
        if let Some(place) = self.waiting.iter().position(|question| question.is_of(address)) {
            let question = self.waiting.remove(place);
            self.under_way.push_back(Answer { question, stage: Stage::Collected(collected) });
        }
    }

    /// The answer to the request with this address.
    fn take(&mut self, address: usize) -> Option<Answer> {
        let place = self.under_way.iter().position(|answer| answer.question.is_of(address))?;
        self.under_way.remove(place)
    }

    /// A request is gone, answered or not.
    fn forget(&mut self, address: usize) {
        self.waiting.retain(|question| !question.is_of(address));
        self.under_way.retain(|answer| !answer.question.is_of(address));
    }
}

/// Answers a request now, or keeps it until `timeout_ms` milliseconds are over. Gives the code for
/// nginx; `None` when this process takes no part.
pub fn give(question: Question, timeout_ms: u64) -> Option<ngx_int_t> {
    let mut request = question.request;
    let address = request.address();
    let refresh =
        Refresh { heap: question.query.refresh_heap, zones: question.query.refresh_zones };
    let (budget, answer) = with_both(|exchange, answers| {
        exchange.arrive(address, refresh, timeout_ms);
        answers.waiting.push(question);
        let budget = turn(exchange, answers);
        (budget, answers.take(address))
    })?;
    let code = match answer {
        Some(Answer { question, stage }) => match go_on(&question, stage, &budget) {
            Some(Stage::Written(reply)) if reply.len() <= PART => request.respond(reply.response()),
            // It is not to end before this handler does.
            Some(stage) => return Some(hold(request, Some(Answer { question, stage }))),
            None => FAILED,
        },
        None => hold(request, None),
    };
    finish_others(&budget);
    Some(code)
}

/// A turn of the exchange. What it has ready become answers; while there are answers under way, to go
/// on with these is all that a turn does.
fn turn(exchange: &mut Exchange, answers: &mut Answers) -> Budget {
    if !answers.under_way.is_empty() {
        return Budget::new(SLICE);
    }
    let budget = exchange.turn();
    while let Some((address, collected)) = exchange.take_ready() {
        answers.begin(address, collected);
    }
    budget
}

/// Keeps a request for later turns, with what there is of its answer.
fn hold(mut request: Request, answer: Option<Answer>) -> ngx_int_t {
    if let Err(code) = request.hold(gone) {
        forget(request.address());
        return code;
    }
    if let Some(answer) = answer {
        with_both(|exchange, answers| {
            answers.under_way.push_front(answer);
            exchange.go_on(true, true);
        });
    }
    Request::HELD
}

/// This process was woken: it is asked, or somebody it asked has answered, or it goes on reading.
pub unsafe extern "C" fn woken(_event: *mut ngx_event_t) {
    guard((), || {
        let budget = with_both(|exchange, answers| {
            exchange.drain();
            turn(exchange, answers)
        });
        if let Some(budget) = budget {
            finish_others(&budget);
        }
    });
}

/// The time of a request is up, or it is time to look again.
pub unsafe extern "C" fn tick(_event: *mut ngx_event_t) {
    guard((), || {
        if let Some(budget) = with_both(turn) {
            finish_others(&budget);
        }
    });
}

/// nginx is about to free a request that was held.
unsafe extern "C" fn gone(request: *mut c_void) {
    guard((), || forget(request as usize));
}

/// Goes on with the answers, until the budget is spent. One at a time: the end of one request may end
/// others of its connection, which then forget their answers.
fn finish_others(budget: &Budget) {
    let mut are_any = false;
    while let Some(answer) = ANSWERS.with(|answers| answers.under_way.pop_front()).flatten() {
        are_any = true;
        let Answer { question, stage } = answer;
        match finish(&question, stage, budget) {
            Ok(stage) => {
                ANSWERS.with(|answers| answers.under_way.push_front(Answer { question, stage }));
                break;
            }
            Err(code) => question.request.end(code),
        }
    }
    if are_any {
        with_both(|exchange, answers| exchange.go_on(true, !answers.under_way.is_empty()));
    }
}

/// A request is gone, answered or not.
fn forget(address: usize) {
    ANSWERS.with(|answers| answers.forget(address));
    with_both(|exchange, _| exchange.forget(address));
}

/// Uses the exchange, if this process takes part in it, and the answers.
fn with_both<R>(use_them: impl FnOnce(&mut Exchange, &mut Answers) -> R) -> Option<R> {
    let joined = |exchange: &mut Option<Exchange>| {
        let exchange = exchange.as_mut().filter(|exchange| exchange.has_joined())?;
        ANSWERS.with(|answers| use_them(exchange, answers))
    };
    EXCHANGE.with(joined).flatten()
}

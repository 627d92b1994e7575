//! Answers requests on the event loop: keeps requests that wait for figures, and writes and sends
//! replies in slices.

use std::collections::VecDeque;
use std::ffi::c_void;

use nginx_sys::{ngx_event_t, ngx_int_t};

use crate::budget::Budget;
use crate::exchange::{Collected, Exchange, Refresh, EXCHANGE, SLICE};
use crate::nginx::global::MainThread;
use crate::nginx::guard;
use crate::nginx::request::{Request, FAILED, PART};

pub use stages::Question;
use stages::{finish, go_on, Answer, AnswerStage};

mod stages;

/// The answers of this process.
static ANSWERS: MainThread<Answers> =
    MainThread::new(Answers { waiting: Vec::new(), under_way: VecDeque::new() });

/// The answers of a process.
struct Answers {
    /// Requests whose figures are not ready yet.
    waiting: Vec<Question>,
    /// Answers whose figures are ready.
    under_way: VecDeque<Answer>,
}

impl Answers {
    /// Begins the answer to a request whose figures are ready.
    fn begin(&mut self, address: usize, collected: Collected) {
        if let Some(place) = self.waiting.iter().position(|question| question.is_of(address)) {
            let question = self.waiting.remove(place);
            self.under_way.push_back(Answer { question, stage: AnswerStage::Collected(collected) });
        }
    }

    /// Removes and returns the answer to the request with this address.
    fn take(&mut self, address: usize) -> Option<Answer> {
        let place = self.under_way.iter().position(|answer| answer.question.is_of(address))?;
        self.under_way.remove(place)
    }

    /// Drops everything about a request that ends, answered or not.
    fn forget(&mut self, address: usize) {
        self.waiting.retain(|question| !question.is_of(address));
        self.under_way.retain(|answer| !answer.question.is_of(address));
    }
}

/// Answers a request now, or keeps it for at most `timeout_ms` milliseconds until its figures are ready.
/// Returns the code for nginx, or `None` if this process has not joined the exchange.
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
            Some(AnswerStage::Written(reply)) if reply.len() <= PART => {
                request.respond(reply.response())
            }
            // The request must not end before this handler returns.
            Some(stage) => return Some(hold(request, Some(Answer { question, stage }))),
            None => FAILED,
        },
        None => hold(request, None),
    };
    finish_others(&budget);
    Some(code)
}

/// Runs a turn of the exchange, and begins answers with the figures that are ready. While there are
/// answers in progress, a turn only continues these. Returns the budget that is left.
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

/// Keeps a request for later turns, with the part of its answer that exists.
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

/// Called when this process is woken: it is asked, or a process that it asked has answered, or it
/// continues its readings.
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

/// Called when the timer expires: at the deadline of a request, or when it is time to check again.
pub unsafe extern "C" fn tick(_event: *mut ngx_event_t) {
    guard((), || {
        if let Some(budget) = with_both(turn) {
            finish_others(&budget);
        }
    });
}

/// A second is over.
pub unsafe extern "C" fn second(_event: *mut ngx_event_t) {
    guard((), || {
        with_both(|exchange, _| exchange.second());
    });
}

/// Called when nginx is about to free a held request.
unsafe extern "C" fn gone(request: *mut c_void) {
    guard((), || forget(request as usize));
}

/// Continues the answers until the budget is spent. Takes one at a time, because the end of one request
/// may end others on its connection, whose answers are then dropped.
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

/// Drops everything about a request that ends, answered or not.
fn forget(address: usize) {
    ANSWERS.with(|answers| answers.forget(address));
    with_both(|exchange, _| exchange.forget(address));
}

/// Calls a function with the exchange and the answers, if this process has joined the exchange.
fn with_both<R>(use_them: impl FnOnce(&mut Exchange, &mut Answers) -> R) -> Option<R> {
    let joined = |exchange: &mut Option<Exchange>| {
        let exchange = exchange.as_mut().filter(|exchange| exchange.has_joined())?;
        ANSWERS.with(|answers| use_them(exchange, answers))
    };
    EXCHANGE.with(joined).flatten()
}

//! The stages of an answer, from the figures to the last byte that is sent.
#![forbid(unsafe_code)]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nginx_sys::ngx_int_t;

use crate::budget::{Budget, Progress};
use crate::doctor;
use crate::exchange::{Collected, SLICE};
use crate::format::Media;
use crate::http::negotiate::Choice;
use crate::http::query::{unknown_pid, unknown_zone, Query};
use crate::http::reply::{Reply, BY_ACCEPT};
use crate::nginx::process;
use crate::nginx::request::{Request, Unsent};
use crate::render::{html, Writing};
use crate::report::assemble::{assemble, Facts};
use crate::report::model::AnsweredBy;
use crate::report::narrow::forget_requests;
use crate::sys::cgroup;
use crate::sys::pagemap::page_size;

/// A request with its parameters.
pub struct Question {
    /// The request.
    pub request: Request,
    /// Its parameters.
    pub query: Query,
    /// The format of the reply.
    pub choice: Choice,
    /// Whether the reply may contain request lines.
    pub uris: bool,
    /// When it arrived.
    pub arrived: Instant,
}

impl Question {
    /// Returns whether the request has this address.
    pub(super) fn is_of(&self, address: usize) -> bool {
        self.request.address() == address
    }
}

/// The answer to a request whose figures are ready.
pub(super) struct Answer {
    /// The request.
    pub(super) question: Question,
    /// The stage of the answer.
    pub(super) stage: AnswerStage,
}

/// The stages of an answer.
pub(super) enum AnswerStage {
    /// The figures of all processes are ready.
    Collected(Collected),
    /// The reply is being written.
    Writing(Reply),
    /// The reply is written.
    Written(Reply),
    /// The reply is being sent; this part is left.
    Sending(Unsent),
}

/// Continues the answer to a held request until the budget is spent. Returns the next stage, or an
/// error if the request has to end: the code for nginx, if a reply was sent.
pub(super) fn finish(
    question: &Question,
    stage: AnswerStage,
    budget: &Budget,
) -> Result<AnswerStage, Option<ngx_int_t>> {
    let mut request = question.request;
    let mut unsent = match go_on(question, stage, budget).ok_or(None)? {
        AnswerStage::Written(reply) if !budget.spent() => request.begin(reply.response())?,
        AnswerStage::Sending(unsent) => unsent,
        stage => return Ok(stage),
    };
    while !budget.spent() {
        if let Some(code) = request.send(&mut unsent) {
            return Err(Some(code));
        }
    }
    Ok(AnswerStage::Sending(unsent))
}

/// Continues an answer until it is written or the budget is spent. Returns `None` if that fails.
pub(super) fn go_on(
    question: &Question,
    stage: AnswerStage,
    budget: &Budget,
) -> Option<AnswerStage> {
    if budget.spent() {
        return Some(stage);
    }
    let mut reply = match stage {
        AnswerStage::Collected(collected) => begin(question, collected)?,
        AnswerStage::Writing(reply) => reply,
        AnswerStage::Written(_) | AnswerStage::Sending(_) => return Some(stage),
    };
    // A piece of a reply may take long, so it is not begun late in a slice.
    if budget.used() > SLICE / 2 {
        return Some(AnswerStage::Writing(reply));
    }
    match reply.step(budget).ok()? {
        Progress::Done => Some(AnswerStage::Written(reply)),
        Progress::More => Some(AnswerStage::Writing(reply)),
    }
}

/// Assembles the report and begins the reply. Returns `None` if the reply cannot be written.
fn begin(question: &Question, collected: Collected) -> Option<Reply> {
    let Question { query, choice, uris, arrived, .. } = question;
    let Collected { mut processes, zones, merged } = collected;
    if !uris {
        forget_requests(&mut processes);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let container = cgroup::own();
    let facts = Facts {
        nginx: process::version().to_owned(),
        product: process::product().clone(),
        time: (now.as_secs(), now.subsec_millis().into()),
        page_size: page_size() as u64,
        answered_by: AnsweredBy { pid: process::pid(), id: process::worker_id() },
        elapsed_us: u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX),
        container,
    };
    let mut server = assemble(facts, processes, zones, &merged);
    // Of the whole server, whatever part of it was requested.
    server.health = doctor::examine(&server);
    let missing = |sentence: String| Some(Reply::sentence(404, sentence));
    if let Some(zone) = &query.zone {
        let names = server.shared_zones.names();
        if !server.narrow(zone) {
            return missing(unknown_zone(zone, &names));
        }
    }
    if let Some(pid) = query.pid {
        let pids: Vec<_> = server.processes.iter().map(|process| process.pid).collect();
        if !server.narrow_to_process(pid) {
            return missing(unknown_pid(pid, &pids));
        }
    }
    let Choice { media, by_accept } = *choice;
    let mut headers = Vec::new();
    if by_accept {
        headers.push(BY_ACCEPT);
    }
    if media == Media::Html {
        headers.push(("Content-Security-Policy", html::content_security_policy()));
    }
    let writing = Writing::begin(media, server, query.fields.as_ref()).ok()?;
    Some(Reply::new(media, headers, writing))
}

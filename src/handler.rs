//! `GET /memstat`: read the request, gather, answer.

use std::ffi::c_void;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nginx_sys::{ngx_event_t, ngx_http_request_t, ngx_int_t};
use ngx::http::HttpModule;

use crate::budget::{Budget, Progress};
use crate::conf::{LocationConf, Module};
use crate::format::Media;
use crate::gather::{Answer, Collected, Question, Stage, GATHER, SLICE};
use crate::http::negotiate::{choose, Choice};
use crate::http::query::{unknown_pid, unknown_zone, Query};
use crate::http::reply::{Header, Reply, NO_STORE};
use crate::nginx::request::{Request, Response, FAILED, PART};
use crate::nginx::{guard, process};
use crate::render::{html, Writing};
use crate::report::assemble::{assemble, Facts};
use crate::report::model::AnsweredBy;
use crate::report::narrow::forget_requests;
use crate::sys::pagemap::page_size;

const BY_ACCEPT: Header = ("Vary", "Accept");

/// The content handler of a location with `memstat`.
pub unsafe extern "C" fn handle(request: *mut ngx_http_request_t) -> ngx_int_t {
    guard(FAILED, || {
        // SAFETY: N3.
        match unsafe { Request::from_raw(request) } {
            Some(request) => serve(request),
            None => FAILED,
        }
    })
}

fn serve(mut request: Request) -> ngx_int_t {
    let arrived = Instant::now();
    if let Err(code) = request.discard_body() {
        return code;
    }
    if !request.is_get_or_head() {
        let headers = [("Allow", "GET, HEAD"), NO_STORE];
        return refuse(request, 405, &headers, "only GET and HEAD are accepted");
    }
    let query = match Query::parse(request.args()) {
        Ok(query) => query,
        Err(error) => return refuse(request, 400, &[NO_STORE], &error.to_string()),
    };
    // SAFETY: `Module` makes this type for its locations.
    let conf = unsafe { request.location_conf::<LocationConf>(Module::module()) };
    let Some(timeout_ms) = conf.map(LocationConf::timeout_ms) else {
        return FAILED;
    };
    let Choice { media, by_accept } = choice(request, &query);
    if let Err(error) = query.fits(media.format()) {
        let headers = [NO_STORE, BY_ACCEPT];
        let headers = if by_accept { &headers[..] } else { &headers[..1] };
        return refuse(request, 400, headers, &error.to_string());
    }

    let begun = with_gather(|gather| {
        gather.arrive(Question { request, query, arrived }, timeout_ms);
        let budget = gather.turn();
        (budget, gather.take_answer(Some(request.address())))
    });
    let Some((budget, answer)) = begun else {
        return refuse(request, 503, &[NO_STORE], "this process could not prepare for answering");
    };
    let code = match answer {
        Some(Answer { question, stage }) => match go_on(&question, stage, &budget) {
            Some(Stage::Written(reply)) if reply.len() <= PART => request.respond(reply.response()),
            // It is not to end before this handler does.
            Some(stage) => return hold(request, Some(Answer { question, stage })),
            None => FAILED,
        },
        None => hold(request, None),
    };
    finish_others(&budget);
    code
}

/// Keeps a request for later turns, with what there is of its answer.
fn hold(mut request: Request, answer: Option<Answer>) -> ngx_int_t {
    if let Err(code) = request.hold(gone) {
        with_gather(|gather| gather.forget(request.address()));
        return code;
    }
    if let Some(answer) = answer {
        with_gather(|gather| {
            gather.put_back(answer);
            gather.go_on(true);
        });
    }
    Request::HELD
}

/// This process was woken: it is asked, or somebody it asked has answered, or it goes on reading.
pub unsafe extern "C" fn woken(_event: *mut ngx_event_t) {
    guard((), || {
        let budget = with_gather(|gather| {
            gather.drain();
            gather.turn()
        });
        if let Some(budget) = budget {
            finish_others(&budget);
        }
    });
}

/// The time of a request is up, or it is time to look again.
pub unsafe extern "C" fn tick(_event: *mut ngx_event_t) {
    guard((), || {
        if let Some(budget) = with_gather(|gather| gather.turn()) {
            finish_others(&budget);
        }
    });
}

/// nginx is about to free a request that was held.
unsafe extern "C" fn gone(request: *mut c_void) {
    guard((), || {
        with_gather(|gather| gather.forget(request as usize));
    });
}

/// Goes on with the answers, until the budget is spent. One at a time: the end of one request may end
/// others of its connection, which then forget their answers.
fn finish_others(budget: &Budget) {
    let mut are_any = false;
    while let Some(answer) = with_gather(|gather| gather.take_answer(None)).flatten() {
        are_any = true;
        let Answer { question, stage } = answer;
        match finish(&question, stage, budget) {
            Ok(stage) => {
                with_gather(|gather| gather.put_back(Answer { question, stage }));
                break;
            }
            Err(code) => question.request.end(code),
        }
    }
    if are_any {
        with_gather(|gather| gather.go_on(true));
    }
}

/// Goes on with an answer to a held request until the budget is spent. An error is what there is to
/// tell nginx when the request has come to its end.
fn finish(question: &Question, stage: Stage, budget: &Budget) -> Result<Stage, Option<ngx_int_t>> {
    let mut request = question.request;
    let mut unsent = match go_on(question, stage, budget).ok_or(None)? {
        Stage::Written(reply) if !budget.spent() => request.begin(reply.response())?,
        Stage::Sending(unsent) => unsent,
        stage => return Ok(stage),
    };
    while !budget.spent() {
        if let Some(code) = request.send(&mut unsent) {
            return Err(Some(code));
        }
    }
    Ok(Stage::Sending(unsent))
}

/// Goes on with an answer, until it is written or the budget is spent. `None` when it cannot be made.
fn go_on(question: &Question, stage: Stage, budget: &Budget) -> Option<Stage> {
    if budget.spent() {
        return Some(stage);
    }
    let mut reply = match stage {
        Stage::Collected(collected) => begin(question, collected)?,
        Stage::Writing(reply) => reply,
        Stage::Written(_) | Stage::Sending(_) => return Some(stage),
    };
    // A piece may take long, and does not come on top of much else.
    if budget.used() > SLICE / 2 {
        return Some(Stage::Writing(reply));
    }
    match reply.step(budget).ok()? {
        Progress::Done => Some(Stage::Written(reply)),
        Progress::More => Some(Stage::Writing(reply)),
    }
}

fn with_gather<R>(use_it: impl FnOnce(&mut crate::gather::Gather) -> R) -> Option<R> {
    GATHER.with(|gather| gather.as_mut().filter(|gather| gather.has_joined()).map(use_it)).flatten()
}

/// The format a request gets.
fn choice(mut request: Request, query: &Query) -> Choice {
    // SAFETY: `Module` makes this type for its locations.
    let conf = unsafe { request.location_conf::<LocationConf>(Module::module()) };
    let default = conf.map(LocationConf::format).unwrap_or_default();
    choose(query.format, default, &request.header("accept"))
}

/// Puts the report together, and begins with the reply. `None` when it cannot be made.
fn begin(question: &Question, collected: Collected) -> Option<Reply> {
    let Question { mut request, query, arrived } = question;
    // SAFETY: `Module` makes this type for its locations.
    let conf = unsafe { request.location_conf::<LocationConf>(Module::module()) };
    let Collected { mut processes, zones, merged } = collected;
    if !conf.is_some_and(LocationConf::has_uris) {
        forget_requests(&mut processes);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let facts = Facts {
        nginx: process::version().to_owned(),
        product: process::product().clone(),
        time: (now.as_secs(), now.subsec_millis().into()),
        page_size: page_size() as u64,
        answered_by: AnsweredBy { pid: process::pid(), id: process::worker_id() },
        elapsed_us: u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX),
    };
    let mut server = assemble(facts, processes, zones, &merged);
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
    let Choice { media, by_accept } = choice(request, query);
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

fn refuse(mut request: Request, status: u16, headers: &[Header], sentence: &str) -> ngx_int_t {
    request.respond(Response {
        status,
        content_type: Media::Text.content_type(),
        headers: headers.to_vec(),
        body: format!("{sentence}\n").into_bytes(),
    })
}

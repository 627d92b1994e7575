//! `GET /memstat`: read the request, gather, answer.

use std::ffi::c_void;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nginx_sys::{ngx_event_t, ngx_http_request_t, ngx_int_t, NGX_HTTP_INTERNAL_SERVER_ERROR};
use ngx::http::HttpModule;

use crate::conf::{LocationConf, Module};
use crate::gather::{Answer, Collected, GATHER};
use crate::negotiate::{choose, Choice};
use crate::nginx::request::{Request, Response};
use crate::nginx::{guard, process};
use crate::probe::pagemap::page_size;
use crate::query::{unknown_pid, unknown_zone, Query};
use crate::render::{html, render, Media};
use crate::report::model::AnsweredBy;
use crate::report::{assemble, pools, Facts};

const FAILED: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

type Header = (&'static str, &'static str);

const NO_STORE: Header = ("Cache-Control", "no-store");
const NO_SNIFF: Header = ("X-Content-Type-Options", "nosniff");
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

    let answer = with_gather(|gather| {
        gather.arrive(request, query, arrived, timeout_ms);
        gather.turn();
        gather.take_answer(Some(request.address()))
    });
    let code = match answer {
        None => refuse(request, 503, &[NO_STORE], "this process could not prepare for answering"),
        Some(Some(answer)) => match body(answer) {
            Some(body) => request.respond(&body.response()),
            None => FAILED,
        },
        Some(None) => match request.hold(gone) {
            Ok(()) => Request::HELD,
            Err(code) => {
                with_gather(|gather| gather.forget(request.address()));
                code
            }
        },
    };
    finish_others();
    code
}

/// This process was woken: it is asked, or somebody it asked has answered, or it goes on reading.
pub unsafe extern "C" fn woken(_event: *mut ngx_event_t) {
    guard((), || {
        with_gather(|gather| {
            gather.drain();
            gather.turn();
        });
        finish_others();
    });
}

/// The time of a request is up, or it is time to look again.
pub unsafe extern "C" fn tick(_event: *mut ngx_event_t) {
    guard((), || {
        with_gather(|gather| gather.turn());
        finish_others();
    });
}

/// nginx is about to free a request that was held.
unsafe extern "C" fn gone(request: *mut c_void) {
    guard((), || {
        with_gather(|gather| gather.forget(request as usize));
    });
}

/// One at a time: the end of one request may end others of its connection, which then forget their
/// answers.
fn finish_others() {
    while let Some(answer) = with_gather(|gather| gather.take_answer(None)).flatten() {
        let request = answer.request;
        match body(answer) {
            Some(body) => request.finish(Some(&body.response())),
            None => request.finish(None),
        }
    }
}

fn with_gather<R>(use_it: impl FnOnce(&mut crate::gather::Gather) -> R) -> Option<R> {
    GATHER.with(|gather| gather.as_mut().filter(|gather| gather.has_joined()).map(use_it)).flatten()
}

/// What is sent.
struct Body {
    status: u16,
    content_type: &'static str,
    headers: Vec<Header>,
    bytes: Vec<u8>,
}

impl Body {
    fn new(status: u16, media: Media, bytes: Vec<u8>) -> Self {
        let content_type = media.content_type();
        Body { status, content_type, headers: vec![NO_STORE, NO_SNIFF], bytes }
    }

    fn response(&self) -> Response<'_> {
        let Body { status, content_type, ref headers, ref bytes } = *self;
        Response { status, content_type, headers, body: bytes }
    }
}

/// The format a request gets.
fn choice(mut request: Request, query: &Query) -> Choice {
    // SAFETY: `Module` makes this type for its locations.
    let conf = unsafe { request.location_conf::<LocationConf>(Module::module()) };
    let default = conf.map(LocationConf::format).unwrap_or_default();
    choose(query.format, default, &request.header("accept"))
}

fn body(answer: Answer) -> Option<Body> {
    let mut request = answer.request;
    // SAFETY: `Module` makes this type for its locations.
    let conf = unsafe { request.location_conf::<LocationConf>(Module::module()) };
    let Collected { mut processes, zones } = answer.collected;
    if !conf.is_some_and(LocationConf::has_uris) {
        pools::forget_requests(&mut processes);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let facts = Facts {
        nginx: process::version().to_owned(),
        time: (now.as_secs(), now.subsec_millis().into()),
        page_size: page_size() as u64,
        answered_by: AnsweredBy { pid: process::pid(), id: process::worker_id() },
        elapsed_us: u64::try_from(answer.arrived.elapsed().as_micros()).unwrap_or(u64::MAX),
    };
    let mut server = assemble(facts, processes, zones);
    let query = &answer.query;
    let missing = |sentence: String| Some(Body::new(404, Media::Text, sentence.into_bytes()));
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
    let mut body = Body::new(200, media, render(media, &server, query.fields.as_ref()).ok()?);
    if by_accept {
        body.headers.push(BY_ACCEPT);
    }
    if media == Media::Html {
        body.headers.push(("Content-Security-Policy", html::content_security_policy()));
    }
    Some(body)
}

fn refuse(
    mut request: Request,
    status: u16,
    headers: &[(&'static str, &'static str)],
    sentence: &str,
) -> ngx_int_t {
    let body = format!("{sentence}\n");
    let content_type = Media::Text.content_type();
    request.respond(&Response { status, content_type, headers, body: body.as_bytes() })
}

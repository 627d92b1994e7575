//! `GET /memstat`: read the request, gather, answer.

use std::ffi::c_void;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nginx_sys::{ngx_event_t, ngx_http_request_t, ngx_int_t, NGX_HTTP_INTERNAL_SERVER_ERROR};
use ngx::http::HttpModule;

use crate::conf::{LocationConf, Module};
use crate::gather::{Answer, Collected, GATHER};
use crate::nginx::request::{Request, Response};
use crate::nginx::{guard, process};
use crate::probe::pagemap::page_size;
use crate::query::{unknown_zone, Query};
use crate::render::{render, Format};
use crate::report::model::AnsweredBy;
use crate::report::{assemble, pools, Facts};

const FAILED: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

const NO_STORE: (&str, &str) = ("Cache-Control", "no-store");

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

    let answer = with_gather(|gather| {
        gather.arrive(request, query, arrived, timeout_ms);
        gather.turn();
        gather.take_answer(Some(request.address()))
    });
    let code = match answer {
        None => refuse(request, 503, &[NO_STORE], "this process could not prepare for answering"),
        Some(Some(answer)) => match body(&answer) {
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
        match body(&answer) {
            Some(body) => answer.request.finish(Some(&body.response())),
            None => answer.request.finish(None),
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
    bytes: Vec<u8>,
}

impl Body {
    fn response(&self) -> Response<'_> {
        let Body { status, content_type, ref bytes } = *self;
        Response { status, content_type, headers: &[NO_STORE], body: bytes }
    }
}

fn body(answer: &Answer) -> Option<Body> {
    let mut request = answer.request;
    // SAFETY: `Module` makes this type for its locations.
    let conf = unsafe { request.location_conf::<LocationConf>(Module::module()) };
    let Collected { mut processes, zones } = answer.collected.clone();
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
    if let Some(zone) = &answer.query.zone {
        let names = server.shared_zones.names();
        if !server.narrow(zone) {
            let sentence = unknown_zone(zone, &names);
            let content_type = Format::Text.content_type();
            return Some(Body { status: 404, content_type, bytes: sentence.into_bytes() });
        }
    }
    let format = answer.query.format.unwrap_or(Format::Json);
    let bytes = render(format, &server).ok()?;
    Some(Body { status: 200, content_type: format.content_type(), bytes })
}

fn refuse(
    mut request: Request,
    status: u16,
    headers: &[(&'static str, &'static str)],
    sentence: &str,
) -> ngx_int_t {
    let body = format!("{sentence}\n");
    let content_type = Format::Text.content_type();
    request.respond(&Response { status, content_type, headers, body: body.as_bytes() })
}

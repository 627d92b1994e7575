//! `GET /memstat`: read the request, refuse it or hand it over.

use std::time::Instant;

use nginx_sys::{ngx_http_request_t, ngx_int_t};
use ngx::http::HttpModule;

use crate::conf::{LocationConf, Module};
use crate::format::Media;
use crate::http::answer::{self, Question};
use crate::http::negotiate::{choose, Choice};
use crate::http::query::Query;
use crate::http::reply::{Header, BY_ACCEPT, NO_STORE};
use crate::nginx::guard;
use crate::nginx::request::{Request, Response, FAILED};

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
    let accept = request.header("accept");
    // SAFETY: `Module` makes this type for its locations.
    let Some(conf) = (unsafe { request.location_conf::<LocationConf>(Module::module()) }) else {
        return FAILED;
    };
    let choice = choose(query.format, conf.format(), &accept);
    let (timeout_ms, uris) = (conf.timeout_ms(), conf.has_uris());
    let Choice { media, by_accept } = choice;
    if let Err(error) = query.fits(media.format()) {
        let headers = [NO_STORE, BY_ACCEPT];
        let headers = if by_accept { &headers[..] } else { &headers[..1] };
        return refuse(request, 400, headers, &error.to_string());
    }
    let question = Question { request, query, choice, uris, arrived };
    answer::give(question, timeout_ms).unwrap_or_else(|| {
        refuse(request, 503, &[NO_STORE], "this process could not prepare for answering")
    })
}

fn refuse(mut request: Request, status: u16, headers: &[Header], sentence: &str) -> ngx_int_t {
    request.respond(Response {
        status,
        content_type: Media::Text.content_type(),
        headers: headers.to_vec(),
        body: format!("{sentence}\n").into_bytes(),
    })
}

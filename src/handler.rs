//! Handles `GET /memstat`: reads the request, and refuses it or passes it to [`answer`].
#![forbid(unsafe_code)]

use std::time::Instant;

use nginx_sys::ngx_int_t;

use crate::format::{Format, Media};
use crate::http::answer::{self, Question};
use crate::http::negotiate::{choose, Choice};
use crate::http::query::Query;
use crate::http::reply::{HeaderField, BY_ACCEPT, NO_STORE};
use crate::nginx::request::{Request, Response};

/// The configuration of the location that a request is in.
#[derive(Debug, Clone, Copy)]
pub struct Location {
    /// How long a request waits for other processes, in milliseconds.
    pub timeout_ms: u64,
    /// Whether replies may contain request lines.
    pub uris: bool,
    /// The format for requests that ask for none.
    pub format: Format,
}

/// Answers a request, refuses it, or keeps it for later. Returns the code for nginx.
pub fn serve(mut request: Request, location: Location) -> ngx_int_t {
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
    let Location { timeout_ms, uris, format } = location;
    let choice = choose(query.format, format, &request.header("accept"));
    let Choice { media, by_accept } = choice;
    if let Err(error) = query.fits(media.format()) {
        let headers = [NO_STORE, BY_ACCEPT];
        let headers = if by_accept { &headers[..] } else { &headers[..1] };
        return refuse(request, 400, headers, &error.to_string());
    }
    let question = Question { request, query, choice, uris, arrived };
    answer::give(question, timeout_ms).unwrap_or_else(|| {
        refuse(request, 503, &[NO_STORE], "this process cannot answer: see nginx's error log")
    })
}

fn refuse(mut request: Request, status: u16, headers: &[HeaderField], sentence: &str) -> ngx_int_t {
    request.respond(Response {
        status,
        content_type: Media::Text.content_type(),
        headers: headers.to_vec(),
        body: format!("{sentence}\n").into_bytes(),
    })
}

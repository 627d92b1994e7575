//! A reply: its header fields, and its body, which is written in steps.
#![forbid(unsafe_code)]

use crate::budget::{Budget, Progress};
use crate::format::Media;
use crate::nginx::request::Response;
use crate::render::{RenderError, Writing};

/// The name and the value of a header field.
pub type HeaderField = (&'static str, &'static str);

/// The `Accept` field decided the format.
pub const BY_ACCEPT: HeaderField = ("Vary", "Accept");
/// No cache may store a reply, because it shows the present.
pub const NO_STORE: HeaderField = ("Cache-Control", "no-store");
const NO_SNIFF: HeaderField = ("X-Content-Type-Options", "nosniff");

/// A reply: its header fields, and the part of its body that is written so far.
pub struct Reply {
    status: u16,
    content_type: &'static str,
    headers: Vec<HeaderField>,
    body: ReplyBody,
}

enum ReplyBody {
    Sentence(String),
    Writing(Box<Writing>),
}

impl Reply {
    /// Creates a reply with a report that is still to be written. It has the header fields in
    /// `more` and those of all replies.
    pub fn new(media: Media, more: Vec<HeaderField>, writing: Writing) -> Self {
        let mut headers = vec![NO_STORE, NO_SNIFF];
        headers.extend(more);
        let body = ReplyBody::Writing(Box::new(writing));
        Reply { status: 200, content_type: media.content_type(), headers, body }
    }

    /// Creates a reply that is one sentence, with this status, instead of a report.
    pub fn sentence(status: u16, sentence: String) -> Self {
        let (content_type, headers) = (Media::Text.content_type(), vec![NO_STORE, NO_SNIFF]);
        Reply { status, content_type, headers, body: ReplyBody::Sentence(sentence) }
    }

    /// Writes the body until the budget is spent.
    pub fn step(&mut self, budget: &Budget) -> Result<Progress, RenderError> {
        match &mut self.body {
            ReplyBody::Sentence(_) => Ok(Progress::Done),
            ReplyBody::Writing(writing) => writing.step(budget),
        }
    }

    /// Returns the size of the body so far, in bytes.
    pub fn len(&self) -> usize {
        match &self.body {
            ReplyBody::Sentence(sentence) => sentence.len(),
            ReplyBody::Writing(writing) => writing.body().len(),
        }
    }

    /// Returns the complete response. To be called after [`Reply::step`] is done.
    pub fn response(self) -> Response {
        let Reply { status, content_type, headers, body } = self;
        let body = match body {
            ReplyBody::Sentence(sentence) => sentence.into_bytes(),
            ReplyBody::Writing(writing) => writing.into_body(),
        };
        Response { status, content_type, headers, body }
    }
}

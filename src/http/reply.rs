//! A reply on its way.

use crate::budget::{Budget, Progress};
use crate::format::Media;
use crate::nginx::request::Response;
use crate::render::{RenderError, Writing};

/// A header field.
pub type Header = (&'static str, &'static str);

/// Replies are about now.
pub const NO_STORE: Header = ("Cache-Control", "no-store");
const NO_SNIFF: Header = ("X-Content-Type-Options", "nosniff");

/// A reply: what its head says, and its body as far as it is written.
pub struct Reply {
    status: u16,
    content_type: &'static str,
    headers: Vec<Header>,
    body: Body,
}

enum Body {
    Sentence(String),
    Writing(Box<Writing>),
}

impl Reply {
    /// A report in the making, with these header fields and those that all replies have.
    pub fn new(media: Media, more: Vec<Header>, writing: Writing) -> Self {
        let mut headers = vec![NO_STORE, NO_SNIFF];
        headers.extend(more);
        let body = Body::Writing(Box::new(writing));
        Reply { status: 200, content_type: media.content_type(), headers, body }
    }

    /// A sentence instead of a report.
    pub fn sentence(status: u16, sentence: String) -> Self {
        let (content_type, headers) = (Media::Text.content_type(), vec![NO_STORE, NO_SNIFF]);
        Reply { status, content_type, headers, body: Body::Sentence(sentence) }
    }

    /// Writes until the budget is spent.
    pub fn step(&mut self, budget: &Budget) -> Result<Progress, RenderError> {
        match &mut self.body {
            Body::Sentence(_) => Ok(Progress::Done),
            Body::Writing(writing) => writing.step(budget),
        }
    }

    /// The size of the body so far, in bytes.
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Sentence(sentence) => sentence.len(),
            Body::Writing(writing) => writing.body().len(),
        }
    }

    /// All of it, once [`Reply::step`] is done.
    pub fn response(self) -> Response {
        let Reply { status, content_type, headers, body } = self;
        let body = match body {
            Body::Sentence(sentence) => sentence.into_bytes(),
            Body::Writing(writing) => writing.into_body(),
        };
        Response { status, content_type, headers, body }
    }
}

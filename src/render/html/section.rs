//! Sections of the page, which are written row by row.
#![forbid(unsafe_code)]

use maud::{Markup, PreEscaped};

use crate::budget::Progress;
use crate::report::model::Server;

/// The placeholder for the rows in the markup of a section. Inserted text cannot contain it,
/// because its `<` is escaped.
pub(super) const ROWS: PreEscaped<&str> = PreEscaped("<rows>");

/// Returns the row at an index; `None` after the last one.
type Rows = dyn Fn(&Server, usize) -> Option<Markup>;

/// A section that is being written: the part before its rows, the rows, and the part after them.
pub(super) struct Section {
    before: String,
    rows: Box<Rows>,
    next: usize,
    after: String,
}

impl Section {
    /// A section with its rows at [`ROWS`].
    pub(super) fn with_rows(
        markup: Markup,
        rows: impl Fn(&Server, usize) -> Option<Markup> + 'static,
    ) -> Self {
        let (before, after) = split(markup);
        Section { before, rows: Box::new(rows), next: 0, after }
    }

    /// A short section, written at once.
    pub(super) fn whole(markup: Markup) -> Self {
        let PreEscaped(before) = markup;
        Section { before, rows: Box::new(|_, _| None), next: 0, after: String::new() }
    }

    /// An empty section.
    pub(super) fn none() -> Self {
        Section::whole(PreEscaped(String::new()))
    }

    /// Writes the next piece.
    pub(super) fn piece(&mut self, server: &Server, out: &mut Vec<u8>) -> Progress {
        out.extend(std::mem::take(&mut self.before).into_bytes());
        match (self.rows)(server, self.next) {
            Some(PreEscaped(row)) => {
                out.extend(row.into_bytes());
                self.next = self.next.saturating_add(1);
                Progress::More
            }
            None => {
                out.extend(std::mem::take(&mut self.after).into_bytes());
                Progress::Done
            }
        }
    }
}

/// Splits markup at [`ROWS`].
pub(super) fn split(markup: Markup) -> (String, String) {
    let PreEscaped(text) = markup;
    match text.split_once(ROWS.0) {
        Some((before, after)) => (before.to_owned(), after.to_owned()),
        None => (text, String::new()),
    }
}

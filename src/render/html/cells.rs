//! Tables and their cells.
#![forbid(unsafe_code)]

use maud::{html, Markup, Render};

use crate::render::units::{count, millis, seconds, size};
use crate::report::model::Note;

/// Makes every character of a text visible: characters that are invisible or that change how their
/// neighbours are displayed are written as escapes.
pub(super) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}' => out.extend(c.escape_unicode()),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// A note: its fields as code, and the reason.
pub(super) fn noted(note: &Note) -> Markup {
    html! {
        @for (place, field) in note.fields.iter().enumerate() {
            @if place > 0 { ", " }
            code { (visible(field)) }
        }
        @if !note.fields.is_empty() { ": " }
        bdi { (visible(&note.reason)) }
    }
}

/// The mark of an unknown figure.
pub(super) fn unknown() -> Markup {
    html! { abbr.unknown title="unknown, see the notes" { "?" } }
}

/// A figure, or the mark of an unknown one.
pub(super) fn known<T>(figure: Option<T>, show: impl FnOnce(T) -> String) -> Markup {
    match figure {
        Some(figure) => html! { (show(figure)) },
        None => unknown(),
    }
}

/// The content of a cell.
pub(super) enum Cell {
    /// Text that the module writes itself.
    Text(String),
    /// Text from outside, which may be hostile.
    Name(String),
    /// Bytes.
    Size(Option<u64>),
    /// A number.
    Count(Option<u64>),
    /// A lower bound of a number that should be 0.
    AtLeast(u64),
    /// A number that should be 0.
    Alarm(u64),
    /// A figure that there is not, so that none is missing.
    None,
    /// Seconds.
    Seconds(Option<u64>),
    /// Milliseconds.
    Millis(Option<u64>),
    /// Any markup, and the number by which it is sorted.
    Markup(Markup, u64),
}

impl Cell {
    /// Whether the cell has a figure. Figures are aligned on the right, so that they can be
    /// compared.
    fn is_figure(&self) -> bool {
        matches!(
            self,
            Cell::Size(_)
                | Cell::Count(_)
                | Cell::AtLeast(_)
                | Cell::Alarm(_)
                | Cell::None
                | Cell::Seconds(_)
                | Cell::Millis(_)
        )
    }

    /// The key by which the cell is sorted. Unknown figures rank below 0.
    fn key(&self) -> String {
        match self {
            Cell::Text(text) | Cell::Name(text) => visible(text),
            Cell::Size(n) | Cell::Count(n) | Cell::Seconds(n) | Cell::Millis(n) => {
                n.map_or_else(|| "-1".to_owned(), |n| n.to_string())
            }
            Cell::Markup(_, n) | Cell::AtLeast(n) | Cell::Alarm(n) => n.to_string(),
            Cell::None => "-1".to_owned(),
        }
    }

    fn content(&self) -> Markup {
        match self {
            Cell::Text(text) => html! { (text) },
            Cell::Name(text) => html! { bdi { (visible(text)) } },
            Cell::Size(bytes) => known(*bytes, size),
            Cell::Count(number) => known(*number, count),
            Cell::AtLeast(number) => html! {
                abbr.alarm title="a lower bound, see the notes" { "≥ " (count(*number)) }
            },
            Cell::Alarm(number) => html! { strong.alarm { (count(*number)) } },
            Cell::None => html! { "-" },
            Cell::Seconds(s) => known(*s, seconds),
            Cell::Millis(ms) => known(*ms, millis),
            Cell::Markup(markup, _) => html! { (markup) },
        }
    }
}

/// A row: the key that identifies it in later versions of the page, and its cells. The first cell
/// is the row's name.
pub(super) struct Row(pub(super) String, pub(super) Vec<Cell>);

/// A table. The script makes it sortable if it has more than one row.
pub(super) struct HtmlTable<'a> {
    /// Identifies the table in later versions of the page; the table of a process has its pid in
    /// it.
    pub(super) id: String,
    /// The caption.
    pub(super) caption: &'a str,
    /// The heads of the columns.
    pub(super) heads: &'a [&'a str],
    /// The rows. Without rows there is no table.
    pub(super) rows: Vec<Row>,
}

impl Row {
    pub(super) fn markup(&self) -> Markup {
        let Row(key, cells) = self;
        html! {
            tr data-key=(visible(key)) {
                @for (i, cell) in cells.iter().enumerate() {
                    @if i == 0 {
                        th scope="row" data-sort=(cell.key()) { (cell.content()) }
                    } @else {
                        td class=[class(cell)] data-sort=(cell.key()) { (cell.content()) }
                    }
                }
            }
        }
    }
}

fn class(cell: &Cell) -> Option<&'static str> {
    cell.is_figure().then_some("figure")
}

impl HtmlTable<'_> {
    pub(super) fn markup(&self) -> Markup {
        let Some(first) = self.rows.first() else { return html! {} };
        let rows = html! { @for row in &self.rows { (row.markup()) } };
        self.around(first, self.rows.len() > 1, &rows)
    }

    /// The table around `rows`, of which `first` is the first.
    pub(super) fn around(&self, first: &Row, several: bool, rows: impl Render) -> Markup {
        let Row(_, first) = first;
        html! {
            div.scroll tabindex="0" role="region" aria-label=(self.caption) {
                table id=(self.id) data-sortable[several] {
                    caption { (self.caption) }
                    thead { tr {
                        @for (i, head) in self.heads.iter().enumerate() {
                            th scope="col" class=[first.get(i).and_then(class)] { (head) }
                        }
                    } }
                    tbody { (rows) }
                }
            }
        }
    }
}

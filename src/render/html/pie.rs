//! Pies, their legends, and bars: inline SVG in which each sector has its number of bytes.
#![forbid(unsafe_code)]

use std::f64::consts::TAU;

use maud::{html, Markup};

use super::cells::{known, unknown};
use crate::render::units::{share, size};

/// The outer radius of a pie, which is a ring around its total.
const OUTER: f64 = 96.0;
/// The inner radius of a pie.
const INNER: f64 = 56.0;

/// A part of a whole.
pub(super) struct Slice {
    /// Its name in JSON, or a name that only the page uses.
    pub(super) name: &'static str,
    /// The label that readers see.
    pub(super) label: &'static str,
    /// Its CSS class, see [`super::palette`].
    pub(super) class: &'static str,
    /// Its size in bytes; `None` if it is unknown.
    pub(super) bytes: Option<u64>,
}

/// The sum of the slices; `None` if one of them is unknown.
pub(super) fn total(slices: &[Slice]) -> Option<u64> {
    slices.iter().try_fold(0u64, |sum, slice| sum.checked_add(slice.bytes?))
}

/// A pie of these slices. If one of them is unknown, a `?` replaces the pie.
pub(super) fn pie(title: &str, class: &str, slices: &[Slice]) -> Markup {
    let Some(total) = total(slices) else {
        return html! { p.nopie.(class) { (title) ": " (unknown()) } };
    };
    let (number, unit) = split(total);
    html! {
        svg.pie.(class) viewBox="-100 -100 200 200" role="img" data-total=(total)
            aria-label=(format!("Pie: {title}, {}", size(total))) {
            @if total == 0 { circle.ring r=(OUTER) {} }
            @for (slice, from, bytes) in placed(slices) {
                path class=(slice.class) data-name=(slice.name) data-bytes=(bytes)
                    d=(sector(from, bytes, total)) {
                    title { (slice.label) ": " (size(bytes)) ", " (share(bytes, total)) }
                }
            }
            text.number y="2" { (number) }
            text.unit y="20" { (unit) }
        }
    }
}

/// The slices that are not empty: each with its offset from the first one, and its size in bytes.
fn placed(slices: &[Slice]) -> impl Iterator<Item = (&Slice, u64, u64)> {
    let sized = slices.iter().filter_map(|slice| Some((slice, slice.bytes.filter(|b| *b > 0)?)));
    sized.scan(0u64, |end, (slice, bytes)| {
        let from = *end;
        *end = end.saturating_add(bytes);
        Some((slice, from, bytes))
    })
}

/// A size as a number and its unit.
fn split(bytes: u64) -> (String, String) {
    let text = size(bytes);
    match text.split_once(' ') {
        Some((number, unit)) => (number.to_owned(), unit.to_owned()),
        None => (text, "bytes".to_owned()),
    }
}

/// The path of a sector of a ring.
fn sector(from: u64, bytes: u64, total: u64) -> String {
    let whole = total.max(1) as f64;
    let begin = from as f64 / whole;
    // A full turn would end where it begins: nothing would be drawn.
    let turn = (bytes as f64 / whole).min(0.999_99);
    let large = u8::from(turn > 0.5);
    let point = |turn: f64, radius: f64| {
        let (sin, cos) = (turn * TAU).sin_cos();
        format!("{:.3} {:.3}", radius * sin, -radius * cos)
    };
    format!(
        "M{} A{OUTER} {OUTER} 0 {large} 1 {} L{} A{INNER} {INNER} 0 {large} 0 {}Z",
        point(begin, OUTER),
        point(begin + turn, OUTER),
        point(begin + turn, INNER),
        point(begin, INNER),
    )
}

/// A small square in the colour of a class.
fn swatch(class: &str) -> Markup {
    html! {
        svg.swatch viewBox="0 0 10 10" aria-hidden="true" {
            rect class=(class) width="10" height="10" rx="2" {}
        }
    }
}

/// The legend of a pie: a table of its slices, with columns of sizes and their shares.
pub(super) fn legend(caption: &str, columns: &[(&str, &[Slice])]) -> Markup {
    let first = columns.first().map(|(_, slices)| *slices).unwrap_or_default();
    html! {
        table.legend {
            caption { (caption) }
            thead { tr {
                th scope="col" { "Part" }
                @for (head, _) in columns { th.figure scope="col" colspan="2" { (head) } }
            } }
            tbody {
                @for (i, slice) in first.iter().enumerate() {
                    tr data-key=(slice.name) {
                        th scope="row" { (swatch(slice.class)) (slice.label) }
                        @for (_, slices) in columns {
                            @let bytes = slices.get(i).and_then(|slice| slice.bytes);
                            td.figure { (known(bytes, size)) }
                            td.figure.share {
                                @if let (Some(bytes), Some(total)) = (bytes, total(slices)) {
                                    (share(bytes, total))
                                }
                            }
                        }
                    }
                }
            }
            tfoot { tr {
                th scope="row" { "Total" }
                @for (_, slices) in columns {
                    td.figure { (known(total(slices), size)) } td {}
                }
            } }
        }
    }
}

/// A bar of slices; `longest` bytes fill its width.
pub(super) fn bar(title: &str, class: &str, slices: &[Slice], longest: u64) -> Markup {
    let at = |bytes: u64| format!("{:.2}", bytes as f64 * 100.0 / longest.max(1) as f64);
    html! {
        svg.bar.(class) viewBox="0 0 100 10" preserveAspectRatio="none" role="img"
            aria-label=(title) {
            @for (slice, from, bytes) in placed(slices) {
                rect class=(slice.class) x=(at(from)) width=(at(bytes)) height="10" {
                    title { (slice.label) ": " (size(bytes)) }
                }
            }
        }
    }
}

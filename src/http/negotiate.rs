//! Chooses the format of a reply.
//!
//! `format=` comes first, then what `Accept` prefers (RFC 9110, section 12.5.1), then the
//! location's default. A range such as `*/*` leaves the choice to the location.
#![forbid(unsafe_code)]

use mediatype::{MediaType, MediaTypeList, ReadParams};

use crate::format::{Format, Media};

/// The format chosen for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The media type that is sent.
    pub media: Media,
    /// Whether the choice depends on `Accept`, so that a cache must keep replies apart by it.
    pub by_accept: bool,
}

/// Chooses the media type for a request. `asked` is the format in `format=`, `accept` the values of
/// all `Accept` fields, joined by commas.
pub fn choose(asked: Option<Format>, default: Format, accept: &str) -> Choice {
    let ranges: Vec<Range> = MediaTypeList::new(accept).flatten().filter_map(Range::new).collect();
    let best = |offers: &[Media]| {
        let mut best: Option<(Media, Quality)> = None;
        for offer in offers {
            let quality = quality(*offer, &ranges);
            // Of equal offers, the first one is taken.
            if quality > 0 && best.is_none_or(|(_, known)| quality > known) {
                best = Some((*offer, quality));
            }
        }
        best.map(|(media, _)| media)
    };
    match asked {
        Some(Format::Prometheus) => {
            let media = best(Format::Prometheus.media()).unwrap_or(Media::Classic);
            Choice { media, by_accept: true }
        }
        Some(format) => Choice { media: plain(format), by_accept: false },
        None => {
            let mut offers = default.media().to_vec();
            let others = Format::ALL.into_iter().filter(|format| *format != default);
            offers.extend(others.flat_map(Format::media));
            // If nothing is acceptable, a reply in the default format is more useful than a
            // refusal.
            let media = best(&offers).unwrap_or(plain(default));
            Choice { media, by_accept: true }
        }
    }
}

/// Returns the first media type of a format.
fn plain(format: Format) -> Media {
    match format {
        Format::Json => Media::Json,
        Format::Html => Media::Html,
        Format::Prometheus => Media::Classic,
        Format::Text => Media::Text,
    }
}

/// The quality of a range, in thousandths.
type Quality = u16;

/// An element of `Accept`.
struct Range<'a> {
    media: MediaType<'a>,
    quality: Quality,
}

impl<'a> Range<'a> {
    fn new(media: MediaType<'a>) -> Option<Self> {
        let quality = match media.get_param(mediatype::names::Q) {
            None => 1000,
            Some(value) => {
                let value: f32 = value.as_str().parse().ok()?;
                if !(0.0..=1.0).contains(&value) {
                    return None;
                }
                (value * 1000.0).round() as Quality
            }
        };
        Some(Range { media, quality })
    }

    /// Returns how specific the range is for an offer: 0 for `*/*`, 3 for a type with a version.
    /// `None` if the range does not match the offer.
    fn specificity(&self, offer: Media) -> Option<usize> {
        let (ty, subty, versions) = offer.essence();
        let is =
            |name: mediatype::Name, expected: &str| name.as_str().eq_ignore_ascii_case(expected);
        if is(self.media.ty, "*") {
            return is(self.media.subty, "*").then_some(0);
        }
        if !is(self.media.ty, ty) {
            return None;
        }
        if is(self.media.subty, "*") {
            return Some(1);
        }
        if !is(self.media.subty, subty) || self.media.suffix.is_some() {
            return None;
        }
        let version = mediatype::Name::new("version").and_then(|name| self.media.get_param(name));
        match version {
            None => Some(2),
            Some(version) => versions.contains(&&*version.unquoted_str()).then_some(3),
        }
    }
}

/// Returns the quality that the most specific matching range gives to an offer.
fn quality(offer: Media, ranges: &[Range]) -> Quality {
    let fitting = ranges.iter().filter_map(|r| Some((r.specificity(offer)?, r.quality)));
    fitting.max().map_or(0, |(_, quality)| quality)
}

#[cfg(test)]
mod tests;

//! Reasons why figures are unknown or inexact.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// The reason why figures are unknown or inexact. In JSON it is one string: the fields and the reason,
/// as [`Display`](fmt::Display) writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The paths of the figures, in the process or the zone that has the note. Empty if no field
    /// stands for them, and [`ALL`](Note::ALL) for all of them.
    pub fields: Vec<Cow<'static, str>>,
    /// The reason.
    pub reason: Cow<'static, str>,
}

impl Note {
    /// Stands for all figures of the process or the zone.
    pub const ALL: &[&'static str] = &["all figures"];

    /// Makes a note without fields.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Note::of(&[], reason)
    }

    /// Makes a note about these fields.
    pub fn of(fields: &[&'static str], reason: impl Into<Cow<'static, str>>) -> Self {
        let fields = fields.iter().map(|field| Cow::Borrowed(*field)).collect();
        Note { fields, reason: reason.into() }
    }

    /// Returns the most bytes that the note takes in a snapshot: its texts, and their lengths of less
    /// than 2^21.
    pub fn most_bytes(&self) -> usize {
        let texts = self.fields.iter().chain([&self.reason]);
        texts.fold(3, |sum, text| sum.saturating_add(text.len()).saturating_add(3))
    }
}

impl fmt::Display for Note {
    /// Writes `pages, slots: it cannot be read`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, field) in self.fields.iter().enumerate() {
            let separator = if place > 0 { ", " } else { "" };
            write!(f, "{separator}{field}")?;
        }
        let separator = if self.fields.is_empty() { "" } else { ": " };
        write!(f, "{separator}{}", self.reason)
    }
}

impl Serialize for Note {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => (&self.fields, &self.reason).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Note {
    /// Binary formats only.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (fields, reason) = Deserialize::deserialize(deserializer)?;
        Ok(Note { fields, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> [(Note, &'static str); 4] {
        [
            (Note::new("the sum is used"), "the sum is used"),
            (Note::of(&["limits"], "no \"file\""), "limits: no \"file\""),
            (Note::of(&["pages", "slots"], "a: b, c".to_owned()), "pages, slots: a: b, c"),
            (Note::of(Note::ALL, "it is away"), "all figures: it is away"),
        ]
    }

    #[test]
    fn one_string_in_json() {
        for (note, text) in notes() {
            assert_eq!(note.to_string(), text);
            assert_eq!(serde_json::to_string(&note).unwrap(), serde_json::to_string(text).unwrap());
            assert_eq!(serde_json::to_value(&note).unwrap(), text);
        }
    }

    #[test]
    fn fields_and_reason_in_a_snapshot() {
        for (note, _) in notes() {
            let bytes = postcard::to_stdvec(&note).unwrap();
            assert_eq!(postcard::from_bytes::<Note>(&bytes).unwrap(), note);
            assert!(bytes.len() <= note.most_bytes());
        }
    }
}

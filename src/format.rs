//! In what a reply can be written: the formats, their media types, and the characters of all of them.
#![forbid(unsafe_code)]

/// A format of the reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// The whole model.
    #[default]
    Json,
    /// A page for a browser.
    Html,
    /// Tables for a person at a terminal.
    Text,
    /// Metrics for Prometheus.
    Prometheus,
}

/// What is sent: a format, and which of its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// JSON.
    Json,
    /// The page.
    Html,
    /// Tables.
    Text,
    /// The text format of Prometheus, version 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 4] = [Format::Json, Format::Html, Format::Text, Format::Prometheus];

    /// The name, as in `format=`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Html => "html",
            Format::Text => "text",
            Format::Prometheus => "prometheus",
        }
    }

    /// The format of a name.
    pub fn parse(name: &[u8]) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name().as_bytes() == name)
    }

    /// Its types, the one first that those get who leave it open.
    pub fn media(self) -> &'static [Media] {
        match self {
            Format::Json => &[Media::Json],
            Format::Html => &[Media::Html],
            Format::Text => &[Media::Text],
            Format::Prometheus => &[Media::Classic, Media::OpenMetrics],
        }
    }

    /// All names in quotes, for a sentence.
    pub fn names() -> String {
        Format::list("and")
    }

    /// The same as a choice.
    pub fn choices() -> String {
        Format::list("or")
    }

    fn list(word: &str) -> String {
        let names: Vec<_> = Format::ALL.iter().map(|f| format!("\"{}\"", f.name())).collect();
        match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} {word} {last}", rest.join(", ")),
            _ => names.concat(),
        }
    }
}

impl Media {
    /// Whose it is.
    pub fn format(self) -> Format {
        match self {
            Media::Json => Format::Json,
            Media::Html => Format::Html,
            Media::Text => Format::Text,
            Media::Classic | Media::OpenMetrics => Format::Prometheus,
        }
    }

    /// The value of the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Html => "text/html; charset=utf-8",
            Media::Text => "text/plain; charset=utf-8",
            Media::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Media::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Type, subtype, and the values of `version` that it can be asked for with.
    pub(crate) fn essence(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Media::Json => ("application", "json", &[]),
            Media::Html => ("text", "html", &[]),
            Media::Text => ("text", "plain", &[]),
            Media::Classic => ("text", "plain", &["0.0.4"]),
            Media::OpenMetrics => ("application", "openmetrics-text", &["1.0.0"]),
        }
    }
}

/// Text as printable ASCII. The names of files and the reasons of errors come from outside.
pub(crate) fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            _ => out.extend(c.escape_default()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for format in Format::ALL {
            assert_eq!(Format::parse(format.name().as_bytes()), Some(format));
            assert!(format.media().iter().all(|media| media.format() == format));
        }
        for name in ["", "Json", "json ", "xml"] {
            assert_eq!(Format::parse(name.as_bytes()), None);
        }
        assert_eq!(Format::names(), r#""json", "html", "text" and "prometheus""#);
    }

    #[test]
    fn hostile_text() {
        assert_eq!(ascii("libc.so.6 \"x\""), "libc.so.6 \"x\"");
        assert_eq!(
            ascii("a\\n\n\u{1b}[2J\u{7f}ä\u{202e}"),
            "a\\\\n\\n\\u{1b}[2J\\u{7f}\\u{e4}\\u{202e}"
        );
    }
}

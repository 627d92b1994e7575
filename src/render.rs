//! Renderers: from the model of the server to the body of the reply.
#![forbid(unsafe_code)]

pub mod json;
mod layout;
pub mod text;
mod units;
mod who;

pub(crate) use units::ascii;

use crate::report::model::Server;

/// A format of the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The whole model.
    Json,
    /// Tables for a person at a terminal.
    Text,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 2] = [Format::Json, Format::Text];

    /// The name, as in `format=`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Text => "text",
        }
    }

    /// The format of a name.
    pub fn parse(name: &[u8]) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name().as_bytes() == name)
    }

    /// The value of the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Text => "text/plain; charset=utf-8",
        }
    }

    /// All names in quotes, for a sentence.
    pub fn names() -> String {
        let names: Vec<_> = Format::ALL.iter().map(|f| format!("\"{}\"", f.name())).collect();
        match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            _ => names.concat(),
        }
    }
}

/// The body of the reply.
pub fn render(format: Format, server: &Server) -> Result<Vec<u8>, serde_json::Error> {
    match format {
        Format::Json => json::json(server),
        Format::Text => Ok(text::text(server).into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn names() {
        for format in Format::ALL {
            assert_eq!(Format::parse(format.name().as_bytes()), Some(format));
        }
        for name in ["", "Json", "json ", "xml"] {
            assert_eq!(Format::parse(name.as_bytes()), None);
        }
        assert_eq!(Format::names(), r#""json" and "text""#);
    }

    #[test]
    fn bodies() {
        let server = sample::small();
        assert!(render(Format::Json, &server).unwrap().starts_with(b"{\"schema\":1,"));
        assert!(render(Format::Text, &server).unwrap().starts_with(b"nginx 1.22.1"));
        assert_eq!(Format::Json.content_type(), "application/json");
        assert_eq!(Format::Text.content_type(), "text/plain; charset=utf-8");
    }
}

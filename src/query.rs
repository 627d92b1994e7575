//! The query string of `GET /memstat`.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode;
use thiserror::Error;

use crate::render::Format;

/// What a request asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query {
    /// `format=`: the format of the reply; without it, another part of the request may tell.
    pub format: Option<Format>,
    /// `refresh=heap`: fresh statistics of each allocator, even where they are expensive.
    pub refresh_heap: bool,
}

/// Why a query string was refused, in one sentence that names what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueryError {
    /// A parameter that does not exist.
    #[error("unknown parameter \"{0}\": accepted are \"format\" and \"refresh\"")]
    Parameter(Quoted),
    /// A format that does not exist.
    #[error("unknown format \"{0}\": accepted are {formats}", formats = Format::names())]
    Format(Quoted),
    /// Something to refresh that does not exist.
    #[error("unknown refresh \"{0}\": accepted is \"heap\"")]
    Refresh(Quoted),
    /// The same parameter twice.
    #[error("repeated parameter \"{0}\": accepted are one \"format\" and one \"refresh\"")]
    Repeated(&'static str),
    /// A parameter without `=`.
    #[error(
        "no value in \"{0}\": accepted are parameters with a value, \"format\" and \"refresh\""
    )]
    NoValue(Quoted),
}

impl Query {
    /// Parses the arguments of a request, as the client sent them.
    pub fn parse(args: &[u8]) -> Result<Query, QueryError> {
        let mut format = None;
        let mut refresh = None;
        for pair in args.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut sides = pair.splitn(2, |byte| *byte == b'=');
            let name = decode(sides.next().unwrap_or_default());
            let Some(value) = sides.next().map(decode) else {
                return Err(QueryError::NoValue(Quoted::new(&name)));
            };
            match &*name {
                b"format" => {
                    let known = Format::parse(&value)
                        .ok_or_else(|| QueryError::Format(Quoted::new(&value)))?;
                    once(&mut format, known, "format")?;
                }
                b"refresh" => {
                    if &*value != b"heap" {
                        return Err(QueryError::Refresh(Quoted::new(&value)));
                    }
                    once(&mut refresh, (), "refresh")?;
                }
                _ => return Err(QueryError::Parameter(Quoted::new(&name))),
            }
        }
        Ok(Query { format, refresh_heap: refresh.is_some() })
    }
}

fn decode(encoded: &[u8]) -> Cow<'_, [u8]> {
    percent_decode(encoded).into()
}

fn once<T>(place: &mut Option<T>, value: T, name: &'static str) -> Result<(), QueryError> {
    match place.replace(value) {
        Some(_) => Err(QueryError::Repeated(name)),
        None => Ok(()),
    }
}

/// A part of the query string that is fit to be quoted: printable ASCII, at most 32 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    /// The most characters that are quoted, `...` for the rest among them.
    const LIMIT: usize = 32;
    const REST: &'static str = "...";

    fn new(bytes: &[u8]) -> Self {
        let mut text = String::new();
        // Where the text ends if the rest does not fit.
        let mut end = 0;
        for byte in bytes {
            text.extend(byte.escape_ascii().map(char::from));
            if text.len() > Self::LIMIT {
                text.truncate(end);
                text.push_str(Self::REST);
                break;
            }
            if text.len().saturating_add(Self::REST.len()) <= Self::LIMIT {
                end = text.len();
            }
        }
        Quoted(text)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::Random;

    #[test]
    fn accepted() {
        let query = |format, refresh_heap| Query { format, refresh_heap };
        let table: [(&str, Query); 12] = [
            ("", query(None, false)),
            ("&", query(None, false)),
            ("&&&", query(None, false)),
            ("format=json", query(Some(Format::Json), false)),
            ("format=text", query(Some(Format::Text), false)),
            ("format=text&", query(Some(Format::Text), false)),
            ("&&format=text&&", query(Some(Format::Text), false)),
            ("refresh=heap", query(None, true)),
            ("refresh=heap&format=json", query(Some(Format::Json), true)),
            ("format=json&&refresh=heap&", query(Some(Format::Json), true)),
            ("%66ormat=j%73on", query(Some(Format::Json), false)),
            ("refresh=%68%65%61%70", query(None, true)),
        ];
        for (args, expected) in table {
            assert_eq!(Query::parse(args.as_bytes()), Ok(expected), "{args}");
        }
    }

    #[test]
    fn refused() {
        let formats = r#"accepted are "json" and "text""#;
        let names = r#"accepted are "format" and "refresh""#;
        let one = r#"accepted are one "format" and one "refresh""#;
        let values = r#"accepted are parameters with a value, "format" and "refresh""#;
        let table: [(&[u8], String); 21] = [
            (b"format=xml", format!(r#"unknown format "xml": {formats}"#)),
            (b"format=", format!(r#"unknown format "": {formats}"#)),
            (b"format=JSON", format!(r#"unknown format "JSON": {formats}"#)),
            (b"format=json%", format!(r#"unknown format "json%": {formats}"#)),
            (b"format=json%00", format!(r#"unknown format "json\x00": {formats}"#)),
            (b"format=json=text", format!(r#"unknown format "json=text": {formats}"#)),
            (b"format=json+", format!(r#"unknown format "json+": {formats}"#)),
            (b"format=%22%0a\xff", format!(r#"unknown format "\"\n\xff": {formats}"#)),
            (b"format=json&format=xml", format!(r#"unknown format "xml": {formats}"#)),
            (b"format=json&format=json", format!(r#"repeated parameter "format": {one}"#)),
            (b"refresh=heap&&refresh=heap", format!(r#"repeated parameter "refresh": {one}"#)),
            (b"refresh=all", r#"unknown refresh "all": accepted is "heap""#.to_owned()),
            (b"refresh=", r#"unknown refresh "": accepted is "heap""#.to_owned()),
            (b"pretty=1", format!(r#"unknown parameter "pretty": {names}"#)),
            (b"=json", format!(r#"unknown parameter "": {names}"#)),
            (b"=", format!(r#"unknown parameter "": {names}"#)),
            (b"Format=json", format!(r#"unknown parameter "Format": {names}"#)),
            (b"format", format!(r#"no value in "format": {values}"#)),
            (b"?", format!(r#"no value in "?": {values}"#)),
            (b"format%3Djson", format!(r#"no value in "format=json": {values}"#)),
            (
                b"format=json;refresh=heap",
                format!(r#"unknown format "json;refresh=heap": {formats}"#),
            ),
        ];
        for (args, expected) in table {
            let error = Query::parse(args).unwrap_err();
            assert_eq!(error.to_string(), expected, "{}", args.escape_ascii());
        }
    }

    #[test]
    fn quotes_are_short() {
        let table: [(&[u8], &str); 5] = [
            (&[b'a'; 32], "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            (&[b'a'; 33], "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."),
            (&[0; 8], r"\x00\x00\x00\x00\x00\x00\x00\x00"),
            (&[0; 9], r"\x00\x00\x00\x00\x00\x00\x00..."),
            (&[b'"'; 100], r#"\"\"\"\"\"\"\"\"\"\"\"\"\"\"..."#),
        ];
        for (bytes, expected) in table {
            assert_eq!(Quoted::new(bytes).to_string(), expected);
        }
    }

    /// Random arguments are accepted, or refused with one short printable line.
    #[test]
    fn any_bytes() {
        let mut random = Random::new(5);
        let words: [&[u8]; 12] = [
            b"format", b"refresh", b"json", b"text", b"heap", b"=", b"=", b"&", b"%", b"%66",
            b"\xff", b"\0",
        ];
        let mut accepted = 0;
        for round in 0..100_000 {
            let mut args = Vec::new();
            for _ in 0..random.below(if round % 100 == 0 { 2000 } else { 8 }) {
                match random.below(4) {
                    0 => args.push(random.bits() as u8),
                    _ => args.extend(words[random.below(12) as usize]),
                }
            }
            match Query::parse(&args) {
                Ok(_) => accepted += 1,
                Err(error) => {
                    let line = error.to_string();
                    assert!(line.len() <= 110, "{line}");
                    assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
                    assert!(line.contains("accepted"), "{line}");
                }
            }
        }
        assert!(accepted > 100, "{accepted}");
    }
}

//! Parses the query string of `GET /memstat`.
#![forbid(unsafe_code)]

use crate::report::fields;
use crate::report::fields::list;
use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode;
use thiserror::Error;

use crate::format::{ascii, Format};
use crate::report::fields::Fields;
use crate::report::model::named;

/// The parameters of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// `format=`: the format of the reply. Without it, the `Accept` header or the location decides.
    pub format: Option<Format>,
    /// `refresh=heap`: read the statistics of each allocator again, even if that is expensive.
    pub refresh_heap: bool,
    /// `refresh=zones`: count all touched pages of zones again.
    pub refresh_zones: bool,
    /// `zone=`: report only this zone, by its name in the reply.
    pub zone: Option<String>,
    /// `pid=`: report only this process.
    pub pid: Option<i32>,
    /// `fields=`: only these properties of the reply.
    pub fields: Option<Fields>,
}

/// Why a query string is refused, in one sentence that names what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueryError {
    /// The parameter is unknown.
    #[error("unknown parameter \"{0}\": accepted are {PARAMETERS}")]
    Parameter(Quoted),
    /// The format is unknown.
    #[error("unknown format \"{0}\": accepted are {formats}", formats = Format::names())]
    Format(Quoted),
    /// The value of `refresh` is unknown.
    #[error("unknown refresh \"{0}\": accepted are \"heap\" and \"zones\"")]
    Refresh(Quoted),
    /// The value of `pid` is no process id.
    #[error("invalid pid \"{0}\": accepted is a process id")]
    Pid(Quoted),
    /// The field is unknown.
    #[error("unknown field \"{0}\": accepted are {names}, separated by commas", names = .1.names())]
    Field(Quoted, fields::Level),
    /// A parameter appears twice.
    #[error("repeated parameter \"{0}\": accepted are {PARAMETERS}, once each, and \"refresh\" once for each value")]
    Repeated(&'static str),
    /// A parameter has no `=`.
    #[error("parameter \"{0}\" has no value: accepted are {PARAMETERS}, each with a value")]
    NoValue(Quoted),
    /// A format that cannot be combined with a parameter; the text says which.
    #[error("{0}: accepted are \"json\" and \"text\"")]
    Narrowed(&'static str),
}

/// The known parameters.
const PARAMETERS: &str = "\"fields\", \"format\", \"pid\", \"refresh\" and \"zone\"";

impl Query {
    /// Parses the query string as the client sent it.
    pub fn parse(args: &[u8]) -> Result<Query, QueryError> {
        let (mut format, mut zone) = (None, None);
        let (mut pid, mut fields) = (None, None);
        let (mut heap, mut zones) = (None, None);
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
                b"refresh" => match &*value {
                    b"heap" => once(&mut heap, (), "refresh")?,
                    b"zones" => once(&mut zones, (), "refresh")?,
                    _ => return Err(QueryError::Refresh(Quoted::new(&value))),
                },
                b"zone" => once(&mut zone, named::name(&value), "zone")?,
                b"pid" => {
                    let known =
                        parse_pid(&value).ok_or_else(|| QueryError::Pid(Quoted::new(&value)))?;
                    once(&mut pid, known, "pid")?;
                }
                b"fields" => {
                    let known = Fields::parse(&value).map_err(|fields::Unknown(name, level)| {
                        QueryError::Field(Quoted::new(&name), level)
                    })?;
                    once(&mut fields, known, "fields")?;
                }
                _ => return Err(QueryError::Parameter(Quoted::new(&name))),
            }
        }
        let (refresh_heap, refresh_zones) = (heap.is_some(), zones.is_some());
        Ok(Query { format, refresh_heap, refresh_zones, zone, pid, fields })
    }

    /// Returns an error if a reply of this format cannot be narrowed by the parameters.
    pub fn fits(&self, format: Format) -> Result<(), QueryError> {
        match format {
            Format::Json | Format::Text => Ok(()),
            Format::Html if self.fields.is_none() => Ok(()),
            Format::Html => Err(QueryError::Narrowed(r#""html" cannot be combined with "fields""#)),
            Format::Prometheus if self.fields.is_none() && self.pid.is_none() => Ok(()),
            Format::Prometheus => Err(QueryError::Narrowed(
                r#""prometheus" cannot be combined with "pid" or "fields""#,
            )),
        }
    }
}

/// Parses a process id: a positive number in decimal digits, without a sign or a leading 0.
fn parse_pid(value: &[u8]) -> Option<i32> {
    let digits = std::str::from_utf8(value).ok()?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

/// Returns the sentence about a process that does not exist, with the ids of those that exist.
pub fn unknown_pid(pid: i32, pids: &[i32]) -> String {
    let pids: Vec<_> = pids.iter().map(i32::to_string).collect();
    format!("unknown pid \"{pid}\": known are {}\n", list(&pids))
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

/// Returns the sentence about a zone that does not exist, with the names of those that exist.
pub fn unknown_zone(zone: &str, names: &[String]) -> String {
    let mut names: Vec<_> = names.iter().map(|name| format!("\"{}\"", ascii(name))).collect();
    names.sort();
    format!("unknown zone \"{}\": known are {}\n", Quoted::new(zone.as_bytes()), list(&names))
}

/// A quoted part of the query string: printable ASCII, at most 32 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    /// The maximum number of characters, including the `...` that stands for the rest.
    const LIMIT: usize = 32;
    const REST: &'static str = "...";

    fn new(bytes: &[u8]) -> Self {
        let mut text = String::new();
        // Where the text is cut if the rest does not fit.
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
        let query = |format, refresh_heap| Query { format, refresh_heap, ..Query::default() };
        let zone = |zone: &str| Query { zone: Some(zone.to_owned()), ..Query::default() };
        let refresh_zones = Query { refresh_zones: true, ..Query::default() };
        let table: [(&str, Query); 20] = [
            ("pid=1", Query { pid: Some(1), ..Query::default() }),
            ("pid=2147483647", Query { pid: Some(i32::MAX), ..Query::default() }),
            ("zone=one", zone("one")),
            ("zone=", zone("")),
            ("zone=a%26b%3d%c3%a4+", zone("a&b=ä+")),
            ("zone=%ffx", zone(r"\xffx")),
            ("refresh=zones", refresh_zones.clone()),
            (
                "refresh=zones&zone=one&refresh=heap",
                Query { refresh_heap: true, zone: Some("one".to_owned()), ..refresh_zones },
            ),
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
        let formats = r#"accepted are "json", "html", "text" and "prometheus""#;
        let names = r#"accepted are "fields", "format", "pid", "refresh" and "zone""#;
        let one = r#"accepted are "fields", "format", "pid", "refresh" and "zone", once each, and "refresh" once for each value"#;
        let values =
            r#"accepted are "fields", "format", "pid", "refresh" and "zone", each with a value"#;
        let pids = "accepted is a process id";
        let refreshes = r#"accepted are "heap" and "zones""#;
        let table: [(&[u8], String); 32] = [
            (b"pid=", format!(r#"invalid pid "": {pids}"#)),
            (b"pid=0", format!(r#"invalid pid "0": {pids}"#)),
            (b"pid=+1", format!(r#"invalid pid "+1": {pids}"#)),
            (b"pid=-1", format!(r#"invalid pid "-1": {pids}"#)),
            (b"pid=1,2", format!(r#"invalid pid "1,2": {pids}"#)),
            (b"pid=2147483648", format!(r#"invalid pid "2147483648": {pids}"#)),
            (b"pid=1&pid=1", format!(r#"repeated parameter "pid": {one}"#)),
            (b"fields=nginx&fields=time", format!(r#"repeated parameter "fields": {one}"#)),
            (b"zone=a&zone=a", format!(r#"repeated parameter "zone": {one}"#)),
            (b"zone", format!(r#"parameter "zone" has no value: {values}"#)),
            (b"refresh=zones&refresh=zones", format!(r#"repeated parameter "refresh": {one}"#)),
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
            (b"refresh=all", format!(r#"unknown refresh "all": {refreshes}"#)),
            (b"refresh=", format!(r#"unknown refresh "": {refreshes}"#)),
            (b"pretty=1", format!(r#"unknown parameter "pretty": {names}"#)),
            (b"=json", format!(r#"unknown parameter "": {names}"#)),
            (b"=", format!(r#"unknown parameter "": {names}"#)),
            (b"Format=json", format!(r#"unknown parameter "Format": {names}"#)),
            (b"format", format!(r#"parameter "format" has no value: {values}"#)),
            (b"?", format!(r#"parameter "?" has no value: {values}"#)),
            (b"format%3Djson", format!(r#"parameter "format=json" has no value: {values}"#)),
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
    fn narrowed_where_it_can_be() {
        let fits = |args: &[u8], formats: &[Format]| {
            let query = Query::parse(args).unwrap();
            for format in Format::ALL {
                assert_eq!(query.fits(format).is_ok(), formats.contains(&format), "{format:?}");
            }
        };
        fits(b"", &Format::ALL);
        fits(b"zone=one&refresh=heap", &Format::ALL);
        fits(b"pid=1", &[Format::Json, Format::Html, Format::Text]);
        fits(b"fields=nginx", &[Format::Json, Format::Text]);
        fits(b"fields=nginx&pid=1", &[Format::Json, Format::Text]);
        let error = Query::parse(b"pid=1").unwrap().fits(Format::Prometheus).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#""prometheus" cannot be combined with "pid" or "fields": accepted are "json" and "text""#
        );
    }

    #[test]
    fn pids_that_exist() {
        assert_eq!(unknown_pid(7, &[1]), "unknown pid \"7\": known are 1\n");
        assert_eq!(unknown_pid(7, &[1, 2, 3]), "unknown pid \"7\": known are 1, 2 and 3\n");
    }

    #[test]
    fn zones_that_exist() {
        let names = ["two".to_owned(), "one".to_owned(), "\u{1b}\"".to_owned()];
        let table = [
            (&names[..0], "unknown zone \"x\\n\": known are \n"),
            (&names[..1], "unknown zone \"x\\n\": known are \"two\"\n"),
            (&names[..2], "unknown zone \"x\\n\": known are \"one\" and \"two\"\n"),
            (&names[..], "unknown zone \"x\\n\": known are \"\\u{1b}\"\", \"one\" and \"two\"\n"),
        ];
        for (names, expected) in table {
            assert_eq!(unknown_zone("x\n", names), expected);
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

    /// Random query strings are accepted, or refused with one short printable line.
    #[test]
    fn any_bytes() {
        let mut random = Random::new(5);
        let words: [&[u8]; 19] = [
            b"format", b"refresh", b"zone", b"zones", b"json", b"text", b"heap", b"=", b"=", b"&",
            b"%", b"%66", b"\xff", b"\0", b"pid", b"7", b"fields", b"totals", b",",
        ];
        let mut accepted = 0;
        for round in 0..100_000 {
            let mut args = Vec::new();
            for _ in 0..random.below(if round % 100 == 0 { 2000 } else { 8 }) {
                match random.below(4) {
                    0 => args.push(random.bits() as u8),
                    _ => args.extend(words[random.below(19) as usize]),
                }
            }
            match Query::parse(&args) {
                Ok(_) => accepted += 1,
                Err(error) => {
                    let line = error.to_string();
                    assert!(line.len() <= 500, "{line}");
                    assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
                    assert!(line.contains("accepted"), "{line}");
                }
            }
        }
        assert!(accepted > 100, "{accepted}");
    }
}

//! Finds the name and version of the nginx that is running, as `nginx -v` prints it, for example
//! `openresty/1.27.1.2`.
//!
//! The headers that the module was built with may come from another distribution of the same nginx,
//! so the executable itself is searched for the literal `nginx version: NAME/VERSION`. Some forks
//! also print `NAME version: NAME/VERSION`.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::sys::elf::{objects, LoadedObject};
use crate::sys::memory::{Memory, OwnMemory};

/// Bytes to read at a time. Consecutive chunks overlap by [`LONGEST`].
const CHUNK: usize = 64 << 10;

/// The maximum number of bytes of read-only data to search.
const LIMIT: usize = 64 << 20;

/// The longest literal in bytes, from the name in front to the end of the version.
const LONGEST: usize = 128;

/// The text between the name in front and the product.
const VERSION: &[u8] = b" version: ";

/// Returns the product of the executable, or the reason why it is unknown.
pub fn of_executable() -> Result<String, String> {
    let objects = objects();
    let executable = objects.first().ok_or("the executable is not listed")?;
    let found = search(&OwnMemory, read_only(executable));
    choose(&found).ok_or_else(|| match found.len() {
        0 => "the executable has no line with its version".to_owned(),
        _ => format!("the executable has several: {}", found.join(", ")),
    })
}

/// Returns the segments that can contain literals: those that are not writable, code last.
fn read_only(object: &LoadedObject) -> Vec<Range<usize>> {
    let is_code = |segment: &&crate::sys::elf::Segment| segment.flags & libc::PF_X != 0;
    let fixed = || object.segments.iter().filter(|segment| segment.flags & libc::PF_W == 0);
    let data = fixed().filter(|segment| !is_code(segment));
    data.chain(fixed().filter(is_code)).map(|segment| segment.range.clone()).collect()
}

/// Returns the products named in these ranges, each once.
fn search(memory: &impl Memory, ranges: impl IntoIterator<Item = Range<usize>>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut left = LIMIT;
    let mut buffer = vec![0; CHUNK];
    for range in ranges {
        let mut at = range.start;
        while at < range.end && left > 0 {
            let size = CHUNK.min(range.end.saturating_sub(at));
            let Some(chunk) = buffer.get_mut(..size) else { break };
            if memory.read(at, chunk).is_ok() {
                for product in products(chunk) {
                    if !found.contains(&product) {
                        found.push(product);
                    }
                }
            }
            left = left.saturating_sub(size);
            at = at.saturating_add(size);
            if at < range.end {
                at = at.saturating_sub(LONGEST);
            }
        }
    }
    found
}

/// Chooses the product: a fork may also name the nginx that it is derived from.
fn choose(found: &[String]) -> Option<String> {
    let is_nginx = |product: &&String| product.starts_with("nginx/");
    match found.iter().filter(|product| !is_nginx(product)).collect::<Vec<_>>().as_slice() {
        [product] => Some((*product).clone()),
        [] if found.len() == 1 => found.first().cloned(),
        _ => None,
    }
}

/// Finds the products named in some bytes.
fn products(bytes: &[u8]) -> impl Iterator<Item = String> + '_ {
    let here = |at: &usize| bytes.get(*at..).is_some_and(|rest| rest.starts_with(VERSION));
    let places = (0..bytes.len()).filter(move |at| bytes.get(*at) == Some(&b' ') && here(at));
    places.filter_map(|at| product(bytes.get(..at)?, bytes.get(at.checked_add(VERSION.len())?..)?))
}

/// Returns the product named by a literal with [`VERSION`] between `before` and `after`.
fn product(before: &[u8], after: &[u8]) -> Option<String> {
    let starts = before.iter().rposition(|b| !b.is_ascii_alphanumeric());
    let (front, word) = before.split_at(starts.map_or(0, |at| at.saturating_add(1)));
    if !matches!(front.last(), None | Some(0 | b'\n')) || word.is_empty() {
        return None;
    }
    let is_ours = |b: &u8| b.is_ascii_alphanumeric() || b"._-+~".contains(b);
    let slash = after.iter().take(LONGEST).position(|b| !is_ours(b))?;
    let (name, rest) = after.split_at_checked(slash)?;
    let version = rest.strip_prefix(b"/")?;
    let end = version.iter().take(LONGEST).position(|b| !is_ours(b))?;
    let (version, rest) = version.split_at_checked(end)?;
    // A build name in parentheses may follow.
    let ends = matches!(rest.first(), Some(0 | b'\n' | b'\r' | b' '));
    let named = word == b"nginx" || word.eq_ignore_ascii_case(name);
    let numbered = version.first().is_some_and(u8::is_ascii_digit);
    if !(ends && named && numbered && name.first().is_some_and(u8::is_ascii_alphabetic)) {
        return None;
    }
    Some(format!("{}/{}", std::str::from_utf8(name).ok()?, std::str::from_utf8(version).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<String> {
        products(bytes).collect()
    }

    #[test]
    fn literals_of_nginx_and_its_forks() {
        for (literal, expected) in [
            (&b"\0nginx version: nginx/1.22.1\n\0"[..], "nginx/1.22.1"),
            (b"nginx version: nginx/1.24.0 (Ubuntu)\n\0", "nginx/1.24.0"),
            (b"\0nginx version: openresty/1.27.1.2\n\0", "openresty/1.27.1.2"),
            (b"\0freenginx version: freenginx/1.27.4\n\0", "freenginx/1.27.4"),
            (b"\0Angie version: Angie/1.8.1\nBuilt on\0", "Angie/1.8.1"),
            (b"x\nTengine version: Tengine/3.1.0\0", "Tengine/3.1.0"),
        ] {
            assert_eq!(all(literal), [expected]);
        }
    }

    #[test]
    fn other_text() {
        for literal in [
            &b"\0OpenSSL version: 3.0/1\0"[..],
            b"\0built for nginx version: nginx/1.22.1\0",
            b"\0nginx version: 1.22.1\0",
            b"\0nginx version: nginx/x\0",
            b"\0nginx version: /1.2\0",
            b"\0nginx version: nginx/1.22.1",
            b"\0nginx version: nginx/1.22.1%s\0",
            b"\0nginx version: ",
            b" version: nginx/1.22.1\0",
            b"",
        ] {
            assert!(all(literal).is_empty(), "{}", literal.escape_ascii());
        }
    }

    #[test]
    fn a_fork_is_chosen_before_nginx_and_doubt_is_none() {
        let choose = |found: &[&str]| {
            choose(&found.iter().map(|product| (*product).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(choose(&["nginx/1.22.1"]).as_deref(), Some("nginx/1.22.1"));
        let tengine = Some("Tengine/3.1.0");
        assert_eq!(choose(&["nginx/1.24.0", "Tengine/3.1.0"]).as_deref(), tengine);
        assert_eq!(choose(&["Tengine/3.1.0", "nginx/1.24.0"]).as_deref(), tengine);
        assert_eq!(choose(&["a/1", "b/1"]), None);
        assert_eq!(choose(&["nginx/1", "nginx/2"]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn across_the_border_of_two_chunks() {
        let literal = b"\0nginx version: openresty/1.27.1.2\n\0";
        for before in [0, CHUNK - literal.len(), CHUNK - 20, CHUNK - 1, CHUNK, 2 * CHUNK - 50] {
            let mut bytes = vec![b'x'; before];
            bytes.extend_from_slice(literal);
            bytes.extend_from_slice(&[b'y'; 300]);
            let start = bytes.as_ptr() as usize;
            let found = search(&OwnMemory, std::iter::once(start..start + bytes.len()));
            assert_eq!(found, ["openresty/1.27.1.2"], "{before}");
        }
    }

    #[test]
    fn this_program_is_no_nginx() {
        // This program contains the literals of these tests.
        assert!(of_executable().is_err());
    }
}

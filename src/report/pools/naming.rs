//! From what is known of a creator's code to a name and a kind.
#![forbid(unsafe_code)]

use super::Kind;

/// What is known of the code that creates pools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known<'a> {
    /// The exported function that it is in, or else the nearest one that called it.
    pub function: Option<&'a str>,
    /// It is in that function itself.
    pub exact: bool,
    /// The exported functions of its object on both sides of it.
    pub below: Option<&'a str>,
    /// See `below`.
    pub above: Option<&'a str>,
    /// The base name of its object's file.
    pub object: &'a str,
    /// It creates the pools of cycles.
    pub of_cycles: bool,
    /// The size of the first pool it created, in bytes.
    pub first_size: usize,
}

/// Names that begin so are of more source files than one.
const GENERAL: [&str; 8] = [
    "ngx",
    "ngx_http",
    "ngx_stream",
    "ngx_mail",
    "ngx_event",
    "ngx_core",
    "ngx_http_core",
    "ngx_http_script",
];

/// The name of a creator: a function, or `prefix_*`. `None` when neither is sure.
///
/// The function that called a function without a name is named only if it stands beside it: then
/// they are of the same source file, and the one without a name is a part of the other. nginx's
/// functions stand in the order of its source files, so what both neighbours' names begin with is
/// what a file's names begin with.
pub fn name(known: &Known) -> Option<String> {
    let function = known
        .function
        .filter(|function| known.exact || [known.below, known.above].contains(&Some(function)));
    if let Some(function) = function {
        return Some(function.to_owned());
    }
    let prefix = common(known.below?, known.above?)?;
    Some(format!("{prefix}_*"))
}

/// What two names have in common, in whole words, if that is more than general.
fn common<'a>(one: &'a str, other: &str) -> Option<&'a str> {
    let words = one.split('_').zip(other.split('_'));
    let length: usize = words.take_while(|(a, b)| a == b).map(|(word, _)| word.len() + 1).sum();
    let prefix = one.get(..length.checked_sub(1)?)?;
    (!prefix.is_empty() && !GENERAL.contains(&prefix)).then_some(prefix)
}

/// The size of the pool for a stream's header fields in nginx's HTTP/2.
const HTTP2_STREAM: usize = 1024;

/// What a creator's pools are for.
pub fn kind(known: &Known) -> Kind {
    if known.of_cycles {
        return Kind::Cycle;
    }
    let name = name(known);
    // Who called tells as much, whether or not it gives the name.
    let name = name.as_deref().or(known.function).unwrap_or_default();
    let is = |prefix: &str| name.starts_with(prefix);
    if is("ngx_http_lua_") || is("ngx_stream_lua_") || known.object.contains("_lua_module") {
        Kind::Lua
    } else if is("ngx_http_create_request") || is("ngx_http_alloc_request") {
        Kind::Request
    } else if is("ngx_http_v2_") {
        match known.first_size {
            HTTP2_STREAM => Kind::Http2Stream,
            _ => Kind::Connection,
        }
    } else if is("ngx_event_accept") || is("ngx_event_recvmsg") || is("ngx_quic_") {
        Kind::Connection
    } else if is("ngx_http_upstream_") || is("ngx_stream_proxy_") {
        Kind::Upstream
    } else if is("ngx_init_cycle") || is("ngx_conf_") {
        Kind::Conf
    } else {
        Kind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NGINX: Known = Known {
        function: None,
        exact: false,
        below: None,
        above: None,
        object: "nginx",
        of_cycles: false,
        first_size: 4096,
    };

    #[test]
    fn names() {
        let none = None;
        for (function, exact, below, above, expected) in [
            (Some("ngx_event_accept"), true, none, none, Some("ngx_event_accept")),
            // A static function beside the exported one that calls it.
            (Some("a_b"), false, Some("a_b"), Some("c"), Some("a_b")),
            (Some("a_b"), false, Some("c"), Some("a_b"), Some("a_b")),
            // One that is called from afar: what its neighbours have in common.
            (
                Some("far"),
                false,
                Some("ngx_http_v2_init"),
                Some("ngx_http_v2_close"),
                Some("ngx_http_v2_*"),
            ),
            (
                none,
                false,
                Some("ngx_http_v2_init"),
                Some("ngx_http_v2_close"),
                Some("ngx_http_v2_*"),
            ),
            (none, false, Some("ngx_http_v2"), Some("ngx_http_v2_close"), Some("ngx_http_v2_*")),
            // Not sure.
            (Some("far"), false, Some("ngx_http_v2_init"), Some("ngx_http_v3_init"), none),
            (none, false, Some("ngx_http_v2_init"), Some("ngx_http_core_init"), none),
            (none, false, Some("ngx_http_v2_init"), none, none),
            (none, false, none, Some("ngx_http_v2_init"), none),
            (none, false, Some("alpha"), Some("beta"), none),
            (none, false, Some(""), Some(""), none),
            (none, false, none, none, none),
        ] {
            let known = Known { function, exact, below, above, ..NGINX };
            assert_eq!(name(&known).as_deref(), expected, "{known:?}");
        }
    }

    #[test]
    fn kinds() {
        let exact = |function| Known { function: Some(function), exact: true, ..NGINX };
        let around = |below, above| Known { below: Some(below), above: Some(above), ..NGINX };
        let http2 = around("ngx_http_v2_init", "ngx_http_v2_close");
        for (known, expected) in [
            (Known { of_cycles: true, ..exact("ngx_init_cycle") }, Kind::Cycle),
            (exact("ngx_init_cycle"), Kind::Conf),
            (Known { function: Some("ngx_conf_parse"), ..NGINX }, Kind::Conf),
            (exact("ngx_event_accept"), Kind::Connection),
            (exact("ngx_event_recvmsg"), Kind::Connection),
            (exact("ngx_http_create_request"), Kind::Request),
            (exact("ngx_http_v2_init"), Kind::Connection),
            (http2, Kind::Connection),
            (Known { first_size: 1024, ..http2 }, Kind::Http2Stream),
            (exact("ngx_http_upstream_init"), Kind::Upstream),
            (around("ngx_http_upstream_init", "ngx_http_upstream_free"), Kind::Upstream),
            (exact("ngx_http_lua_socket_tcp"), Kind::Lua),
            (Known { object: "ngx_stream_lua_module.so", ..NGINX }, Kind::Lua),
            (exact("ngx_ssl_ocsp_start"), Kind::Other),
            (NGINX, Kind::Other),
        ] {
            assert_eq!(kind(&known), expected, "{known:?}");
        }
    }
}

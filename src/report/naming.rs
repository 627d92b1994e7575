//! Derives the name and the kind of a creator from what is known of its code.
#![forbid(unsafe_code)]

use super::model::pools::PoolKind;

/// What is known of the code that creates pools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownCode<'a> {
    /// Its name, if the code itself reveals it.
    pub code: Option<&'a str>,
    /// Its offset in bytes from the exported function below it.
    pub offset: usize,
    /// The exported function that contains it, or else the nearest one that called it.
    pub function: Option<&'a str>,
    /// The number of calls from `function` to the code: 0 if `function` contains it.
    pub calls: u8,
    /// The number of exported functions that start between it and `function`.
    pub between: usize,
    /// The exported function of its object at the next lower address.
    pub below: Option<&'a str>,
    /// The exported function of its object at the next higher address.
    pub above: Option<&'a str>,
    /// The base name of its object's file.
    pub object: &'a str,
    /// Whether it creates the pools of cycles.
    pub of_cycles: bool,
    /// The size of the first pool it created, in bytes.
    pub first_size: usize,
}

/// Prefixes that names of more than one source file have.
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

/// The largest number of exported functions between two functions of one source file.
const NEAR: usize = 8;

/// The name of a creator: a function, `prefix_*`, or its offset from the exported function before
/// it (`name+0x1f`). `None` if no function is known.
///
/// The name that the code reveals comes first, because it is the same in each process. Without one,
/// a function without a name takes the name of its direct caller if that is near, in the same
/// source file: it is then a part of the caller. nginx's functions are in the order of its source
/// files, so the common prefix of the names on both sides is the prefix of the file's names.
pub fn name(known: &KnownCode) -> Option<String> {
    if let Some(name) = known.code {
        return Some(name.to_owned());
    }
    let is_sure = known.calls == 0 || known.calls == 1 && known.between <= NEAR;
    let function = known.function.filter(|_| is_sure);
    if let Some(function) = function {
        return Some(function.to_owned());
    }
    match known.above.and_then(|above| prefix(known.below?, above)) {
        Some(prefix) => Some(format!("{prefix}_*")),
        None => known.below.map(|below| format!("{below}+{:#x}", known.offset)),
    }
}

/// The maximum number of words of a prefix. Neighbours from two source files may have more words in
/// common (`ngx_http_lua` is the prefix of the module, `ngx_http_lua_inject` is not).
const WORDS: usize = 3;

/// The common prefix of two names in whole words, unless it is one of the general prefixes.
pub fn prefix<'a>(one: &'a str, other: &str) -> Option<&'a str> {
    let words = one.split('_').zip(other.split('_')).take(WORDS);
    let length: usize = words.take_while(|(a, b)| a == b).map(|(word, _)| word.len() + 1).sum();
    let prefix = one.get(..length.checked_sub(1)?)?;
    (!prefix.is_empty() && !GENERAL.contains(&prefix)).then_some(prefix)
}

/// The size of the pool for a stream's header fields in nginx's HTTP/2.
const HTTP2_STREAM: usize = 1024;

/// The purpose of a creator's pools.
pub fn kind(known: &KnownCode) -> PoolKind {
    if known.of_cycles {
        return PoolKind::Cycle;
    }
    let name = name(known);
    match kind_of(name.as_deref().unwrap_or_default(), known) {
        // The caller shows the purpose as well, even if it does not provide the name.
        PoolKind::Other => match kind_of(known.function.unwrap_or_default(), known) {
            kind if kind == PoolKind::Conf || name.is_none_or(|name| name.contains('+')) => kind,
            _ => PoolKind::Other,
        },
        kind => kind,
    }
}

fn kind_of(name: &str, known: &KnownCode) -> PoolKind {
    let is = |prefix: &str| name.starts_with(prefix);
    if is("ngx_http_lua_") || is("ngx_stream_lua_") || known.object.contains("_lua_module") {
        PoolKind::Lua
    } else if is("ngx_http_create_request") || is("ngx_http_alloc_request") {
        PoolKind::Request
    } else if is("ngx_http_v2_") {
        match known.first_size {
            HTTP2_STREAM => PoolKind::Http2Stream,
            _ => PoolKind::Connection,
        }
    } else if is("ngx_event_accept") || is("ngx_event_recvmsg") || is("ngx_quic_") {
        PoolKind::Connection
    } else if is("ngx_http_upstream_") || is("ngx_stream_proxy_") {
        PoolKind::Upstream
    } else if is("ngx_init_cycle") || is("ngx_conf_") {
        PoolKind::Conf
    } else {
        PoolKind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NGINX: KnownCode = KnownCode {
        code: None,
        offset: 0x1f,
        function: None,
        calls: 1,
        between: 100,
        below: None,
        above: None,
        object: "nginx",
        of_cycles: false,
        first_size: 4096,
    };

    #[test]
    fn names() {
        let (near, far) = (NEAR, NEAR + 1);
        let http2 = (Some("ngx_http_v2_init"), Some("ngx_http_v2_close"));
        type Case<'a> =
            (Option<&'a str>, u8, usize, (Option<&'a str>, Option<&'a str>), Option<&'a str>);
        let table: [Case; 15] = [
            (Some("ngx_event_accept"), 0, 0, (None, None), Some("ngx_event_accept")),
            (Some("ngx_event_accept"), 1, near, (None, None), Some("ngx_event_accept")),
            (Some("ngx_event_accept"), 1, far, http2, Some("ngx_http_v2_*")),
            (Some("ngx_event_accept"), 2, near, http2, Some("ngx_http_v2_*")),
            (None, 0, 0, http2, Some("ngx_http_v2_*")),
            (None, 0, 0, (Some("ngx_http_v2"), Some("ngx_http_v2_b")), Some("ngx_http_v2_*")),
            (None, 0, 0, (Some("ngx_http_v2_a_b"), Some("ngx_http_v2_a_c")), Some("ngx_http_v2_*")),
            // Not sure.
            (Some("ngx_event_accept"), 2, near, (None, None), None),
            (None, 0, 0, (Some("alpha_v2"), Some("ngx_http_v3_init")), Some("alpha_v2+0x1f")),
            (None, 0, 0, (Some("alpha_v2"), Some("ngx_http_core_init")), Some("alpha_v2+0x1f")),
            (None, 0, 0, (Some("alpha_v2"), None), Some("alpha_v2+0x1f")),
            (None, 0, 0, (None, Some("ngx_http_v2_init")), None),
            (None, 0, 0, (Some("alpha"), Some("beta")), Some("alpha+0x1f")),
            (None, 0, 0, (Some(""), Some("")), Some("+0x1f")),
            (None, 0, 0, (None, None), None),
        ];
        for (function, calls, between, (below, above), expected) in table {
            let known = KnownCode { function, calls, between, below, above, ..NGINX };
            assert_eq!(name(&known).as_deref(), expected, "{known:?}");
            let known = KnownCode { code: Some("static_function"), ..known };
            assert_eq!(name(&known).as_deref(), Some("static_function"), "{known:?}");
        }
    }

    #[test]
    fn kinds() {
        let exact = |function| KnownCode { function: Some(function), calls: 0, ..NGINX };
        let around = |below, above| KnownCode { below: Some(below), above: Some(above), ..NGINX };
        let http2 = around("ngx_http_v2_init", "ngx_http_v2_close");
        for (known, expected) in [
            (KnownCode { of_cycles: true, ..exact("ngx_init_cycle") }, PoolKind::Cycle),
            (exact("ngx_init_cycle"), PoolKind::Conf),
            (KnownCode { function: Some("ngx_conf_parse"), ..NGINX }, PoolKind::Conf),
            (exact("ngx_event_accept"), PoolKind::Connection),
            (exact("ngx_event_recvmsg"), PoolKind::Connection),
            (exact("ngx_http_create_request"), PoolKind::Request),
            (exact("ngx_http_v2_init"), PoolKind::Connection),
            (http2, PoolKind::Connection),
            (KnownCode { first_size: 1024, ..http2 }, PoolKind::Http2Stream),
            (exact("ngx_http_upstream_init"), PoolKind::Upstream),
            (around("ngx_http_upstream_init", "ngx_http_upstream_free"), PoolKind::Upstream),
            (exact("ngx_http_lua_socket_tcp"), PoolKind::Lua),
            (KnownCode { object: "ngx_stream_lua_module.so", ..NGINX }, PoolKind::Lua),
            (exact("ngx_ssl_ocsp_start"), PoolKind::Other),
            (NGINX, PoolKind::Other),
        ] {
            assert_eq!(kind(&known), expected, "{known:?}");
        }
    }
}

//! The directives: their arguments, and the errors for all others.
//!
//! Invariants for `unsafe`: those of [`crate::nginx`].

use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

use nginx_sys::{
    ngx_command_t, ngx_conf_t, ngx_http_conf_ctx_t, ngx_msec_t, ngx_parse_size, ngx_parse_time,
    ngx_str_t, ngx_uint_t, NGX_CONF_1MORE, NGX_CONF_NOARGS, NGX_CONF_TAKE1, NGX_DIRECT_CONF,
    NGX_HTTP_LOC_CONF, NGX_HTTP_LOC_CONF_OFFSET, NGX_HTTP_MAIN_CONF, NGX_HTTP_MAIN_CONF_OFFSET,
    NGX_HTTP_SRV_CONF, NGX_MAIN_CONF,
};
use ngx::http::{HttpModule, HttpModuleConfExt, NgxHttpCoreModule};
use ngx::ngx_string;

use super::{
    core_conf, handle, main_conf, DirectivePosition, Here, LocationConf, SizeAt, UNSET_MSEC,
};
use crate::format::Format;
use crate::hook::set::HookSet;
use crate::nginx::conf::{self, Conf};
use crate::nginx::guard;

/// The levels of a directive that a location inherits.
const INHERITED: u32 = NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF;

/// The directives inside `http`.
pub static mut HTTP_COMMANDS: [ngx_command_t; 7] = [
    command(
        ngx_string!("memstat"),
        NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS,
        NGX_HTTP_LOC_CONF_OFFSET,
        set_memstat,
    ),
    command(
        ngx_string!("memstat_zone"),
        NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1,
        NGX_HTTP_MAIN_CONF_OFFSET,
        set_zone,
    ),
    command(
        ngx_string!("memstat_timeout"),
        INHERITED | NGX_CONF_TAKE1,
        NGX_HTTP_LOC_CONF_OFFSET,
        set_timeout,
    ),
    command(
        ngx_string!("memstat_uri"),
        INHERITED | NGX_CONF_TAKE1,
        NGX_HTTP_LOC_CONF_OFFSET,
        set_uri,
    ),
    command(
        ngx_string!("memstat_format"),
        INHERITED | NGX_CONF_TAKE1,
        NGX_HTTP_LOC_CONF_OFFSET,
        set_format,
    ),
    command(
        ngx_string!("memstat_hooks"),
        NGX_HTTP_MAIN_CONF | NGX_CONF_1MORE,
        NGX_HTTP_MAIN_CONF_OFFSET,
        set_hooks,
    ),
    ngx_command_t::empty(),
];

/// The directive outside `http`.
pub static mut CORE_COMMANDS: [ngx_command_t; 2] = [
    command(
        ngx_string!("memstat_hooks"),
        NGX_MAIN_CONF | NGX_DIRECT_CONF | NGX_CONF_1MORE,
        0,
        set_hooks,
    ),
    ngx_command_t::empty(),
];

type Setter = unsafe extern "C" fn(*mut ngx_conf_t, *mut ngx_command_t, *mut c_void) -> *mut c_char;

/// Returns a directive: its name, its contexts and number of arguments (`kind`), and which part of
/// the configuration (`conf`) its setter gets.
const fn command(name: ngx_str_t, kind: u32, conf: usize, set: Setter) -> ngx_command_t {
    ngx_command_t {
        name,
        type_: kind as ngx_uint_t,
        set: Some(set),
        conf,
        offset: 0,
        post: std::ptr::null_mut(),
    }
}

/// `memstat;`
unsafe extern "C" fn set_memstat(
    cf: *mut ngx_conf_t,
    _command: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(conf::ERROR, || {
        // SAFETY: nginx passes the configuration that it reads (N3).
        let cf = unsafe { Conf::from_raw(cf) };
        // SAFETY: inside a location, the context has the core module's settings of this location
        // (N3, N4).
        let location = unsafe {
            (*cf.as_ptr()).http_location_conf_unchecked::<nginx_sys::ngx_http_core_loc_conf_t>(
                NgxHttpCoreModule::module(),
            )
        };
        let (Some(mut location), Some(main)) = (location, main_conf(&cf)) else {
            return conf::ERROR;
        };
        // SAFETY: the pointer is the core module's, and nothing else uses the settings now (N1,
        // N4).
        let location = unsafe { location.as_mut() };
        // SAFETY: nginx passes the pointer that `create_loc_conf` returned for this location (N3).
        let Some(conf) = (unsafe { conf.cast::<LocationConf>().as_mut() }) else {
            return conf::ERROR;
        };
        if conf.here.is_some() {
            return conf::DUPLICATE;
        }
        // SAFETY: inside a location, the context has the location's configurations (N3).
        let confs = unsafe { (*(*cf.as_ptr()).ctx.cast::<ngx_http_conf_ctx_t>()).loc_conf };
        let (file, line) = cf.position();
        conf.here = Some(Here { at: DirectivePosition { file, line }, confs, before: main.last });
        main.last = Some(NonNull::from(conf));
        location.handler = Some(handle);
        main.locations += 1;
        conf::OK
    })
}

/// `memstat_zone size=…;`
unsafe extern "C" fn set_zone(
    cf: *mut ngx_conf_t,
    _command: *mut ngx_command_t,
    _conf: *mut c_void,
) -> *mut c_char {
    guard(conf::ERROR, || {
        // SAFETY: nginx passes the configuration that it reads (N3).
        let cf = unsafe { Conf::from_raw(cf) };
        let Some(main) = main_conf(&cf) else {
            return conf::ERROR;
        };
        if main.zone_size.is_some() {
            return conf::DUPLICATE;
        }
        let args = cf.args();
        let word = args.first().copied().unwrap_or_default();
        let size = word.strip_prefix(b"size=").and_then(parse_size);
        let Some(size) = size else {
            let word = word.escape_ascii();
            return cf.error(&format!(
                "invalid value \"{word}\" in \"memstat_zone\", expected \"size=\" and a size such \
                 as \"size=1m\""
            ));
        };
        let (file, line) = cf.position();
        main.zone_size = Some(SizeAt { size, at: DirectivePosition { file, line } });
        conf::OK
    })
}

/// `memstat_timeout …;`
unsafe extern "C" fn set_timeout(
    cf: *mut ngx_conf_t,
    _command: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(conf::ERROR, || {
        // SAFETY: nginx passes the configuration that it reads, and the pointer that
        // `create_loc_conf` returned for this level (N3).
        let (cf, conf) = unsafe { (Conf::from_raw(cf), conf.cast::<LocationConf>().as_mut()) };
        let Some(conf) = conf else { return conf::ERROR };
        if conf.timeout != UNSET_MSEC {
            return conf::DUPLICATE;
        }
        let args = cf.args();
        let word = args.first().copied().unwrap_or_default();
        let Some(timeout) = parse_milliseconds(word) else {
            let word = word.escape_ascii();
            return cf.error(&format!(
                "invalid value \"{word}\" in \"memstat_timeout\", expected a time such as \"200ms\""
            ));
        };
        conf.timeout = timeout;
        conf::OK
    })
}

/// `memstat_uri on | off;`
unsafe extern "C" fn set_uri(
    cf: *mut ngx_conf_t,
    _command: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(conf::ERROR, || {
        // SAFETY: nginx passes the configuration that it reads, and the pointer that
        // `create_loc_conf` returned for this level (N3).
        let (cf, conf) = unsafe { (Conf::from_raw(cf), conf.cast::<LocationConf>().as_mut()) };
        let (Some(conf), Some(main)) = (conf, main_conf(&cf)) else { return conf::ERROR };
        let parse = |word: &[u8]| match word {
            b"on" => Some(true),
            b"off" => Some(false),
            _ => None,
        };
        let outcome = set_word(&cf, &mut conf.uri, parse, "memstat_uri", r#""on" or "off""#);
        main.uris |= conf.settled().uris;
        outcome
    })
}

/// `memstat_format json | html | text | prometheus;`
unsafe extern "C" fn set_format(
    cf: *mut ngx_conf_t,
    _command: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(conf::ERROR, || {
        // SAFETY: nginx passes the configuration that it reads, and the pointer that
        // `create_loc_conf` returned for this level (N3).
        let (cf, conf) = unsafe { (Conf::from_raw(cf), conf.cast::<LocationConf>().as_mut()) };
        let Some(conf) = conf else { return conf::ERROR };
        let choices = Format::choices();
        set_word(&cf, &mut conf.format, Format::parse, "memstat_format", &choices)
    })
}

/// Sets the value of a directive whose only argument is one of a few words.
fn set_word<T>(
    cf: &Conf,
    place: &mut Option<T>,
    parse: impl FnOnce(&[u8]) -> Option<T>,
    directive: &str,
    expected: &str,
) -> *mut c_char {
    if place.is_some() {
        return conf::DUPLICATE;
    }
    let args = cf.args();
    let word = args.first().copied().unwrap_or_default();
    *place = parse(word);
    if place.is_none() {
        let word = word.escape_ascii();
        return cf
            .error(&format!("invalid value \"{word}\" in \"{directive}\", expected {expected}"));
    }
    conf::OK
}

fn parse_milliseconds(text: &[u8]) -> Option<ngx_msec_t> {
    let mut text = ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
    // SAFETY: the string is as long as its length says, and nginx only reads it (N5).
    ngx_msec_t::try_from(unsafe { ngx_parse_time(&mut text, 0) }).ok()
}

fn parse_size(text: &[u8]) -> Option<usize> {
    let mut text = ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
    // SAFETY: the string is as long as its length says, and nginx only reads it (N5).
    usize::try_from(unsafe { ngx_parse_size(&mut text) }).ok()
}

/// `memstat_hooks on | off | name …;`
unsafe extern "C" fn set_hooks(
    cf: *mut ngx_conf_t,
    _command: *mut ngx_command_t,
    _conf: *mut c_void,
) -> *mut c_char {
    guard(conf::ERROR, || {
        // SAFETY: nginx passes the configuration that it reads (N3).
        let cf = unsafe { Conf::from_raw(cf) };
        // SAFETY: the configuration belongs to a valid cycle (N3).
        let Some(core) = core_conf(unsafe { &*(*cf.as_ptr()).cycle }) else {
            return conf::ERROR;
        };
        if core.hooks.is_some() {
            return conf::DUPLICATE;
        }
        match HookSet::parse(&cf.args()) {
            Ok(hooks) => core.hooks = Some(hooks),
            Err(error) => return cf.error(&format!("{error} in \"memstat_hooks\"")),
        }
        conf::OK
    })
}

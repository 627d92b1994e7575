//! Zones: whose they are, and which directive makes them.
#![forbid(unsafe_code)]

use super::verdict::configured;
use crate::report::model::health::Directive;
use crate::report::model::zones::{SharedZone, NO_POOL};
use crate::report::model::Server;

/// The percentage from which a zone is nearly full; `NginxZoneNearlyFull` in monitoring/alerts.yml has
/// it, too. The page colours such a zone.
pub(crate) const NEARLY_FULL: u64 = 90;

/// Whether the zone is the module's own. Its slots are all in use from the start.
pub(crate) fn is_own(zone: &SharedZone) -> bool {
    let own = ["ngx_http_memstat_module", "ngx_memstat_module"];
    zone.owner.as_deref().is_some_and(|owner| own.contains(&owner))
}

/// Whether the mapping has no slab pool, so that nothing of a slab pool is missing.
pub(crate) fn has_no_pool(zone: &SharedZone) -> bool {
    zone.notes.iter().any(|note| note.reason == NO_POOL)
}

/// The zones of the newest configuration.
pub(super) fn current(server: &Server) -> impl Iterator<Item = (&str, &SharedZone)> {
    let zones = server.shared_zones.0.iter().map(|(name, zone)| (name.as_str(), &zone.newest));
    zones.filter(|(_, zone)| zone.current)
}

/// Returns the directive that makes a zone, with the size in force and another one. Returns `None` if
/// the owner is not known.
pub(super) fn resized(name: &str, zone: &SharedZone, bytes: u64) -> Option<Directive> {
    let (directive, context, shape) = maker(zone.owner.as_deref()?)?;
    let with = |size: u64| {
        let size = configured(size);
        match shape {
            Shape::Plain => format!("{name} {size}"),
            Shape::Zone => format!("zone={name}:{size}"),
            Shape::Keys => format!("keys_zone={name}:{size}"),
            Shape::Shared => format!("shared:{name}:{size}"),
        }
    };
    Some(Directive {
        name: directive.to_owned(),
        context: context.to_owned(),
        now: Some(with(zone.size)),
        suggest: with(bytes),
    })
}

/// How a directive writes the name and the size of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `NAME SIZE`
    Plain,
    /// `zone=NAME:SIZE`
    Zone,
    /// `keys_zone=NAME:SIZE`
    Keys,
    /// `shared:NAME:SIZE`
    Shared,
}

/// The directive that makes the zones of a module, its context, and its shape.
fn maker(owner: &str) -> Option<(&'static str, &'static str, Shape)> {
    Some(match owner {
        "ngx_http_lua_module" => ("lua_shared_dict", "http", Shape::Plain),
        "ngx_stream_lua_module" => ("lua_shared_dict", "stream", Shape::Plain),
        "ngx_http_limit_req_module" => ("limit_req_zone", "http", Shape::Zone),
        "ngx_http_limit_conn_module" => ("limit_conn_zone", "http", Shape::Zone),
        "ngx_stream_limit_conn_module" => ("limit_conn_zone", "stream", Shape::Zone),
        "ngx_http_proxy_module" => ("proxy_cache_path", "http", Shape::Keys),
        "ngx_http_fastcgi_module" => ("fastcgi_cache_path", "http", Shape::Keys),
        "ngx_http_scgi_module" => ("scgi_cache_path", "http", Shape::Keys),
        "ngx_http_uwsgi_module" => ("uwsgi_cache_path", "http", Shape::Keys),
        "ngx_http_ssl_module" => ("ssl_session_cache", "http", Shape::Shared),
        "ngx_stream_ssl_module" => ("ssl_session_cache", "stream", Shape::Shared),
        "ngx_mail_ssl_module" => ("ssl_session_cache", "mail", Shape::Shared),
        "ngx_http_upstream_zone_module" | "ngx_http_upstream_module" => {
            ("zone", "upstream", Shape::Plain)
        }
        "ngx_stream_upstream_zone_module" | "ngx_stream_upstream_module" => {
            ("zone", "upstream", Shape::Plain)
        }
        _ => return None,
    })
}

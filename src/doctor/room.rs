//! What happens in a zone when no room is left.
//!
//! An owner that removes its oldest entries learns from a failed allocation that it has to, so failures
//! alone prove nothing: see [`Failed::refused`].
#![forbid(unsafe_code)]

use super::zone::{has_no_pool, is_own};
use crate::report::model::zones::{SharedZone, ZoneUse};
use crate::report::model::{ProcessKind, Server};

/// What the owner of a zone does when an allocation fails, by nginx's and ngx_lua's sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// It removes an old entry and tries again, this many times at most.
    Evicts(u64),
    /// The request fails.
    Refuses,
    /// The zone is filled at the start, and nearly full by design.
    IsFixed,
    /// The module is not known.
    Unknown,
}

/// ngx_lua removes up to 30 entries to store one; `safe_set` and `safe_add` remove none.
const LUA_TRIES: u64 = 30;

/// The fewest requests without room that are worth a word.
pub(super) const LEAST_REFUSED: u64 = 10;

impl WhenFull {
    pub(super) fn of(zone: &SharedZone) -> Self {
        match zone.owner.as_deref() {
            Some("ngx_http_lua_module" | "ngx_stream_lua_module") => WhenFull::Evicts(LUA_TRIES),
            Some(
                "ngx_http_limit_req_module"
                | "ngx_http_proxy_module"
                | "ngx_http_fastcgi_module"
                | "ngx_http_scgi_module"
                | "ngx_http_uwsgi_module"
                | "ngx_http_ssl_module"
                | "ngx_stream_ssl_module"
                | "ngx_mail_ssl_module",
            ) => WhenFull::Evicts(1),
            Some("ngx_http_limit_conn_module" | "ngx_stream_limit_conn_module") => {
                WhenFull::Refuses
            }
            Some(
                "ngx_http_upstream_module"
                | "ngx_http_upstream_zone_module"
                | "ngx_stream_upstream_module"
                | "ngx_stream_upstream_zone_module",
            ) => WhenFull::IsFixed,
            _ => WhenFull::Unknown,
        }
    }
}

/// The failures in a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    /// Requests for memory so far.
    pub(super) requests: u64,
    /// Requests that failed.
    pub(super) failures: u64,
    /// At least this many allocations were given up. Where the owner evicts, these are:
    ///
    /// - in a size class, the failures beyond what the successes explain: a success comes after at
    ///   most as many failures as the owner tries;
    /// - in a process, the failures beyond what it freed: it frees an entry before it tries again.
    pub(super) refused: u64,
    /// Whether a request of a size that failed before has no room at the moment.
    pub(super) is_exhausted: bool,
}

/// The requests of one size.
struct SizeClass {
    reqs: u64,
    fails: u64,
    has_room: bool,
}

/// The failures in a zone. Returns `None` if they are not known, or if the zone is the module's own.
pub(super) fn failed(server: &Server, name: &str, zone: &SharedZone) -> Option<Failed> {
    if is_own(zone) || has_no_pool(zone) {
        return None;
    }
    let pages = zone.pages?;
    let slots = zone.slots.iter().flat_map(|slots| &slots.0).map(|(_, slot)| SizeClass {
        reqs: slot.reqs,
        fails: slot.fails,
        has_room: slot.free > 0 || pages.free > 0,
    });
    let whole = pages.reqs.zip(pages.fails).map(|(reqs, fails)| SizeClass {
        reqs,
        fails,
        has_room: pages.free > 0,
    });
    let classes: Vec<SizeClass> = slots.chain(whole).collect();
    let sum = |figure: fn(&SizeClass) -> u64| {
        classes.iter().fold(0u64, |sum, class| sum.saturating_add(figure(class)))
    };
    let failures = sum(|class| class.fails);
    let refused = match WhenFull::of(zone) {
        WhenFull::Evicts(tries) => {
            let unexplained = |class: &SizeClass| {
                let successes = class.reqs.saturating_sub(class.fails);
                let beyond = class.fails.saturating_sub(successes.saturating_mul(tries));
                beyond / tries.saturating_add(1)
            };
            let by_size = classes.iter().map(unexplained).fold(0, u64::saturating_add);
            let kept = |uses: &ZoneUse| Some(uses.failures?.saturating_sub(uses.frees?));
            let by_process =
                self::uses(server, name, zone).filter_map(kept).fold(0, u64::saturating_add);
            by_size.max(by_process)
        }
        _ => failures,
    };
    let is_exhausted = classes.iter().any(|class| class.fails > 0 && !class.has_room);
    Some(Failed { requests: sum(|class| class.reqs), failures, refused, is_exhausted })
}

/// What the processes did to a mapping of a zone, without the loader of a cache: it adds the files that
/// it finds while there is room, and removes none.
pub(super) fn uses<'a>(
    server: &'a Server,
    name: &'a str,
    zone: &'a SharedZone,
) -> impl Iterator<Item = &'a ZoneUse> {
    let processes = server.processes.iter().filter(|p| p.kind != ProcessKind::CacheLoader);
    let of = processes.filter_map(|process| process.zones.as_ref()?.get(name));
    of.filter(|uses| uses.generation == zone.generation && uses.mapped == zone.size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{class, full_zone, with_uses, with_zone};

    fn failed_in(zone: SharedZone, uses: &[(u64, u64, u64)]) -> Failed {
        let server = with_uses(with_zone("one", zone.clone()), "one", uses);
        failed(&server, "one", &zone).unwrap()
    }

    #[test]
    fn evictions_are_not_refusals() {
        let lua = "ngx_http_lua_module";
        // Each store failed once and succeeded after one entry was removed.
        let zone = full_zone(lua, vec![class(64, 20_000, 10_000)]);
        let found = failed_in(zone.clone(), &[(10_000, 10_000, 10_000)]);
        let expected =
            Failed { requests: 20_000, failures: 10_000, refused: 0, is_exhausted: true };
        assert_eq!(found, expected);
        // safe_set frees nothing.
        assert_eq!(failed_in(zone, &[(10_000, 0, 25)]).refused, 25);
        // Values that never find room, whatever is removed for them.
        let zone = full_zone(lua, vec![class(64, 20_000, 10_000), class(2048, 310, 310)]);
        assert_eq!(failed_in(zone, &[(10_000, 10_300, 10_310)]).refused, 10);
        // limit_req tries once: a second failure is a refused request.
        let zone = full_zone("ngx_http_limit_req_module", vec![class(64, 300, 200)]);
        assert_eq!(failed_in(zone, &[]).refused, 50);
        let zone = full_zone("ngx_http_limit_conn_module", vec![class(64, 300, 200)]);
        assert_eq!(failed_in(zone, &[]).refused, 200);
    }

    #[test]
    fn room() {
        let mut zone = full_zone("other", vec![class(64, 300, 200)]);
        assert!(failed_in(zone.clone(), &[]).is_exhausted);
        if let Some(slots) = &mut zone.slots {
            slots.0[0].1.free = 1;
        }
        assert!(!failed_in(zone, &[]).is_exhausted);
    }
}

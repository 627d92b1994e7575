//! A zone has no room, and requests fail.
#![forbid(unsafe_code)]

use super::room::{failed, WhenFull, LEAST_REFUSED};
use super::verdict::{is_share, suggested, verdict, Words};
use super::zone;
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::zones::SharedZone;
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "zone-failing";

/// The percentage of requests from which failures of the past are worth a change while there is room
/// again: they come back with the next busy hour.
const PAST_PERCENT: u64 = 1;

/// The percentage of free pages from which a zone is fragmented instead of full, see
/// [`super::zone_fragmented`].
pub(super) const FREE_PERCENT: u64 = 20;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let mut found: Vec<_> =
        zone::current(server).filter_map(|(name, zone)| examine(server, name, zone)).collect();
    found.sort_by_key(|(refused, verdict)| (verdict.status, std::cmp::Reverse(*refused)));
    found.into_iter().map(|(_, verdict)| verdict).collect()
}

fn examine(server: &Server, name: &str, zone: &SharedZone) -> Option<(u64, Verdict)> {
    let failed = failed(server, name, zone)?;
    let pages = zone.pages?;
    if failed.refused < LEAST_REFUSED {
        return None;
    }
    let has_free = is_share(pages.free, pages.total, FREE_PERCENT);
    let is_past = !failed.is_exhausted || has_free;
    // Failures of whole pages in a half empty zone are those of a fragmented zone.
    if is_past && !is_share(failed.refused, failed.requests, PAST_PERCENT) {
        return None;
    }
    if has_free && pages.fails.is_some_and(|fails| fails >= failed.refused / 2 && fails > 0) {
        return None;
    }
    let (impact, is_grave) = impact(zone);
    let status = match is_past || !is_grave {
        true => VerdictStatus::Yellow,
        false => VerdictStatus::Red,
    };
    let in_use = zone.in_use.unwrap_or(zone.size);
    let fill = zone.fill_percent.unwrap_or(0);
    let when = match is_past {
        true => "There was no room in zone",
        false => "There is no room in zone",
    };
    let words = Words {
        symptom: format!(
            "{when} {name}: {} of {} requests for memory failed for good; {} of {} are in use, {fill}%",
            failed.refused,
            failed.requests,
            size(in_use),
            size(zone.size),
        ),
        impact: impact.to_owned(),
        cause: match is_past {
            true => "The zone is too small for the busiest time since it was made".to_owned(),
            false => "The zone is too small for its entries".to_owned(),
        },
        action: "Make the zone larger, then reload. A lua_shared_dict and a cache start empty then"
            .to_owned(),
    };
    let made = verdict(ID, status, words)
        .with("refused", failed.refused)
        .with("failures", failed.failures)
        .with("requests", failed.requests)
        .with("fill_percent", zone.fill_percent)
        .with("in_use", zone.in_use)
        .with("size", zone.size)
        .with("largest_allocation", zone.largest_allocation)
        .about_zone(name)
        // What is in use is not all that was wanted.
        .change(zone::resized(name, zone, suggested(in_use.max(zone.size))));
    let is_known = WhenFull::of(zone) != WhenFull::Unknown;
    Some((failed.refused, if is_known { made } else { made.estimated() }))
}

/// What a refused allocation means, and whether a request fails by it.
fn impact(zone: &SharedZone) -> (&'static str, bool) {
    match zone.owner.as_deref().unwrap_or_default() {
        "ngx_http_lua_module" | "ngx_stream_lua_module" => {
            ("The Lua code gets \"no memory\" and stores nothing", true)
        }
        "ngx_http_limit_conn_module" | "ngx_http_limit_req_module" => (
            "Requests are refused with limit_conn_status or limit_req_status, 503 by default",
            true,
        ),
        "ngx_stream_limit_conn_module" => ("Connections are closed", true),
        "ngx_http_ssl_module" | "ngx_stream_ssl_module" | "ngx_mail_ssl_module" => {
            ("TLS sessions are not cached, so clients need full handshakes", false)
        }
        "ngx_http_proxy_module"
        | "ngx_http_fastcgi_module"
        | "ngx_http_scgi_module"
        | "ngx_http_uwsgi_module" => ("Requests to the cache fail with 500", true),
        _ => (
            "The module could not store what it wanted to; its documentation says what follows",
            false,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{class, full_zone, with_full_zone, with_uses, with_zone};

    fn said(owner: &str, reqs: u64, fails: u64) -> Vec<Verdict> {
        rule(&with_full_zone(owner, reqs, fails))
    }

    #[test]
    fn speaks() {
        let said_ = said("ngx_http_limit_conn_module", 5000, LEAST_REFUSED);
        assert_eq!(said_.len(), 1);
        let symptom =
            "There is no room in zone one: 10 of 5000 requests for memory failed for good; \
                       7.93 MiB of 8.00 MiB are in use, 100%";
        assert_eq!((said_[0].symptom.as_str(), said_[0].status), (symptom, VerdictStatus::Red));
        let directive = said_[0].directive.clone().unwrap();
        assert_eq!(
            (directive.name.as_str(), directive.suggest.as_str()),
            ("limit_conn_zone", "zone=one:12m")
        );
        assert_eq!(directive.now.as_deref(), Some("zone=one:8m"));
        // Only TLS sessions are not cached; an unknown module may not care.
        assert_eq!(said("ngx_http_ssl_module", 100, 90)[0].status, VerdictStatus::Yellow);
        let unknown = said("ngx_http_other_module", 100, 90).swap_remove(0);
        assert_eq!(unknown.confidence, crate::report::model::health::Confidence::Estimated);
        // safe_set frees nothing.
        let zone = full_zone("ngx_http_lua_module", vec![class(64, 1000, 20)]);
        let server = with_uses(with_zone("dict", zone), "dict", &[(980, 0, 20)]);
        assert_eq!(rule(&server)[0].status, VerdictStatus::Red);
        assert_eq!(rule(&server)[0].directive.clone().unwrap().suggest, "dict 12m");
    }

    #[test]
    fn there_is_room_again() {
        let with_room = |fails| {
            let mut zone = full_zone("ngx_http_limit_conn_module", vec![class(64, 5000, fails)]);
            zone.slots.as_mut().unwrap().0[0].1.free = 1000;
            rule(&with_zone("one", zone))
        };
        assert_eq!(with_room(50)[0].status, VerdictStatus::Yellow);
        assert!(with_room(50)[0].symptom.starts_with("There was no room in zone one: 50 of 5000"));
        assert_eq!(with_room(49), []);
    }

    #[test]
    fn near_misses() {
        assert_eq!(said("ngx_http_limit_conn_module", 5000, LEAST_REFUSED - 1), []);
        // Full by design: each success came after the removal of an entry.
        for owner in ["ngx_http_limit_req_module", "ngx_http_proxy_module", "ngx_http_ssl_module"] {
            assert_eq!(said(owner, 20_000, 10_000), [], "{owner}");
        }
        assert_eq!(said("ngx_http_memstat_module", 20_000, 10_000), []);
    }
}

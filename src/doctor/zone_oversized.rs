//! A zone is much larger than what has ever been used of it.
#![forbid(unsafe_code)]

use super::verdict::{percent, suggested, verdict, Words};
use super::zone::{self, is_own};
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::{Process, ProcessKind, ProcessState, Server};
use crate::report::units::size;

pub(super) const ID: &str = "zone-oversized";

/// The unused bytes from which a zone is worth a word: less is common and costs nothing.
const LEAST: u64 = 256 << 20;

/// The percentage of the zone that was never used.
const PERCENT: u64 = 75;

/// The uptime of the workers, in seconds, from which a zone has had the time to fill: a day has a busy
/// hour.
const UPTIME: u64 = 86_400;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let is_worker = |p: &&Process| p.kind == ProcessKind::Worker && p.state == ProcessState::Active;
    let mut workers = server.processes.iter().filter(is_worker).peekable();
    let is_new = |worker: &Process| worker.uptime_s.is_none_or(|uptime| uptime < UPTIME);
    if workers.peek().is_none() || workers.any(is_new) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (name, zone) in zone::current(server) {
        // A page that was used stays in RAM, so this is the most that was ever in use.
        let Some(used) = zone.resident else { continue };
        let unused = zone.size.saturating_sub(used);
        let Some(share) = percent(unused, zone.size) else { continue };
        if is_own(zone) || unused < LEAST || share < PERCENT {
            continue;
        }
        let words = Words {
            symptom: format!(
                "Zone {name} was never fuller than {} of {}: {share}% was not used",
                size(used),
                size(zone.size),
            ),
            impact:
                "It is harmless: pages that were never used take no RAM. But the zone may grow to \
                     its size one day"
                    .to_owned(),
            cause: "The zone is larger than its entries need".to_owned(),
            action: "Make it smaller if the machine could not bear its full size".to_owned(),
        };
        let verdict = verdict(ID, VerdictStatus::Info, words)
            .with("size", zone.size)
            .with("resident", used)
            .about_zone(name)
            .change(zone::resized(name, zone, suggested(used)))
            .estimated();
        found.push((unused, verdict));
    }
    found.sort_by_key(|(unused, _)| std::cmp::Reverse(*unused));
    found.into_iter().map(|(_, verdict)| verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{with_workers, with_zone};
    use crate::report::model::zones::SharedZone;

    fn server(size: u64, resident: u64, uptime_s: u64) -> Server {
        let owner = Some("ngx_http_lua_module".to_owned());
        let resident = Some(resident);
        let zone = SharedZone { owner, size, resident, current: true, ..SharedZone::default() };
        with_workers(with_zone("dict", zone), |worker| worker.uptime_s = Some(uptime_s))
    }

    #[test]
    fn speaks() {
        let said = rule(&server(1 << 30, 100 << 20, UPTIME));
        assert_eq!(said.len(), 1);
        let symptom = "Zone dict was never fuller than 100 MiB of 1.00 GiB: 90% was not used";
        assert_eq!((said[0].symptom.as_str(), said[0].status), (symptom, VerdictStatus::Info));
        let directive = said[0].directive.clone().unwrap();
        assert_eq!(directive.now.as_deref(), Some("dict 1024m"));
        assert_eq!(
            (directive.name, directive.suggest),
            ("lua_shared_dict".into(), "dict 160m".into())
        );
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&server(1 << 30, 100 << 20, UPTIME - 1)), [], "new");
        assert_eq!(rule(&server(1 << 30, 300 << 20, UPTIME)), [], "a quarter is used");
        assert_eq!(rule(&server(LEAST, 1 << 20, UPTIME)), [], "small");
    }
}

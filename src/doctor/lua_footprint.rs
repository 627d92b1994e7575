//! LuaJIT holds much more memory than Lua uses.
#![forbid(unsafe_code)]

use super::lua::vms;
use super::verdict::{held, verdict, Words};
use crate::report::model::health::Verdict;
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "lua-footprint";

/// The factor between what LuaJIT holds in RAM and what Lua counts. Twice is usual: with the default
/// pause of 200 the collector waits until the count has doubled. `NginxLuaFootprint` in
/// monitoring/alerts.yml has it, too.
pub(super) const FACTOR: u64 = 3;

/// The bytes in RAM of a process from which its VMs are worth a word; `NginxLuaFootprint` has it, too.
pub(super) const LEAST: u64 = 64 << 20;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let hold = vms(server, |_, lua| {
        let figures = lua.resident.zip(lua.gc_bytes);
        figures
            .is_some_and(|(resident, gc)| resident > LEAST && resident > gc.saturating_mul(FACTOR))
    });
    let unused = |resident: Option<u64>, gc: Option<u64>| resident?.checked_sub(gc?);
    let Some(worst) = hold.worst(|lua| unused(lua.resident, lua.gc_bytes)) else {
        return Vec::new();
    };
    let sum = hold.sum(|lua| unused(lua.resident, lua.gc_bytes));
    let gc_bytes = worst.lua.gc_bytes.unwrap_or(0);
    let words = Words {
        symptom: format!(
            "LuaJIT holds {} that Lua does not use in {}; {} has {} in RAM and counts {}, {}",
            size(sum),
            hold.names(),
            worst.name,
            worst.lua.resident.map(size).unwrap_or_default(),
            size(gc_bytes),
            worst.share("of its RAM is unused"),
        ),
        impact: "The memory is used again by the next large request, but no other program gets it"
            .to_owned(),
        cause:
            "Lua used more at a time. The garbage collector has freed it, and LuaJIT's allocator \
                cannot return a segment that holds a few live values"
                .to_owned(),
        action:
            "A reload returns it. To keep it small, let Lua work on large data in parts, and keep \
                 what lives long in a lua_shared_dict"
                .to_owned(),
    };
    vec![verdict(ID, held(sum, server), words)
        .with("unused", sum)
        .with("resident", worst.lua.resident)
        .with("gc_bytes", gc_bytes)
        .with("free_bytes", worst.lua.free_bytes)
        .about(hold.processes())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{lua, with_lua};
    use crate::report::model::health::VerdictStatus;

    fn footprint(resident: u64, gc_bytes: u64) -> Server {
        with_lua(lua(gc_bytes), |lua| lua.resident = Some(resident))
    }

    #[test]
    fn speaks() {
        let said = rule(&footprint(LEAST + 4096, 20 << 20));
        assert_eq!((said.len(), said[0].status), (1, VerdictStatus::Info));
        assert_eq!(said[0].evidence.get("unused"), Some(&(2 * ((44 << 20) + 4096))));
        assert!(said[0]
            .symptom
            .starts_with("LuaJIT holds 88.0 MiB that Lua does not use in workers"));
        // Much, and most of what the server takes.
        let mut server = footprint(400 << 20, 10 << 20);
        server.totals.resident_unique = Some(1000 << 20);
        assert_eq!(rule(&server)[0].status, VerdictStatus::Yellow);
        server.totals.resident_unique = Some(2000 << 20);
        assert_eq!(rule(&server)[0].status, VerdictStatus::Info);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&footprint(LEAST, 1 << 20)), []);
        assert_eq!(rule(&footprint(300 << 20, 100 << 20)), []);
        let unknown = with_lua(lua(1 << 20), |lua| lua.resident = None);
        assert_eq!(rule(&unknown), []);
    }

    /// The alert has the same constants.
    #[test]
    fn as_in_the_alert() {
        let alerts = include_str!("../../monitoring/alerts.yml");
        let said = alerts.split_once("alert: NginxLuaFootprint").map(|(_, rest)| rest);
        let said = said.and_then(|rest| rest.split_once("- alert")).map(|(rule, _)| rule);
        let factor = format!("lua_resident_bytes > {FACTOR} * nginx_memstat_lua_gc_bytes");
        let least = format!("nginx_memstat_lua_resident_bytes > {LEAST}\n");
        assert!(
            said.is_some_and(|said| said.contains(&factor) && said.contains(&least)),
            "{said:?}"
        );
    }
}

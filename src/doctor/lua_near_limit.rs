//! The Lua VMs of a process are near the limit of a LuaJIT without GC64.
#![forbid(unsafe_code)]

use super::verdict::{is_share, percent, verdict, Words};
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::{Process, ProcessState, Server};
use crate::report::units::size;
use crate::report::who::label;

pub(super) const ID: &str = "lua-near-limit";

/// The percentage of the limit from which it should be changed soon.
const SOON: u64 = 75;

/// The percentage of the limit from which large blocks fail.
const NOW: u64 = 90;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let mut found: Vec<_> = server.processes.iter().filter_map(examine).collect();
    found.sort_by_key(|(used, verdict)| (verdict.status, std::cmp::Reverse(*used)));
    found.into_iter().map(|(_, verdict)| verdict).collect()
}

fn examine(process: &Process) -> Option<(u64, Verdict)> {
    let lua = process.lua.as_ref()?;
    let limit = lua.iter().filter_map(|lua| lua.gc?.limit_bytes).min()?;
    let sum = |figure: fn(&crate::report::model::lua::LuaVms) -> u64| {
        lua.iter().map(figure).fold(0, u64::saturating_add)
    };
    // All VMs of a process share the limit.
    let used = sum(|lua| lua.allocated_bytes.saturating_add(lua.overhead_bytes.unwrap_or(0)));
    let failures = sum(|lua| lua.failures);
    if !is_share(used, limit, SOON) || process.state == ProcessState::ShuttingDown {
        return None;
    }
    let status = match failures > 0 || is_share(used, limit, NOW) {
        true => VerdictStatus::Red,
        false => VerdictStatus::Yellow,
    };
    let failed = match failures {
        0 => String::new(),
        count => format!("; {count} allocations failed"),
    };
    let words = Words {
        symptom: format!(
            "Lua of {} pid {} uses {} of the {} that it can have, {}%{failed}",
            label(process),
            process.pid,
            size(used),
            size(limit),
            percent(used, limit).unwrap_or(0),
        ),
        impact: "At the limit Lua code fails with \"not enough memory\", whatever RAM is free".to_owned(),
        cause: "This LuaJIT is no GC64 build: its VMs live in the lowest 2 GiB of addresses".to_owned(),
        action: "Use a LuaJIT with GC64 (the default since 2019 and in OpenResty), or keep large data in a \
                 lua_shared_dict, which does not count"
            .to_owned(),
    };
    let verdict = verdict(ID, status, words)
        .with("used", used)
        .with("limit", limit)
        .with("failures", failures)
        .about([process]);
    Some((used, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{lua, with_lua};

    const LIMIT: u64 = 1 << 31;

    fn said(bytes: u64, failures: u64, limit: Option<u64>) -> Vec<Verdict> {
        rule(&with_lua(lua(bytes), |lua| {
            (lua.failures, lua.overhead_bytes) = (failures, Some(0));
            if let Some(gc) = &mut lua.gc {
                gc.limit_bytes = limit;
            }
        }))
    }

    #[test]
    fn speaks() {
        let found = said(LIMIT / 4 * 3, 0, Some(LIMIT));
        assert_eq!((found.len(), found[0].status), (2, VerdictStatus::Yellow));
        let symptom = "Lua of worker 0 pid 11 uses 1.50 GiB of the 2.00 GiB that it can have, 75%";
        assert_eq!(found[0].symptom, symptom);
        assert_eq!(said(LIMIT / 4 * 3, 1, Some(LIMIT))[0].status, VerdictStatus::Red);
        assert_eq!(said(LIMIT / 10 * 9 + 1, 0, Some(LIMIT)).len(), 2);
        assert_eq!(said(LIMIT, 0, Some(LIMIT))[0].status, VerdictStatus::Red);
    }

    #[test]
    fn near_misses() {
        assert_eq!(said(LIMIT / 4 * 3 - 1, 5, Some(LIMIT)), []);
        assert_eq!(said(LIMIT, 0, None), []);
    }
}

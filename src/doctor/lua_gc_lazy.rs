//! Lua's garbage collector is set to begin late or to work slowly.
#![forbid(unsafe_code)]

use super::lua::vms;
use super::verdict::{held, verdict, Words};
use crate::report::model::health::Verdict;
use crate::report::model::lua::LuaVms;
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "lua-gc-lazy";

/// Lua's default: a cycle begins when memory is twice what the last one left.
const DEFAULT_PAUSE: u64 = 200;

/// The pause from which garbage is most of what Lua holds: two thirds, where the default allows a half.
const PAUSE: u64 = 300;

/// The stepmul below which, by Lua's manual, the collector may never finish a cycle.
const STEPMUL: u64 = 100;

/// The GC count from which it is worth a word, in bytes.
const LEAST: u64 = 64 << 20;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let lazy = vms(server, |_, lua| is_lazy(lua) && lua.gc_bytes.is_some_and(|b| b >= LEAST));
    let Some(worst) = lazy.worst(|lua| lua.gc_bytes) else { return Vec::new() };
    let gc = worst.lua.gc;
    let (pause, stepmul) = (gc.and_then(|gc| gc.pause), gc.and_then(|gc| gc.stepmul));
    let sum = lazy.sum(garbage);
    let shown = |figure: Option<u64>| figure.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let words = Words {
        symptom: format!(
            "Lua's garbage collector is lazy in {}: pause {}, stepmul {}; {} counts {}, {}",
            lazy.names(),
            shown(pause),
            shown(stepmul),
            worst.name,
            size(worst.bytes),
            worst.share("of its RAM"),
        ),
        impact: format!("Up to {} more than with Lua's defaults is garbage that waits", size(sum)),
        cause: "Lua code called collectgarbage(\"setpause\") or collectgarbage(\"setstepmul\")"
            .to_owned(),
        action:
            "Call collectgarbage(\"setpause\", 200) and collectgarbage(\"setstepmul\", 200) in \
                 init_by_lua, or leave the defaults"
                .to_owned(),
    };
    vec![verdict(ID, held(sum, server), words)
        .with("pause", pause)
        .with("stepmul", stepmul)
        .with("gc_bytes", worst.bytes)
        .with("garbage", sum)
        .about(lazy.processes())
        .estimated()]
}

fn is_lazy(lua: &LuaVms) -> bool {
    let Some(gc) = lua.gc else { return false };
    let is_late = gc.pause.is_some_and(|pause| pause >= PAUSE);
    let is_slow = gc.stepmul.is_some_and(|stepmul| stepmul < STEPMUL);
    gc.running != Some(false) && (is_late || is_slow)
}

/// The bytes that a pause of 200 would save at most: the rest is at least the count divided by the pause.
fn garbage(lua: &LuaVms) -> Option<u64> {
    let bytes = lua.gc_bytes?;
    let pause = lua.gc?.pause?.max(DEFAULT_PAUSE);
    let needed = u128::from(bytes).checked_mul(DEFAULT_PAUSE.into())?.checked_div(pause.into())?;
    bytes.checked_sub(u64::try_from(needed).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{lua, with_lua};
    use crate::report::model::health::VerdictStatus;

    fn lazy(bytes: u64, pause: u64, stepmul: u64) -> Vec<Verdict> {
        rule(&with_lua(lua(bytes), |lua| {
            if let Some(gc) = &mut lua.gc {
                (gc.pause, gc.stepmul) = (Some(pause), Some(stepmul));
            }
        }))
    }

    #[test]
    fn speaks() {
        let said = lazy(LEAST, 400, 200);
        assert_eq!((said.len(), said[0].status), (1, VerdictStatus::Info));
        assert_eq!(said[0].evidence.get("garbage"), Some(&LEAST), "half of both");
        assert_eq!(lazy(LEAST, PAUSE, 200).len(), 1);
        assert_eq!(lazy(LEAST, 200, STEPMUL - 1).len(), 1);
    }

    #[test]
    fn near_misses() {
        assert_eq!(lazy(LEAST - 1, 400, 200), []);
        assert_eq!(lazy(LEAST, PAUSE - 1, STEPMUL), []);
    }
}

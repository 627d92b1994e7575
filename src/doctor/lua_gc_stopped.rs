//! Lua's garbage collector is stopped.
#![forbid(unsafe_code)]

use super::lua::vms;
use super::verdict::{verdict, Words};
use crate::report::model::health::{Verdict, VerdictStatus};
use crate::report::model::Server;
use crate::report::units::size;

pub(super) const ID: &str = "lua-gc-stopped";

/// Below this, in bytes, it is a remark: a VM with a few modules has as much, and grows slowly.
const SMALL: u64 = 16 << 20;

/// From this on, in bytes, it is urgent: the next hours may take the rest of the RAM.
const LARGE: u64 = 256 << 20;

pub(super) fn rule(server: &Server) -> Vec<Verdict> {
    let stopped = vms(server, |_, lua| lua.gc.is_some_and(|gc| gc.running == Some(false)));
    let Some(worst) = stopped.worst(|lua| lua.gc_bytes) else { return Vec::new() };
    let status = match worst.bytes {
        ..SMALL => VerdictStatus::Info,
        SMALL..LARGE => VerdictStatus::Yellow,
        LARGE.. => VerdictStatus::Red,
    };
    let words = Words {
        symptom: format!(
            "Lua's garbage collector is stopped in {}; {} counts {}, {}",
            stopped.names(),
            worst.name,
            size(worst.bytes),
            worst.share("of its RAM"),
        ),
        impact: "Lua frees nothing, so each request adds to the memory of the worker".to_owned(),
        cause: "Lua code called collectgarbage(\"stop\") and not collectgarbage(\"restart\")"
            .to_owned(),
        action: "Remove collectgarbage(\"stop\") from the Lua code. It is harmless only where the \
                 code calls collectgarbage(\"step\") itself and gc_bytes does not grow"
            .to_owned(),
    };
    vec![verdict(ID, status, words)
        .with("gc_bytes", worst.bytes)
        .with("resident", worst.resident)
        .with("processes", stopped.count())
        .about(stopped.processes())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{lua, with_lua};

    fn stopped(bytes: u64, running: Option<bool>) -> Server {
        with_lua(lua(bytes), |lua| {
            if let Some(gc) = &mut lua.gc {
                gc.running = running;
            }
        })
    }

    #[test]
    fn speaks() {
        for (bytes, status) in [
            (SMALL - 1, VerdictStatus::Info),
            (SMALL, VerdictStatus::Yellow),
            (LARGE - 1, VerdictStatus::Yellow),
            (LARGE, VerdictStatus::Red),
        ] {
            let said = rule(&stopped(bytes, Some(false)));
            assert_eq!((said.len(), said[0].status), (1, status));
            assert_eq!(said[0].evidence.get("gc_bytes"), Some(&bytes));
            assert_eq!(said[0].affected.processes, [11, 12]);
        }
        let said = rule(&stopped(64 << 20, Some(false)));
        let symptom =
            "Lua's garbage collector is stopped in workers 0-1; worker 0 counts 64.0 MiB, \
                       50% of its RAM";
        assert_eq!(said[0].symptom, symptom);
    }

    #[test]
    fn near_misses() {
        assert_eq!(rule(&stopped(LARGE, Some(true))), []);
        assert_eq!(rule(&stopped(LARGE, None)), []);
    }
}

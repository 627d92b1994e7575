//! The Lua VMs of a configuration that is loaded.
//!
//! Those whose making was not seen are taken over, with LuaJIT linked into the executable for one.
//!
//! Invariants for `unsafe`: those of [`crate::nginx`].

use std::cell::Cell;
use std::ops::Range;

use nginx_sys::ngx_cycle_t;

use crate::abi::luajit::direct;
use crate::hook::lua as hook;
use crate::hook::refusal::Refusal;
use crate::nginx::log;
use crate::nginx::lua::{end_with_cleanup, global_states, GlobalState};
use crate::probe::lua::LuaReading;

/// The configuration is read, and wants the hook. Returns its state, as in `hooks`.
///
/// # Safety
///
/// `cycle` is what nginx handed to `init_module`.
pub unsafe fn settle(cycle: *mut ngx_cycle_t) -> String {
    let installed = hook::install().and_then(|()| hook::keep());
    match &installed {
        Ok(()) | Err(Refusal::NoLua | Refusal::NotImported { .. }) => {}
        Err(refusal) => log::warn(&format!("memstat: no hook on Lua VMs: {refusal}")),
    }
    if !matches!(installed, Err(Refusal::NoLua)) {
        // SAFETY: the caller's contract.
        unsafe { take_over(cycle, installed.is_ok()) };
    }
    hook::state().to_string()
}

/// Takes the VMs of the cycle over.
///
/// # Safety
///
/// As for [`settle`].
unsafe fn take_over(cycle: *mut ngx_cycle_t, ends_are_seen: bool) {
    // SAFETY: the caller's contract.
    let states = unsafe { global_states(cycle) };
    // SAFETY: alive, as their modules say, and nobody else uses them now.
    let is_new = |state: &&GlobalState| unsafe { !hook::is_known(state.lua) };
    let alone = states.iter().filter(is_new).count() == 1;
    let found: Cell<Option<Vec<Range<usize>>>> = Cell::new(None);
    for state in &states {
        // It may have been made by a call that is not seen, and so may its end.
        // SAFETY: the caller's contract.
        if is_new(&state) && !unsafe { end_with_cleanup(cycle, *state) } && !ends_are_seen {
            log::warn("memstat: no hook on a Lua VM: where it ends is not found");
            continue;
        }
        // With several, nobody knows which mapping is whose.
        let directs = || {
            let directs = found.take().or_else(directs)?;
            found.set(Some(directs.clone()));
            (alone || directs.is_empty()).then_some(directs)
        };
        // SAFETY: as above.
        let adopted = unsafe { hook::adopt(state.lua, state.subsystem, directs) };
        if let Err(refusal) = adopted {
            log::warn(&format!("memstat: no hook on a Lua VM: {refusal}"));
        }
    }
}

/// The direct mappings that no VM is known to have.
fn directs() -> Option<Vec<Range<usize>>> {
    let known = LuaReading::new(&hook::read());
    direct::find_all(&known.claimed().collect::<Vec<_>>()).ok()
}

//! Takes over the Lua VMs of a loaded configuration.
//!
//! The hook does not see how some VMs are created, for example if LuaJIT is linked into the
//! executable. These are taken over after they were created.
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
use crate::report::model::HookState;

/// Installs the hook for a loaded configuration that wants it. Returns the state of the hook, as in
/// `hooks` of a reply.
///
/// # Safety
///
/// `cycle` is the pointer that nginx passed to `init_module`.
pub unsafe fn settle(cycle: *mut ngx_cycle_t) -> HookState {
    let installed = hook::install().and_then(|()| hook::keep());
    match &installed {
        Ok(()) | Err(Refusal::NoLua | Refusal::NotImported { .. }) => {}
        Err(refusal) => log::warn(&format!("memstat: no hook on Lua VMs: {refusal}")),
    }
    if !matches!(installed, Err(Refusal::NoLua)) {
        // SAFETY: nginx passes a valid cycle, by contract (N3).
        unsafe { take_over(cycle, installed.is_ok()) };
    }
    HookState::from(&hook::state())
}

/// Takes over the VMs of the cycle. `ends_are_seen`: the hook sees when a VM is closed.
///
/// # Safety
///
/// As for [`settle`].
unsafe fn take_over(cycle: *mut ngx_cycle_t, ends_are_seen: bool) {
    // SAFETY: nginx passes a valid cycle, by contract (N3).
    let states = unsafe { global_states(cycle) };
    // SAFETY: the modules say that the VM is alive, and nothing else uses it now (N1).
    let is_new = |state: &&GlobalState| unsafe { !hook::is_known(state.lua) };
    let alone = states.iter().filter(is_new).count() == 1;
    let found: Cell<Option<Vec<Range<usize>>>> = Cell::new(None);
    for state in &states {
        // If the hook did not see how the VM was created, it may not see how it is closed either.
        // SAFETY: nginx passes a valid cycle, and `state` is one of its VMs (N3).
        if is_new(&state) && !unsafe { end_with_cleanup(cycle, *state) } && !ends_are_seen {
            log::warn("memstat: no hook on a Lua VM: the cleanup that closes it was not found");
            continue;
        }
        // With several new VMs, it is not known which mapping belongs to which VM.
        let directs = || {
            let directs = found.take().or_else(directs)?;
            found.set(Some(directs.clone()));
            (alone || directs.is_empty()).then_some(directs)
        };
        // SAFETY: the VM is alive, and nothing else uses it now (N1).
        let adopted = unsafe { hook::adopt(state.lua, state.subsystem, directs) };
        if let Err(refusal) = adopted {
            log::warn(&format!("memstat: no hook on a Lua VM: {refusal}"));
        }
    }
}

/// Returns the direct mappings that belong to no known VM.
fn directs() -> Option<Vec<Range<usize>>> {
    let known = LuaReading::new(&hook::read());
    direct::find_all(&known.claimed().collect::<Vec<_>>()).ok()
}

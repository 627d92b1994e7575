//! When Lua VMs are hooked in the course of a configuration.
//!
//! Modules make their VMs once `http {}` (or `stream {}`) is read. So the hook comes a moment before:
//! when `http {}` is read and it is known that there is a `memstat` location. The rest is settled
//! when all is read, in `init_module`: VMs that were there before are taken over, and where the hook
//! is not wanted after all, it goes again.
//!
//! Invariants for `unsafe`: those of [`crate::nginx`].

use std::cell::Cell;
use std::ffi::c_void;
use std::ops::Range;

use nginx_sys::{ngx_cycle_t, ngx_pool_cleanup_add};

use crate::abi::luajit::direct;
use crate::hook::refusal::Refusal;
use crate::hook::{lua as hook, pin};
use crate::nginx::global::MainThread;
use crate::nginx::lua::{end_with_cleanup, global_states, GlobalState};
use crate::nginx::{guard, log};
use crate::probe::lua::LuaReading;

static COURSE: MainThread<Course> = MainThread::new(Course { early: false, wanted: false });

struct Course {
    /// The hook came with a configuration that is not settled yet.
    early: bool,
    /// The last configuration that was settled wants the hook.
    wanted: bool,
}

/// `http {}` is read, its modules have not made their VMs yet, and the hook is wanted as far as is
/// known.
///
/// # Safety
///
/// `cycle` is the one whose configuration is read.
pub unsafe fn before_vms(cycle: *mut ngx_cycle_t) {
    if pin::pin(before_vms as *const () as *const c_void).is_err() {
        return;
    }
    // SAFETY: N3, N4: the pool of the cycle, which ends with it.
    let cleanup = unsafe { ngx_pool_cleanup_add((*cycle).pool, 0).as_mut() };
    let Some(cleanup) = cleanup else { return };
    cleanup.handler = Some(given_up);
    COURSE.with(|course| course.early = true);
    // Why it can't be, `settle` finds out again.
    let _ = hook::install();
}

/// The pool of a cycle goes. Where that is because its configuration failed, the hook is no more
/// than what the last good one wanted.
unsafe extern "C" fn given_up(_data: *mut c_void) {
    guard((), || {
        let unsettled = COURSE.with(|course| std::mem::take(&mut course.early) && !course.wanted);
        if unsettled == Some(true) {
            let _ = hook::uninstall();
        }
    });
}

/// The configuration is read: what became of the hook, as in `hooks`.
///
/// # Safety
///
/// `cycle` is what nginx handed to `init_module`.
pub unsafe fn settle(cycle: *mut ngx_cycle_t) -> String {
    COURSE.with(|course| *course = Course { early: false, wanted: true });
    let installed = hook::install();
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

/// The configuration does not want the hook.
pub fn withdraw() {
    COURSE.with(|course| *course = Course { early: false, wanted: false });
    let _ = hook::uninstall();
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

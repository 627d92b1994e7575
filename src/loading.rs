//! Which hooks are in place while a configuration is read.
//!
//! nginx calls `create_conf` of a core module inside `load_module`, before it reads the rest of the
//! configuration. All hooks go in there, so that they see what the configuration allocates: pools, shared
//! memory, Lua VMs. Once all is read, [`settle`] takes out those that no location wants. A later
//! configuration finds the hooks as the last one left them.
//!
//! Until a configuration with a `memstat` location is loaded, the module is not pinned, so that nginx can
//! unload it. When a configuration is given up, the hooks go out before its `load_module` is undone:
//! cleanups run in the reverse order. Code of the module may be on the stack then (`ngx_destroy_pool` is
//! hooked), so the module stays mapped until the next configuration is loaded.
//!
//! Invariants for `unsafe`: those of [`crate::nginx`].

use std::ffi::c_void;

use nginx_sys::{ngx_cycle_t, ngx_pool_cleanup_add, ngx_pool_t};

use crate::gather::asleep;
use crate::hook::pin::{self, Reference};
use crate::hook::refusal::Refusal;
use crate::hook::set::HookSet;
use crate::hook::state::State;
use crate::hook::{lua as lua_hook, pool, slab, sleep, thread};
use crate::lua;
use crate::nginx::global::MainThread;
use crate::nginx::{guard, log, process, zones};
use crate::report::model::Hooks;
use crate::sys::status;

static COURSE: MainThread<Course> = MainThread::new(Course {
    cycle: std::ptr::null_mut(),
    early: HookSet::NONE,
    refused: Refused { pool: None, slab: None },
    settled: None,
});

struct Course {
    /// The cycle whose configuration is being read, once hooks were installed for it.
    cycle: *mut ngx_cycle_t,
    /// The hooks that were installed for it.
    early: HookSet,
    /// Why some of them are not in place.
    refused: Refused,
    /// The hooks that the last configuration wants; `None` when it has no `memstat` location.
    settled: Option<HookSet>,
}

/// Why hooks are not in place that are tried in a child first. One try for each configuration is enough.
#[derive(Default)]
struct Refused {
    pool: Option<Refusal>,
    slab: Option<Refusal>,
}

/// nginx loads the module, or begins with a configuration that has it linked in.
///
/// # Safety
///
/// `cycle` is what nginx handed to `create_conf`.
pub unsafe fn begin(cycle: *mut ngx_cycle_t) {
    if !process::will_serve() {
        return;
    }
    slab::loading();
    if COURSE.with(|course| course.settled.is_none()) == Some(true) {
        // SAFETY: the caller's contract.
        unsafe { want(cycle, HookSet::ALL) };
    }
}

/// Installs hooks for a configuration that is being read.
///
/// # Safety
///
/// `cycle` is the one whose configuration is read.
pub unsafe fn want(cycle: *mut ngx_cycle_t, hooks: HookSet) {
    // SAFETY: the caller's contract.
    if !process::will_serve() || !unsafe { watch(cycle) } {
        return;
    }
    let tried = COURSE.with(|course| {
        course.early = course.early.or(hooks);
        (course.refused.pool.is_some(), course.refused.slab.is_some())
    });
    let Some((pool_tried, slab_tried)) = tried else { return };
    // Errors are kept or ignored here: `settle` reports them.
    if hooks.pool && !pool_tried {
        let refused = pool::install().err();
        COURSE.with(|course| course.refused.pool = refused);
    }
    if hooks.slab && !slab_tried {
        let refused = slab::install(zones::check).err();
        COURSE.with(|course| course.refused.slab = refused);
    }
    install_imports(hooks);
}

/// All modules are loaded, and some of them may import what is hooked by then.
pub fn modules_loaded() {
    if process::will_serve() {
        let in_place = COURSE.with(|c| c.early.or(c.settled.unwrap_or(HookSet::NONE)));
        install_imports(in_place.unwrap_or(HookSet::NONE));
    }
}

/// The hooks that are slots of the loaded objects.
fn install_imports(hooks: HookSet) {
    if hooks.lua {
        let _ = lua_hook::install();
    }
    if hooks.thread {
        let _ = thread::install();
    }
}

/// Has [`given_up`] called when the pool of the cycle goes; whether it will be.
///
/// # Safety
///
/// As for [`want`].
unsafe fn watch(cycle: *mut ngx_cycle_t) -> bool {
    if COURSE.with(|course| course.cycle == cycle) == Some(true) {
        return true;
    }
    // SAFETY: N3: the cycle has its pool from the beginning.
    if !unsafe { at_end((*cycle).pool, given_up, cycle.cast()) } {
        return false;
    }
    COURSE.with(|course| {
        course.cycle = cycle;
        course.early = HookSet::NONE;
        course.refused = Refused::default();
    });
    true
}

/// Adds a cleanup to a pool; whether there was memory.
///
/// # Safety
///
/// The pool is valid, and the handler may be called with `data` when the pool ends.
unsafe fn at_end(
    pool: *mut ngx_pool_t,
    handler: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
) -> bool {
    // SAFETY: N4: the cleanup ends with its pool.
    let Some(cleanup) = (unsafe { ngx_pool_cleanup_add(pool, 0).as_mut() }) else {
        return false;
    };
    cleanup.handler = Some(handler);
    cleanup.data = data;
    true
}

/// The pool of a cycle goes. Where its configuration was not settled, it failed, and the hooks are again
/// those that the last good one wanted.
unsafe extern "C" fn given_up(cycle: *mut c_void) {
    guard((), || {
        let cycle: *mut ngx_cycle_t = cycle.cast();
        let unsettled = COURSE.with(|course| {
            let is_unsettled = course.cycle == cycle;
            is_unsettled.then(|| {
                course.cycle = std::ptr::null_mut();
                let early = std::mem::replace(&mut course.early, HookSet::NONE);
                (early.without(course.settled.unwrap_or(HookSet::NONE)), course.settled)
            })
        });
        let Some((early, settled)) = unsettled.flatten() else { return };
        let is_out = take_out(early);
        // SAFETY: N3: the cycle's own memory goes after this cleanup.
        if settled.is_none() && !(is_out && unsafe { stay_for_now(cycle) }) {
            let _ = pin::pin(own_code());
        }
    });
}

/// Keeps the module mapped as long as the configuration lives that stays in force.
///
/// # Safety
///
/// As for [`want`].
unsafe fn stay_for_now(cycle: *mut ngx_cycle_t) -> bool {
    // SAFETY: N3: the cycle before it is alive while a cycle is made.
    let before = unsafe { (*cycle).old_cycle.as_ref() };
    let Some((before, reference)) = before.zip(Reference::of(own_code()).ok()) else {
        return false;
    };
    let (release, handle) = reference.into_parts();
    // SAFETY: N3, N4; the handle is released once, by code of the C library.
    unsafe { at_end(before.pool, release, handle) }
}

/// Takes hooks out; whether no code of the module can be called any more.
fn take_out(hooks: HookSet) -> bool {
    let take =
        |wanted: bool, uninstall: fn() -> Result<(), Refusal>| !wanted || uninstall().is_ok();
    let lua = take(hooks.lua, lua_hook::uninstall);
    let thread = take(hooks.thread, thread::uninstall);
    let pool = take(hooks.pool, pool::uninstall);
    let slab = take(hooks.slab, slab::uninstall);
    let master = take(hooks.master, sleep::uninstall);
    // Another thread may have been created through the hook, or use a VM.
    let alone = status::own().is_ok_and(|reading| reading.threads == 1);
    lua && thread && pool && slab && master && alone
}

/// Keeps the module in the process for good.
pub fn pin_module() -> Result<(), Refusal> {
    pin::pin(own_code())
}

fn own_code() -> *const c_void {
    begin as *const () as *const c_void
}

/// A configuration is loaded that wants no hook: it has no `memstat` location.
pub fn withdraw() {
    settled(None);
    if !take_out(HookSet::ALL) {
        let _ = pin_module();
    }
}

/// A configuration is loaded. Why hooks are not in place that were tried for it.
fn settled(wanted: Option<HookSet>) -> Refused {
    let refused = COURSE.with(|course| {
        course.cycle = std::ptr::null_mut();
        course.early = HookSet::NONE;
        course.settled = wanted;
        std::mem::take(&mut course.refused)
    });
    refused.unwrap_or_default()
}

/// A configuration is loaded: installs the hooks that it wants, takes out the others, and says in which
/// state each is.
///
/// # Safety
///
/// `cycle` is what nginx handed to `init_module`, and the module is pinned.
pub unsafe fn settle(cycle: *mut ngx_cycle_t, hooks: HookSet) -> Hooks {
    let Refused { pool, slab } = settled(Some(hooks));
    let lua = if hooks.lua {
        // SAFETY: the caller's contract.
        unsafe { lua::settle(cycle) }
    } else {
        let _ = lua_hook::uninstall();
        NOT_WANTED.to_owned()
    };
    let install_pool = || pool.map_or_else(pool::install, Err);
    let install_slab = || slab.map_or_else(|| slab::install(zones::check), Err);
    Hooks {
        pool: switch(hooks.pool, "nginx's pools", install_pool, pool::uninstall),
        slab: switch(hooks.slab, "nginx's slab allocator", install_slab, slab::uninstall),
        lua,
        thread: switch(hooks.thread, "pthread_create", thread::install, thread::uninstall),
        master: Some(switch(
            hooks.master,
            "sigsuspend",
            || sleep::install(asleep),
            sleep::uninstall,
        )),
    }
}

fn switch(
    wanted: bool,
    what: &str,
    install: impl FnOnce() -> Result<(), Refusal>,
    uninstall: fn() -> Result<(), Refusal>,
) -> String {
    if !wanted {
        let _ = uninstall();
        return NOT_WANTED.to_owned();
    }
    let installed = install();
    if let Err(refusal) = &installed {
        log::warn(&format!("memstat: no hook on {what}: {refusal}"));
    }
    State::from(&installed).to_string()
}

const NOT_WANTED: &str = "off: not among memstat_hooks";

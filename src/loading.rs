//! Installs and removes hooks while nginx reads a configuration.
//!
//! nginx calls `create_conf` of a core module inside `load_module`, before it reads the rest of the
//! configuration. All hooks except the master's are installed there, so that they see what the
//! configuration allocates: pools, shared memory, Lua VMs. Once everything is read, [`settle`]
//! removes the hooks that no location wants. When nginx reads a later configuration, the hooks are
//! as the previous one left them.
//!
//! The module is not pinned until a configuration with a `memstat` location is loaded, so that
//! nginx can unload it. If a configuration fails, the hooks are removed before its `load_module` is
//! undone: cleanups run in reverse order. Code of the module may be on the stack at that time
//! (`ngx_destroy_pool` is hooked), so the module stays mapped until the next configuration is
//! loaded.
//!
//! Invariants for `unsafe`: those of [`crate::nginx`].

use std::ffi::c_void;

use nginx_sys::{ngx_cycle_t, ngx_pool_cleanup_add, ngx_pool_t};

use crate::exchange::asleep;
use crate::hook::pin::{self, ObjectReference};
use crate::hook::refusal::Refusal;
use crate::hook::set::HookSet;
use crate::hook::state::Hooked;
use crate::hook::{lua as lua_hook, pool, slab, sleep, thread};
use crate::lua;
use crate::nginx::global::MainThread;
use crate::nginx::{guard, log, process, zones};
use crate::report::model::{HookState, Hooks};
use crate::sys::status;

static COURSE: MainThread<Course> = MainThread::new(Course {
    cycle: std::ptr::null_mut(),
    early: HookSet::NONE,
    refused: Refused { pool: None, slab: None },
    settled: None,
});

struct Course {
    /// The cycle whose configuration nginx is reading, once hooks were installed for it.
    cycle: *mut ngx_cycle_t,
    /// The hooks that were installed for this cycle.
    early: HookSet,
    /// Why some of these hooks are not in place.
    refused: Refused,
    /// The hooks that the last loaded configuration wants, or `None` if it has no `memstat`
    /// location.
    settled: Option<HookSet>,
}

/// Why hooks are not in place that are tried in a child process first. They are tried once for each
/// configuration.
#[derive(Default)]
struct Refused {
    pool: Option<Refusal>,
    slab: Option<Refusal>,
}

/// Called when nginx loads the module, or begins a configuration with the module linked in.
///
/// # Safety
///
/// `cycle` is the pointer that nginx passed to `create_conf`.
pub unsafe fn begin(cycle: *mut ngx_cycle_t) {
    if !process::will_serve() {
        return;
    }
    slab::loading();
    if COURSE.with(|course| course.settled.is_none()) == Some(true) {
        // SAFETY: nginx passes a valid cycle, by contract (N3).
        unsafe { want(cycle, HookSet::ALL) };
    }
}

/// Installs hooks for a configuration that nginx is reading.
///
/// # Safety
///
/// `cycle` is the cycle whose configuration nginx is reading.
pub unsafe fn want(cycle: *mut ngx_cycle_t, hooks: HookSet) {
    // SAFETY: the cycle is valid by contract (N3).
    if !process::will_serve() || !unsafe { watch(cycle) } {
        return;
    }
    let tried = COURSE.with(|course| {
        course.early = course.early.or(hooks);
        (course.refused.pool.is_some(), course.refused.slab.is_some())
    });
    let Some((pool_tried, slab_tried)) = tried else { return };
    // Errors are ignored or kept here: `settle` reports them.
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

/// Called when all modules are loaded. Modules loaded later may import functions that are hooked,
/// so the hooks on imports are installed again.
pub fn modules_loaded() {
    if process::will_serve() {
        let in_place = COURSE.with(|c| c.early.or(c.settled.unwrap_or(HookSet::NONE)));
        install_imports(in_place.unwrap_or(HookSet::NONE));
    }
}

/// Installs the hooks that replace entries in the loaded objects' import tables.
fn install_imports(hooks: HookSet) {
    if hooks.lua {
        let _ = lua_hook::install();
    }
    if hooks.thread {
        let _ = thread::install();
    }
}

/// Makes nginx call [`given_up`] when it destroys the pool of the cycle. Returns whether that
/// succeeded.
///
/// # Safety
///
/// As for [`want`].
unsafe fn watch(cycle: *mut ngx_cycle_t) -> bool {
    if COURSE.with(|course| course.cycle == cycle) == Some(true) {
        return true;
    }
    // SAFETY: a cycle has its pool from the beginning (N3).
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

/// Adds a cleanup to a pool. Returns whether there was memory for it.
///
/// # Safety
///
/// The pool is valid, and the handler may be called with `data` when the pool is destroyed.
unsafe fn at_end(
    pool: *mut ngx_pool_t,
    handler: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
) -> bool {
    // SAFETY: the pool is valid by contract, and the cleanup lives as long as the pool (N4).
    let Some(cleanup) = (unsafe { ngx_pool_cleanup_add(pool, 0).as_mut() }) else {
        return false;
    };
    cleanup.handler = Some(handler);
    cleanup.data = data;
    true
}

/// Called when nginx destroys the pool of a cycle. If the configuration was not settled, it failed:
/// the hooks become those that the last loaded configuration wanted.
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
        // SAFETY: nginx frees the cycle itself after this cleanup (N3).
        if settled.is_none() && !(is_out && unsafe { stay_for_now(cycle) }) {
            let _ = pin::pin(own_code());
        }
    });
}

/// Keeps the module mapped as long as the configuration lives that remains in force.
///
/// # Safety
///
/// As for [`want`].
unsafe fn stay_for_now(cycle: *mut ngx_cycle_t) -> bool {
    // SAFETY: the previous cycle is alive while nginx creates a cycle (N3).
    let before = unsafe { (*cycle).old_cycle.as_ref() };
    let Some((before, reference)) = before.zip(ObjectReference::of(own_code()).ok()) else {
        return false;
    };
    let (release, handle) = reference.into_parts();
    // SAFETY: the pool is the previous cycle's. Its cleanup releases the handle once, and is code
    // of the C library (N3, N4).
    unsafe { at_end(before.pool, release, handle) }
}

/// Removes hooks. Returns whether no code of the module can be called any more.
fn take_out(hooks: HookSet) -> bool {
    let take =
        |wanted: bool, uninstall: fn() -> Result<(), Refusal>| !wanted || uninstall().is_ok();
    let lua = take(hooks.lua, lua_hook::uninstall);
    let thread = take(hooks.thread, thread::uninstall);
    let pool = take(hooks.pool, pool::uninstall);
    let slab = take(hooks.slab, slab::uninstall);
    let master = take(hooks.master, sleep::uninstall);
    // Another thread may have been created through the hook, or may use a VM.
    let alone = status::own().is_ok_and(|reading| reading.threads == 1);
    lua && thread && pool && slab && master && alone
}

/// Pins the module: it stays in the process for good.
pub fn pin_module() -> Result<(), Refusal> {
    pin::pin(own_code())
}

fn own_code() -> *const c_void {
    begin as *const () as *const c_void
}

/// Called when a configuration without a `memstat` location is loaded: it wants no hooks.
pub fn withdraw() {
    settled(None);
    if !take_out(HookSet::ALL) {
        let _ = pin_module();
    }
}

/// Marks the configuration as loaded. Returns why hooks that were tried for it are not in place.
fn settled(wanted: Option<HookSet>) -> Refused {
    let refused = COURSE.with(|course| {
        course.cycle = std::ptr::null_mut();
        course.early = HookSet::NONE;
        course.settled = wanted;
        std::mem::take(&mut course.refused)
    });
    refused.unwrap_or_default()
}

/// Called when a configuration is loaded: installs the hooks that it wants and removes the others.
/// Returns the state of each.
///
/// # Safety
///
/// `cycle` is the pointer that nginx passed to `init_module`, and the module is pinned.
pub unsafe fn settle(cycle: *mut ngx_cycle_t, hooks: HookSet) -> Hooks {
    let Refused { pool, slab } = settled(Some(hooks));
    let lua = if hooks.lua {
        // SAFETY: nginx passes a valid cycle, by contract (N3).
        unsafe { lua::settle(cycle) }
    } else {
        let _ = lua_hook::uninstall();
        not_wanted()
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
) -> HookState {
    if !wanted {
        let _ = uninstall();
        return not_wanted();
    }
    let installed = install();
    if let Err(refusal) = &installed {
        log::warn(&format!("memstat: no hook on {what}: {refusal}"));
    }
    HookState::from(&Hooked::from(&installed))
}

fn not_wanted() -> HookState {
    HookState::Off("not among memstat_hooks".to_owned())
}

//! The hook on Lua VMs: gives each VM an allocator that counts, from its creation to its end.
//!
//! A VM is created by `luaL_newstate` or `lua_newstate` and ended by `lua_close`. The calls that
//! objects make to these functions go through here. The allocator of a new VM is wrapped with
//! `lua_setallocf`. Before a VM ends it gets its own allocator back, because LuaJIT frees the whole
//! arena only if the VM has LuaJIT's own allocator.
//!
//! [`adopt`] takes over a VM that was created before the hook, or by a call that the hook cannot
//! see (when LuaJIT is linked into the executable).
//!
//! What the unsafe code below relies on:
//!
//! 1. The replacements have the types of their functions, and get valid arguments.
//! 2. `NEW`, `NEW_STATE` and `CLOSE` are null or hold the functions that the slots held before.
//!    They are set before the first slot changes.
//! 3. A VM that a place in [`vm`] shows as live is alive: [`close`] removes it before it ends, and
//!    a VM whose end is not announced removes itself when it frees its last block.
//! 4. [`install`], [`uninstall`] and [`adopt`] run while the process reads its configuration, when
//!    no Lua code runs. They leave VMs alone that other threads may be using.
//! 5. Nothing here can unwind.

use std::ffi::{c_void, CStr};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::arch::lua::{memstat_lua_new, memstat_lua_new_state};
use super::got::{self, Patched};
use super::pin::pin;
use super::refusal::Refusal;
use super::state::Hooked;
use crate::abi::luajit::Footprint;
use crate::report::model::lua::Subsystem;
use crate::sys::elf::{objects, LoadedObject};
use crate::sys::memory::OwnMemory;
use crate::sys::symbol;
use crate::tally::lua::EndedVms;

use api::{Api, LuaAlloc, LuaState};
use vm::{Birth, Vm};

mod alloc;
pub(super) mod api;
mod caller;
mod directs;
mod reading;
mod vm;

pub use reading::{read, Heap, KnownVms, VmReading};

type New = unsafe extern "C" fn() -> LuaState;
type NewState = unsafe extern "C" fn(Option<LuaAlloc>, *mut c_void) -> LuaState;
type Close = unsafe extern "C" fn(LuaState);

/// The original functions, to which the slots led.
static NEW: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static NEW_STATE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static CLOSE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

static ENDED: [EndedVms; 3] = [const { EndedVms::new() }; 3];
/// The number of VMs that ended with a count of bytes that differed from Lua's own.
static MISCOUNTED: AtomicU64 = AtomicU64::new(0);
/// The number of VMs that could not be wrapped for lack of memory.
static UNWRAPPED: AtomicU64 = AtomicU64::new(0);

/// Whether the hook sees the creation of every VM.
static ALL_SEEN: AtomicBool = AtomicBool::new(true);

static STATE: Mutex<Hooked> = Mutex::new(Hooked::NotInstalled);

/// Hooks all loaded objects that create or end VMs. May be called again after objects were loaded.
///
/// Call it while the process reads its configuration, with the module pinned (see [`super::pin`]).
pub fn install() -> Result<(), Refusal> {
    let result = hook_all();
    ALL_SEEN.store(result.is_ok(), Ordering::Relaxed);
    set_state(Hooked::from(&result));
    result
}

/// Returns whether the hook is in place, as of the last [`install`] or [`adopt`].
pub fn state() -> Hooked {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Returns whether every VM is known: no Lua is loaded, or the hook is in place.
pub fn sees_all() -> bool {
    matches!(state(), Hooked::On | Hooked::Off(Refusal::NoLua))
}

fn set_state(state: Hooked) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = state;
}

/// Returns each hooked function with its replacement and the variable for the original.
fn hooks() -> [(&'static CStr, *const c_void, &'static AtomicPtr<c_void>); 3] {
    [
        (c"lua_close", close as Close as *const c_void, &CLOSE),
        (c"lua_newstate", memstat_lua_new_state as NewState as *const c_void, &NEW_STATE),
        (c"luaL_newstate", memstat_lua_new as New as *const c_void, &NEW),
    ]
}

fn hook_all() -> Result<(), Refusal> {
    Api::find()?;
    caller::forget();
    let objects = objects();
    let mut made = Ok(());
    for (name, replacement, original) in hooks() {
        let definition = symbol::address(name).unwrap_or(0);
        // The library's own calls are left alone: its luaL_newstate calls lua_newstate for a VM
        // that is wrapped anyway, and its os.exit may end a VM together with the process.
        let wanted = |object: &&LoadedObject| {
            !object.contains(replacement as usize) && !object.contains(definition)
        };
        // SAFETY: the list of objects is current, and no other thread loads any while the process
        // reads its configuration (4). The replacements have the types of the functions (1), and
        // each variable is used for one function only (2).
        let patched =
            unsafe { got::patch(objects.iter().filter(wanted), name, replacement, original) }?;
        match name.to_bytes() {
            // A VM whose end the hook does not see must not be wrapped.
            b"lua_close" => closes(&patched)?,
            b"luaL_newstate" if !patched.any() => {
                patched.complete()?;
                made = Err(Refusal::NotImported { symbol: "luaL_newstate".to_owned() });
            }
            _ => patched.complete()?,
        }
    }
    made
}

/// Pins the Lua library, because the hook keeps the addresses of its functions.
pub fn keep() -> Result<(), Refusal> {
    let definitions = hooks().into_iter().filter_map(|(name, ..)| symbol::address(name));
    definitions.into_iter().try_for_each(|definition| pin(definition as *const c_void))
}

fn closes(patched: &Patched) -> Result<(), Refusal> {
    patched.complete()?;
    if patched.any() {
        return Ok(());
    }
    Err(Refusal::NotImported { symbol: "lua_close".to_owned() })
}

/// Removes the hook, and gives the VMs their own allocators back. If the process has other threads,
/// the VMs that these may be using stay wrapped until they end, and `lua_close` stays hooked for
/// them.
///
/// Call it while the process reads its configuration.
pub fn uninstall() -> Result<(), Refusal> {
    let alone = crate::sys::status::own().is_ok_and(|reading| reading.threads == 1);
    let mut left = false;
    for vm in vm::all().filter(|vm| vm.is_live()) {
        if alone || vm.is_main() {
            release(vm);
        } else {
            left = true;
        }
    }
    for (name, replacement, original) in hooks() {
        let original = original.load(Ordering::Acquire);
        if original.is_null() || (left && name == c"lua_close") {
            continue;
        }
        // SAFETY: the list of objects is current (4), and `patch` found the original (2).
        unsafe { got::restore(&objects(), name, replacement, original) }?.complete()?;
    }
    if !left {
        // Nobody calls the replacements any more, and the library may be unloaded.
        hooks().iter().for_each(|(.., original)| {
            original.store(std::ptr::null_mut(), Ordering::Release);
        });
    }
    set_state(Hooked::NotInstalled);
    Ok(())
}

/// Gives a VM its own allocator back, and frees its place.
fn release(vm: &Vm) {
    if let (Some(api), (Some(alloc), data)) = (Api::get(), vm.original()) {
        // SAFETY: the VM is alive (3), nobody uses it now (4), and its own allocator `alloc`
        // allocated all of its blocks (3).
        unsafe { api.set_alloc(vm.lua(), alloc, data) };
    }
    vm.end();
}

/// Returns whether a VM is wrapped.
///
/// # Safety
///
/// `lua` is a VM that is alive and used only by this thread.
pub unsafe fn is_known(lua: *mut c_void) -> bool {
    Api::get().is_some_and(|api| {
        // SAFETY: the VM is alive and this thread's, by contract (3).
        let (alloc, data) = unsafe { api.alloc(lua) };
        vm::of(alloc, data).is_some()
    })
}

/// Takes over a cycle's own VM: wraps it unless it is wrapped, and marks it as the cycle's own.
/// `directs` returns the direct mappings that it has so far; `None` if they are unknown.
///
/// # Safety
///
/// `lua` is a VM that is alive and used only by this thread.
pub unsafe fn adopt(
    lua: *mut c_void,
    subsystem: Subsystem,
    directs: impl FnOnce() -> Option<Vec<Range<usize>>>,
) -> Result<(), Refusal> {
    let api = Api::find()?;
    // SAFETY: the VM is alive and this thread's, by contract (3).
    let (alloc, data) = unsafe { api.alloc(lua) };
    let wrapped = match vm::of(alloc, data) {
        Some(vm) => Some(vm),
        // SAFETY: the VM is alive and this thread's, by contract (3).
        None => unsafe { wrap(api, lua, subsystem, directs) },
    };
    if let Some(vm) = wrapped {
        vm.set_subsystem(subsystem);
        vm.set_main();
        set_state(Hooked::On);
    }
    Ok(())
}

/// Must be called before the end of a VM if [`close`] will not see it: gives the VM its own
/// allocator back.
///
/// # Safety
///
/// As for [`adopt`].
pub unsafe fn end(lua: *mut c_void) {
    if let Some(vm) = vm::all().find(|vm| vm.is_live() && vm.lua() == lua) {
        before_end(vm);
    }
}

/// Wraps the allocator of a VM.
///
/// # Safety
///
/// The VM is alive and used only by this thread.
unsafe fn wrap(
    api: &Api,
    lua: LuaState,
    subsystem: Subsystem,
    directs: impl FnOnce() -> Option<Vec<Range<usize>>>,
) -> Option<&'static Vm> {
    // SAFETY: the VM is alive and this thread's, by contract (3).
    let (alloc, data) = unsafe { api.alloc(lua) };
    let alloc = alloc?;
    let Some(vm) = Vm::claim() else {
        UNWRAPPED.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    // SAFETY: the VM is alive and this thread's, by contract (3).
    let live = unsafe { api.count(lua) };
    let heap = Footprint::read(&OwnMemory, data as usize, reading::SEGMENTS)
        .and_then(|heap| heap.verify(&OwnMemory, lua as usize));
    let birth = match heap {
        Ok(walk) => Birth {
            live,
            blocks: Some((walk.blocks, walk.used)),
            state: walk.holding,
            // The chunks and direct mappings together hold at least the bytes that Lua counts.
            directs: directs().filter(|directs| {
                let direct: u64 = directs.iter().map(|range| range.len() as u64).sum();
                walk.used.saturating_add(direct) >= live
            }),
        },
        Err(_) => Birth { live, ..Birth::default() },
    };
    let ours = vm.begin(lua, (alloc, data), birth);
    vm.show(subsystem);
    // SAFETY: the VM is alive and this thread's, by contract, and our allocator passes every call
    // on to the VM's own allocator (3).
    unsafe { api.set_alloc(lua, ours, std::ptr::from_ref(vm).cast_mut().cast()) };
    Some(vm)
}

/// Adds the figures of a VM that ends to the sums, and gives it its own allocator back.
fn before_end(vm: &Vm) {
    let Some(api) = Api::get() else { return };
    // SAFETY: the VM is alive, and this thread ends it (3).
    if unsafe { api.count(vm.lua()) } != vm.tally.live() {
        MISCOUNTED.fetch_add(1, Ordering::Relaxed);
    }
    account(vm);
    release(vm);
}

/// Handles the end of a VM that has freed its last block: adds its figures to the sums, and frees
/// its place.
fn finish(vm: &Vm) {
    account(vm);
    vm.end();
}

fn account(vm: &Vm) {
    let place = Subsystem::ALL.iter().position(|subsystem| *subsystem == vm.subsystem());
    if let Some(ended) = place.and_then(|place| ENDED.get(place)) {
        ended.add(&vm.tally.figures().ended());
    }
}

/// Replaces `luaL_newstate`.
pub(super) unsafe extern "C" fn new(caller: usize) -> LuaState {
    let real = NEW.load(Ordering::Acquire);
    if real.is_null() {
        // Not reachable (2).
        return std::ptr::null_mut();
    }
    // SAFETY: `NEW` holds the original function, which has this type (2).
    let real = unsafe { std::mem::transmute::<*mut c_void, New>(real) };
    // SAFETY: the function takes no arguments (1).
    let lua = unsafe { real() };
    // SAFETY: the VM is null, or new and this thread's (1).
    unsafe { born(lua, caller) }
}

/// Replaces `lua_newstate`.
pub(super) unsafe extern "C" fn new_state(
    alloc: Option<LuaAlloc>,
    data: *mut c_void,
    caller: usize,
) -> LuaState {
    let real = NEW_STATE.load(Ordering::Acquire);
    if real.is_null() {
        // Not reachable (2).
        return std::ptr::null_mut();
    }
    // SAFETY: `NEW_STATE` holds the original function, which has this type (2).
    let real = unsafe { std::mem::transmute::<*mut c_void, NewState>(real) };
    // SAFETY: these are the caller's arguments (1).
    let lua = unsafe { real(alloc, data) };
    // SAFETY: the VM is null, or new and this thread's (1).
    unsafe { born(lua, caller) }
}

/// Wraps a VM that was just created by a call that returns to address `caller`.
///
/// # Safety
///
/// `lua` is null, or a VM that is alive and used only by this thread.
unsafe fn born(lua: LuaState, caller: usize) -> LuaState {
    if let Some(api) = Api::get().filter(|_| !lua.is_null()) {
        let subsystem = caller::subsystem(caller);
        // A new VM is too small to have a direct mapping.
        // SAFETY: the VM is alive and this thread's, by contract (3).
        super::errno::keep_errno(|| unsafe { wrap(api, lua, subsystem, || Some(Vec::new())) });
    }
    lua
}

/// Replaces `lua_close`.
unsafe extern "C" fn close(lua: LuaState) {
    if let Some(api) = Api::get().filter(|_| !lua.is_null()) {
        // SAFETY: the VM is alive, and this thread ends it (1).
        let (alloc, data) = unsafe { api.alloc(lua) };
        if let Some(vm) = vm::of(alloc, data) {
            before_end(vm);
        }
    }
    let real = CLOSE.load(Ordering::Acquire);
    if real.is_null() {
        // Not reachable (2).
        return;
    }
    // SAFETY: `CLOSE` holds the original function, which has this type (2).
    let real = unsafe { std::mem::transmute::<*mut c_void, Close>(real) };
    // SAFETY: this is the caller's argument (1).
    unsafe { real(lua) }
}

#[cfg(test)]
mod tests;

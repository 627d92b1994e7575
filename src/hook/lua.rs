//! The hook on Lua VMs: each gets an allocator that counts, from its birth to its end.
//!
//! A VM is made by `luaL_newstate` or `lua_newstate` and ended by `lua_close`. What objects call for
//! these goes through here: a new VM's allocator is wrapped by `lua_setallocf`, and before a VM ends
//! it gets its own back, since LuaJIT frees the whole arena only of its own allocator.
//!
//! A VM that was there before, or was made by a call that cannot be seen (with LuaJIT linked into
//! the executable), is taken over by [`adopt`].
//!
//! What the unsafe code below relies on:
//!
//! 1. The functions that stand in have the types of those they stand for, and get arguments good
//!    for them.
//! 2. `NEW`, `NEW_STATE` and `CLOSE` are null or what the slots held before. They are set before
//!    the first slot changes.
//! 3. A VM that a place in [`vm`] shows as live is alive: [`close`] takes it off before it ends, and
//!    one that ends unseen takes itself off with its last block.
//! 4. [`install`], [`uninstall`] and [`adopt`] run while the process reads its configuration, with
//!    no Lua running, and where VMs are used by other threads, those are left alone.
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
use crate::sys::memory::Own;
use crate::sys::symbol;
use crate::tally::lua::Ended;

use api::{Alloc, Api, Lua};
use vm::{Birth, Vm};

mod alloc;
pub(super) mod api;
mod caller;
mod directs;
mod reading;
mod vm;

pub use reading::{read, Heap, Reading, VmReading};

type New = unsafe extern "C" fn() -> Lua;
type NewState = unsafe extern "C" fn(Option<Alloc>, *mut c_void) -> Lua;
type Close = unsafe extern "C" fn(Lua);

/// The functions behind the slots.
static NEW: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static NEW_STATE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static CLOSE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

static ENDED: [Ended; 3] = [const { Ended::new() }; 3];
/// VMs whose count was not Lua's own when they ended.
static MISCOUNTED: AtomicU64 = AtomicU64::new(0);
/// VMs that could not be wrapped, for want of memory.
static UNWRAPPED: AtomicU64 = AtomicU64::new(0);

/// Whether the making of every VM is seen.
static ALL_SEEN: AtomicBool = AtomicBool::new(true);

static STATE: Mutex<Hooked> = Mutex::new(Hooked::NotInstalled);

/// Hooks all loaded objects that make or end VMs. May be called again, after objects were loaded.
///
/// Call it while the process reads its configuration, with the module pinned (see [`super::pin`]).
pub fn install() -> Result<(), Refusal> {
    let result = hook_all();
    ALL_SEEN.store(result.is_ok(), Ordering::Relaxed);
    set_state(Hooked::from(&result));
    result
}

/// Whether the hook is in place, after the last [`install`] or [`adopt`].
pub fn state() -> Hooked {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Whether no VM can be there that is not known: there is no Lua, or the hook is in place.
pub fn sees_all() -> bool {
    matches!(state(), Hooked::On | Hooked::Off(Refusal::NoLua))
}

fn set_state(state: Hooked) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = state;
}

/// What stands in for what.
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
        // The library's own calls are left alone: its luaL_newstate calls lua_newstate, for a VM
        // that is wrapped anyway, and its os.exit may end one, with the process.
        let wanted = |object: &&LoadedObject| {
            !object.contains(replacement as usize) && !object.contains(definition)
        };
        // SAFETY: the objects are from now, and no other thread loads any while the process reads
        // its configuration; the replacements have the types of the functions (1), and each
        // pointer is for its own (2).
        let patched =
            unsafe { got::patch(objects.iter().filter(wanted), name, replacement, original) }?;
        match name.to_bytes() {
            // A VM whose end is not seen must not be wrapped.
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

/// Keeps the library in the process for good, as the hook keeps the addresses of its functions.
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

/// Takes the hook out, and gives the VMs their own allocators back. Where the process has other
/// threads, those VMs that they may be using stay wrapped until they end, and so does the hook on that.
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
        // SAFETY: the objects are from now; `patch` found the original (2).
        unsafe { got::restore(&objects(), name, replacement, original) }?.complete()?;
    }
    if !left {
        // Nobody calls the stand-ins any more, and the library may go.
        hooks().iter().for_each(|(.., original)| {
            original.store(std::ptr::null_mut(), Ordering::Release);
        });
    }
    set_state(Hooked::NotInstalled);
    Ok(())
}

/// Gives a VM its own allocator back, and its place to others.
fn release(vm: &Vm) {
    if let (Some(api), (Some(alloc), data)) = (Api::get(), vm.original()) {
        // SAFETY: alive (3) and nobody uses it now (4); `alloc` gave all that it has.
        unsafe { api.set_alloc(vm.lua(), alloc, data) };
    }
    vm.end();
}

/// Whether a VM is wrapped.
///
/// # Safety
///
/// `lua` is a VM that is alive and used by this thread only.
pub unsafe fn is_known(lua: *mut c_void) -> bool {
    Api::get().is_some_and(|api| {
        // SAFETY: the caller's contract.
        let (alloc, data) = unsafe { api.alloc(lua) };
        vm::of(alloc, data).is_some()
    })
}

/// Takes a cycle's own VM over: wraps it, if it is not yet, and knows it for what it is. `directs`
/// are its direct mappings so far; `None` when they are not known.
///
/// # Safety
///
/// `lua` is a VM that is alive and used by this thread only.
pub unsafe fn adopt(
    lua: *mut c_void,
    subsystem: Subsystem,
    directs: impl FnOnce() -> Option<Vec<Range<usize>>>,
) -> Result<(), Refusal> {
    let api = Api::find()?;
    // SAFETY: the caller's contract.
    let (alloc, data) = unsafe { api.alloc(lua) };
    let wrapped = match vm::of(alloc, data) {
        Some(vm) => Some(vm),
        // SAFETY: the caller's contract.
        None => unsafe { wrap(api, lua, subsystem, directs) },
    };
    if let Some(vm) = wrapped {
        vm.set_subsystem(subsystem);
        vm.set_main();
        set_state(Hooked::On);
    }
    Ok(())
}

/// Before a VM ends that [`close`] will not see the end of: gives it its own allocator back.
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
/// The VM is alive and used by this thread.
unsafe fn wrap(
    api: &Api,
    lua: Lua,
    subsystem: Subsystem,
    directs: impl FnOnce() -> Option<Vec<Range<usize>>>,
) -> Option<&'static Vm> {
    // SAFETY: the caller's contract.
    let (alloc, data) = unsafe { api.alloc(lua) };
    let alloc = alloc?;
    let Some(vm) = Vm::claim() else {
        UNWRAPPED.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    // SAFETY: the caller's contract.
    let live = unsafe { api.count(lua) };
    let heap = Footprint::read(&Own, data as usize, reading::SEGMENTS)
        .and_then(|heap| heap.verify(&Own, lua as usize));
    let birth = match heap {
        Ok(walk) => Birth {
            live,
            blocks: Some((walk.blocks, walk.used)),
            state: walk.holding,
            // What is in the chunks and in direct mappings is at least what Lua counts.
            directs: directs().filter(|directs| {
                let direct: u64 = directs.iter().map(|range| range.len() as u64).sum();
                walk.used.saturating_add(direct) >= live
            }),
        },
        Err(_) => Birth { live, ..Birth::default() },
    };
    let ours = vm.begin(lua, (alloc, data), birth);
    vm.show(subsystem);
    // SAFETY: the caller's contract; ours hands everything on to the one before it.
    unsafe { api.set_alloc(lua, ours, std::ptr::from_ref(vm).cast_mut().cast()) };
    Some(vm)
}

/// Takes the figures of a VM that ends, and gives it its own allocator back.
fn before_end(vm: &Vm) {
    let Some(api) = Api::get() else { return };
    // SAFETY: alive (3), and this thread ends it.
    if unsafe { api.count(vm.lua()) } != vm.tally.live() {
        MISCOUNTED.fetch_add(1, Ordering::Relaxed);
    }
    account(vm);
    release(vm);
}

/// A VM has ended.
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

/// Stands in for `luaL_newstate`.
pub(super) unsafe extern "C" fn new(caller: usize) -> Lua {
    let real = NEW.load(Ordering::Acquire);
    if real.is_null() {
        // Not reachable (2).
        return std::ptr::null_mut();
    }
    // SAFETY: 2.
    let real = unsafe { std::mem::transmute::<*mut c_void, New>(real) };
    // SAFETY: 1.
    let lua = unsafe { real() };
    // SAFETY: new, and this thread's.
    unsafe { born(lua, caller) }
}

/// Stands in for `lua_newstate`.
pub(super) unsafe extern "C" fn new_state(
    alloc: Option<Alloc>,
    data: *mut c_void,
    caller: usize,
) -> Lua {
    let real = NEW_STATE.load(Ordering::Acquire);
    if real.is_null() {
        // Not reachable (2).
        return std::ptr::null_mut();
    }
    // SAFETY: 2.
    let real = unsafe { std::mem::transmute::<*mut c_void, NewState>(real) };
    // SAFETY: 1.
    let lua = unsafe { real(alloc, data) };
    // SAFETY: new, and this thread's.
    unsafe { born(lua, caller) }
}

/// Wraps a VM that was just made.
///
/// # Safety
///
/// `lua` is null or a VM that is alive and used by this thread.
unsafe fn born(lua: Lua, caller: usize) -> Lua {
    if let Some(api) = Api::get().filter(|_| !lua.is_null()) {
        let subsystem = caller::subsystem(caller);
        // So small a VM has no direct mapping.
        // SAFETY: the caller's contract.
        super::errno::keep_errno(|| unsafe { wrap(api, lua, subsystem, || Some(Vec::new())) });
    }
    lua
}

/// Stands in for `lua_close`.
unsafe extern "C" fn close(lua: Lua) {
    if let Some(api) = Api::get().filter(|_| !lua.is_null()) {
        // SAFETY: 1: alive, and this thread ends it.
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
    // SAFETY: 2.
    let real = unsafe { std::mem::transmute::<*mut c_void, Close>(real) };
    // SAFETY: 1.
    unsafe { real(lua) }
}

#[cfg(test)]
mod tests;

//! Finds the Lua VMs of a cycle, by the public functions of the Lua modules.
//!
//! Invariants for `unsafe`: those of [`super`].

use std::ffi::{c_void, CStr};
use std::ptr::addr_of_mut;

use nginx_sys::{ngx_conf_t, ngx_cycle_t, ngx_module_t, ngx_pool_cleanup_t};

use super::guard;
use crate::hook::lua;
use crate::report::model::lua::Subsystem;
use crate::sys::symbol;

/// The Lua VM of a subsystem.
#[derive(Debug, Clone, Copy)]
pub struct GlobalState {
    /// The subsystem that owns the VM.
    pub subsystem: Subsystem,
    /// `lua_State *`.
    pub lua: *mut c_void,
}

/// Returns the Lua VMs of a cycle.
///
/// # Safety
///
/// `cycle` is the pointer that nginx passed to `init_module`: its configuration is read.
pub unsafe fn global_states(cycle: *mut ngx_cycle_t) -> Vec<GlobalState> {
    let known = [
        (
            Subsystem::Http,
            c"ngx_http_module",
            c"ngx_http_lua_module",
            c"ngx_http_lua_get_global_state",
        ),
        (
            Subsystem::Stream,
            c"ngx_stream_module",
            c"ngx_stream_lua_module",
            c"ngx_stream_lua_get_global_state",
        ),
    ];
    // SAFETY: nginx passes a valid cycle (N3).
    let Some(cycle) = (unsafe { cycle.as_mut() }) else {
        return Vec::new();
    };
    let states = known.into_iter().filter_map(|(subsystem, core, module, getter)| {
        let index = module_index(cycle, core)?;
        // A module that only the previous cycle loaded has no VM in this one, but its function is
        // still found.
        module_index(cycle, module)?;
        // SAFETY: nginx has made a place for each core module. It is null if the configuration has
        // no such block (N2).
        let context = unsafe { cycle.conf_ctx.add(index).read() };
        let getter = symbol::address(getter).filter(|_| !context.is_null())?;
        // SAFETY: this is the public function of that module, which declares this type (N5).
        let getter = unsafe {
            std::mem::transmute::<usize, unsafe extern "C" fn(*mut ngx_conf_t) -> *mut c_void>(
                getter,
            )
        };
        let mut conf = ngx_conf_t { ctx: context.cast(), cycle, ..empty_conf() };
        // SAFETY: the function reads the context of its subsystem, which has the module's part
        // because the module belongs to the cycle (N3).
        let lua = unsafe { getter(addr_of_mut!(conf)) };
        (!lua.is_null()).then_some(GlobalState { subsystem, lua })
    });
    states.collect()
}

fn empty_conf() -> ngx_conf_t {
    // SAFETY: a C structure of nginx, for which zeroes are valid (N5).
    unsafe { std::mem::zeroed() }
}

/// Returns the index of a module in the cycle's contexts, if the cycle has the module.
fn module_index(cycle: &ngx_cycle_t, name: &CStr) -> Option<usize> {
    (0..cycle.modules_n).find_map(|i| {
        // SAFETY: `modules` points to `modules_n` pointers (N2).
        let module: &ngx_module_t = unsafe { cycle.modules.add(i).read().as_ref() }?;
        // SAFETY: nginx gave each module its name, a C string (N2).
        let named = !module.name.is_null() && unsafe { CStr::from_ptr(module.name) } == name;
        named.then_some(module.index)
    })
}

/// Makes sure that a VM has its own allocator back before its module closes it. For this it
/// replaces the handler in the cycle's pool that closes the VM by [`clean_up`]. Returns `false` if
/// there is no such handler, or no memory.
///
/// # Safety
///
/// As for [`global_states`]. `state` comes from that function.
pub unsafe fn end_with_cleanup(cycle: *mut ngx_cycle_t, state: GlobalState) -> bool {
    // SAFETY: the cleanups are a list in the cycle's pool (N3, N4).
    let mut cleanup = unsafe { (*(*cycle).pool).cleanup };
    // SAFETY: each entry is null or lies in the cycle's pool (N4).
    while let Some(found) = unsafe { cleanup.as_mut() } {
        if is_of(found, state.lua) {
            // SAFETY: the pool's memory lives as long as the cleanup (N4).
            let place =
                unsafe { nginx_sys::ngx_palloc((*cycle).pool, std::mem::size_of::<Cleanup>()) };
            if place.is_null() {
                return false;
            }
            let place: *mut Cleanup = place.cast();
            let before = Cleanup { handler: found.handler, data: found.data, lua: state.lua };
            // SAFETY: the memory was allocated above for this type (N4).
            unsafe { place.write(before) };
            found.handler = Some(clean_up);
            found.data = place.cast();
            return true;
        }
        cleanup = found.next;
    }
    false
}

/// Returns whether the data of a cleanup begins with the VM, as it does in the Lua modules.
fn is_of(cleanup: &ngx_pool_cleanup_t, lua: *mut c_void) -> bool {
    use crate::sys::memory::{word, Memory, OwnMemory};
    let mut first = [0; 8];
    cleanup.handler.is_some()
        && OwnMemory.read(cleanup.data as usize, &mut first).is_ok()
        && word(&first, 0) == lua as usize
}

/// The original handler and data of a cleanup, and the VM that it closes.
struct Cleanup {
    handler: nginx_sys::ngx_pool_cleanup_pt,
    data: *mut c_void,
    lua: *mut c_void,
}

unsafe extern "C" fn clean_up(data: *mut c_void) {
    // SAFETY: `end_with_cleanup` wrote this value, which lives as long as the pool (N4).
    let before = unsafe { &*data.cast::<Cleanup>() };
    // SAFETY: the VM is alive. The original handler closes it below, on this thread (N1).
    guard((), || unsafe { lua::end(before.lua) });
    if let Some(handler) = before.handler {
        // SAFETY: the handler gets the data that its module gave it (N4).
        unsafe { handler(before.data) };
    }
}

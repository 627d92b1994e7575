//! The Lua VMs that modules keep for a cycle, as those modules tell.

use std::ffi::{c_void, CStr};
use std::ptr::addr_of_mut;

use nginx_sys::{ngx_conf_t, ngx_cycle_t, ngx_module_t, ngx_pool_cleanup_t};

use super::guard;
use crate::hook::lua;
use crate::report::model::lua::Subsystem;
use crate::sys::symbol;

/// The VM of a subsystem.
#[derive(Debug, Clone, Copy)]
pub struct GlobalState {
    /// Whose it is.
    pub subsystem: Subsystem,
    /// `lua_State *`.
    pub lua: *mut c_void,
}

/// The VMs of a cycle.
///
/// # Safety
///
/// `cycle` is what nginx handed to `init_module`: its configuration is read.
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
    // SAFETY: N3.
    let Some(cycle) = (unsafe { cycle.as_mut() }) else {
        return Vec::new();
    };
    let states = known.into_iter().filter_map(|(subsystem, core, module, getter)| {
        let index = module_index(cycle, core)?;
        // One that the cycle before has loaded has no part in this one, but its function is there.
        module_index(cycle, module)?;
        // SAFETY: N2: nginx has made a place for each core module; it is null when there is no
        // such block in the configuration.
        let context = unsafe { cycle.conf_ctx.add(index).read() };
        let getter = symbol::address(getter).filter(|_| !context.is_null())?;
        // SAFETY: the public function of that module, of this type.
        let getter = unsafe {
            std::mem::transmute::<usize, unsafe extern "C" fn(*mut ngx_conf_t) -> *mut c_void>(
                getter,
            )
        };
        let mut conf = ngx_conf_t { ctx: context.cast(), cycle, ..empty_conf() };
        // SAFETY: it reads the context of its subsystem, in which it has its own part, as it is a module
        // of the cycle.
        let lua = unsafe { getter(addr_of_mut!(conf)) };
        (!lua.is_null()).then_some(GlobalState { subsystem, lua })
    });
    states.collect()
}

fn empty_conf() -> ngx_conf_t {
    // SAFETY: pointers, numbers, and an optional function: zero is valid for each.
    unsafe { std::mem::zeroed() }
}

/// The place in the cycle's contexts of a module that the cycle has.
fn module_index(cycle: &ngx_cycle_t, name: &CStr) -> Option<usize> {
    (0..cycle.modules_n).find_map(|i| {
        // SAFETY: N2: an array of as many modules.
        let module: &ngx_module_t = unsafe { cycle.modules.add(i).read().as_ref() }?;
        // SAFETY: N2: nginx has named its modules.
        let named = !module.name.is_null() && unsafe { CStr::from_ptr(module.name) } == name;
        named.then_some(module.index)
    })
}

/// Has a VM given its own allocator back before its module ends it, by going in front of the cleanup
/// of the cycle's pool that does so.
///
/// # Safety
///
/// As for [`global_states`], and `state` is from there.
pub unsafe fn end_with_cleanup(cycle: *mut ngx_cycle_t, state: GlobalState) -> bool {
    // SAFETY: N3, N4: a list in the cycle's pool.
    let mut cleanup = unsafe { (*(*cycle).pool).cleanup };
    // SAFETY: as above.
    while let Some(found) = unsafe { cleanup.as_mut() } {
        if is_of(found, state.lua) {
            // SAFETY: N4: the pool's memory lives as long as the cleanup.
            let place =
                unsafe { nginx_sys::ngx_palloc((*cycle).pool, std::mem::size_of::<Cleanup>()) };
            if place.is_null() {
                return false;
            }
            let place: *mut Cleanup = place.cast();
            let before = Cleanup { handler: found.handler, data: found.data, lua: state.lua };
            // SAFETY: allocated above for this type.
            unsafe { place.write(before) };
            found.handler = Some(clean_up);
            found.data = place.cast();
            return true;
        }
        cleanup = found.next;
    }
    false
}

/// Whether the data of a cleanup begins with the VM, as that of the Lua modules does.
fn is_of(cleanup: &ngx_pool_cleanup_t, lua: *mut c_void) -> bool {
    use crate::sys::memory::{word, Memory, Own};
    let mut first = [0; 8];
    cleanup.handler.is_some()
        && Own.read(cleanup.data as usize, &mut first).is_ok()
        && word(&first, 0) == lua as usize
}

/// A cleanup, and the VM that it ends.
struct Cleanup {
    handler: nginx_sys::ngx_pool_cleanup_pt,
    data: *mut c_void,
    lua: *mut c_void,
}

unsafe extern "C" fn clean_up(data: *mut c_void) {
    // SAFETY: `end_with_cleanup` put it there.
    let before = unsafe { &*data.cast::<Cleanup>() };
    // SAFETY: the VM is alive, and ended right after this, on this thread.
    guard((), || unsafe { lua::end(before.lua) });
    if let Some(handler) = before.handler {
        // SAFETY: its own data.
        unsafe { handler(before.data) };
    }
}

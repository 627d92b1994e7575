//! The part of Lua's C interface that the hook needs. It is found when a Lua library is loaded in
//! the process.
//!
//! The declarations are those of `lua.h` of Lua 5.1, which LuaJIT keeps as its stable binary
//! interface. They are written out here so that the module can be built where no Lua is installed.
//!
//! What the unsafe code below relies on:
//!
//! 1. A symbol with the name of a Lua function is that function, because nginx's modules could not
//!    use it otherwise. It has the type that `lua.h` declares.
//! 2. The object that contains a function is pinned before its address is kept, so the address
//!    stays valid as long as the process lives.

use std::ffi::{c_int, c_void, CStr};
use std::sync::OnceLock;

use crate::hook::pin::pin;
use crate::hook::refusal::Refusal;
use crate::report::model::lua::Gc;

/// `lua_State *`.
pub type LuaState = *mut c_void;

/// `lua_Alloc`: takes the data, the block, its size, and the requested size, in bytes.
pub type LuaAlloc = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, usize) -> *mut c_void;

type GetAlloc = unsafe extern "C" fn(LuaState, *mut *mut c_void) -> Option<LuaAlloc>;
type SetAlloc = unsafe extern "C" fn(LuaState, Option<LuaAlloc>, *mut c_void);
type Collect = unsafe extern "C" fn(LuaState, c_int, c_int) -> c_int;

const COUNT: c_int = 3;
const COUNT_BYTES: c_int = 4;
const SET_PAUSE: c_int = 6;
const SET_STEPMUL: c_int = 7;
const IS_RUNNING: c_int = 9;

/// The functions of Lua that the hook calls.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    get_alloc: GetAlloc,
    set_alloc: SetAlloc,
    collect: Collect,
}

static API: OnceLock<Api> = OnceLock::new();

impl Api {
    /// Returns the functions, if they were found.
    pub fn get() -> Option<&'static Api> {
        API.get()
    }

    /// Finds the functions and keeps their library in the process.
    pub fn find() -> Result<&'static Api, Refusal> {
        if let Some(api) = API.get() {
            return Ok(api);
        }
        let get_alloc = symbol(c"lua_getallocf")?;
        let set_alloc = symbol(c"lua_setallocf")?;
        let collect = symbol(c"lua_gc")?;
        for function in [get_alloc, set_alloc, collect, symbol(c"lua_close")?] {
            pin(function)?;
        }
        // SAFETY: the functions have these types (1), and stay loaded (2).
        let api = unsafe {
            Api {
                get_alloc: std::mem::transmute::<*const c_void, GetAlloc>(get_alloc),
                set_alloc: std::mem::transmute::<*const c_void, SetAlloc>(set_alloc),
                collect: std::mem::transmute::<*const c_void, Collect>(collect),
            }
        };
        Ok(API.get_or_init(|| api))
    }

    /// Returns the allocator of a VM, and its data.
    ///
    /// # Safety
    ///
    /// The VM is alive and used only by this thread.
    pub unsafe fn alloc(&self, lua: LuaState) -> (Option<LuaAlloc>, *mut c_void) {
        let mut data = std::ptr::null_mut();
        // SAFETY: the VM is alive and this thread's, by contract, and the function has this type
        // (1).
        let alloc = unsafe { (self.get_alloc)(lua, &mut data) };
        (alloc, data)
    }

    /// Sets the allocator of a VM, and its data.
    ///
    /// # Safety
    ///
    /// As for [`Api::alloc`]. The new allocator can also free and resize the blocks of the one
    /// before it.
    pub unsafe fn set_alloc(&self, lua: LuaState, alloc: LuaAlloc, data: *mut c_void) {
        // SAFETY: the VM is alive and this thread's, by contract, and the function has this type
        // (1).
        unsafe { (self.set_alloc)(lua, Some(alloc), data) }
    }

    /// Returns the number of bytes that the VM counts.
    ///
    /// # Safety
    ///
    /// As for [`Api::alloc`].
    pub unsafe fn count(&self, lua: LuaState) -> u64 {
        // SAFETY: the VM is alive and this thread's, by contract, and the calls only read two
        // numbers (1).
        let (kib, bytes) =
            unsafe { ((self.collect)(lua, COUNT, 0), (self.collect)(lua, COUNT_BYTES, 0)) };
        // The first number is a C int: in a VM of a terabyte or more its sign is part of the
        // number.
        u64::from(kib as u32) * 1024 + u64::from(bytes as u32)
    }

    /// Returns the state of the VM's garbage collector. Lua returns a parameter only when it is
    /// set, so each parameter gets another value for a moment, in which no Lua code runs.
    ///
    /// # Safety
    ///
    /// As for [`Api::alloc`].
    pub unsafe fn gc(&self, lua: LuaState) -> Gc {
        let exchange = |what: c_int, usual: c_int| {
            // SAFETY: the VM is alive and this thread's, by contract; the calls exchange a number
            // and restore it (1).
            unsafe {
                let value = (self.collect)(lua, what, usual);
                (self.collect)(lua, what, value);
                value
            }
        };
        let (pause, stepmul) = (exchange(SET_PAUSE, 200), exchange(SET_STEPMUL, 200));
        // SAFETY: the VM is alive and this thread's, by contract. The call reads a number, which is
        // -1 if Lua does not know the request (1).
        let running = match unsafe { (self.collect)(lua, IS_RUNNING, 0) } {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        // LuaJIT treats them as unsigned numbers.
        let (pause, stepmul) = (Some((pause as u32).into()), Some((stepmul as u32).into()));
        Gc { running, pause, stepmul, gc64: None, limit_bytes: None }
    }
}

fn symbol(name: &CStr) -> Result<*const c_void, Refusal> {
    // SAFETY: the lookup has no effect, and the name ends in NUL (1).
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found.cast_const()).ok_or(Refusal::NoLua)
}

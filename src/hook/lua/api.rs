//! Lua's C interface, as far as the hook needs it: found when a Lua library is in the process.
//!
//! The declarations are those of Lua 5.1's `lua.h`, which LuaJIT keeps for good as its binary
//! interface. They are written out, so that the module builds where no Lua is installed.
//!
//! What the unsafe code below relies on:
//!
//! 1. A symbol of Lua's name is Lua's: nginx's modules could not use it otherwise. It has the type
//!    that `lua.h` gives it.
//! 2. Its object is pinned before it is kept, so it stays good for as long as the process lives.

use std::ffi::{c_int, c_void, CStr};
use std::sync::OnceLock;

use crate::hook::pin::pin;
use crate::hook::refusal::Refusal;
use crate::report::model::lua::Gc;

/// `lua_State *`.
pub type Lua = *mut c_void;

/// `lua_Alloc`: the data, the block, its size, the size wanted.
pub type Alloc = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, usize) -> *mut c_void;

type GetAlloc = unsafe extern "C" fn(Lua, *mut *mut c_void) -> Option<Alloc>;
type SetAlloc = unsafe extern "C" fn(Lua, Option<Alloc>, *mut c_void);
type Collect = unsafe extern "C" fn(Lua, c_int, c_int) -> c_int;

const COUNT: c_int = 3;
const COUNT_BYTES: c_int = 4;
const SET_PAUSE: c_int = 6;
const SET_STEPMUL: c_int = 7;
const IS_RUNNING: c_int = 9;

/// The functions.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    get_alloc: GetAlloc,
    set_alloc: SetAlloc,
    collect: Collect,
}

static API: OnceLock<Api> = OnceLock::new();

impl Api {
    /// The functions, if they were found.
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
        // SAFETY: 1 and 2.
        let api = unsafe {
            Api {
                get_alloc: std::mem::transmute::<*const c_void, GetAlloc>(get_alloc),
                set_alloc: std::mem::transmute::<*const c_void, SetAlloc>(set_alloc),
                collect: std::mem::transmute::<*const c_void, Collect>(collect),
            }
        };
        Ok(API.get_or_init(|| api))
    }

    /// The allocator of a VM, and its data.
    ///
    /// # Safety
    ///
    /// The VM is alive, and this thread's.
    pub unsafe fn alloc(&self, lua: Lua) -> (Option<Alloc>, *mut c_void) {
        let mut data = std::ptr::null_mut();
        // SAFETY: the caller's contract; 1.
        let alloc = unsafe { (self.get_alloc)(lua, &mut data) };
        (alloc, data)
    }

    /// Sets the allocator of a VM, and its data.
    ///
    /// # Safety
    ///
    /// As for [`Api::alloc`]; and the allocator can take back what the one before it gave.
    pub unsafe fn set_alloc(&self, lua: Lua, alloc: Alloc, data: *mut c_void) {
        // SAFETY: the caller's contract; 1.
        unsafe { (self.set_alloc)(lua, Some(alloc), data) }
    }

    /// Bytes that the VM counts.
    ///
    /// # Safety
    ///
    /// As for [`Api::alloc`].
    pub unsafe fn count(&self, lua: Lua) -> u64 {
        // SAFETY: the caller's contract; 1. Reads two numbers.
        let (kib, bytes) =
            unsafe { ((self.collect)(lua, COUNT, 0), (self.collect)(lua, COUNT_BYTES, 0)) };
        // The first is a C int: of a VM of a terabyte and more its sign is a digit.
        u64::from(kib as u32) * 1024 + u64::from(bytes as u32)
    }

    /// The state of its garbage collector. Lua tells the parameters only when they are set: they
    /// get another value for a moment, in which nothing runs.
    ///
    /// # Safety
    ///
    /// As for [`Api::alloc`].
    pub unsafe fn gc(&self, lua: Lua) -> Gc {
        let exchange = |what: c_int, usual: c_int| {
            // SAFETY: the caller's contract; 1. Exchanges a number, and puts it back.
            unsafe {
                let value = (self.collect)(lua, what, usual);
                (self.collect)(lua, what, value);
                value
            }
        };
        let (pause, stepmul) = (exchange(SET_PAUSE, 200), exchange(SET_STEPMUL, 200));
        // SAFETY: the caller's contract; 1. Reads a number; -1 where Lua does not know the question.
        let running = match unsafe { (self.collect)(lua, IS_RUNNING, 0) } {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        // Unsigned numbers to LuaJIT.
        let (pause, stepmul) = (Some((pause as u32).into()), Some((stepmul as u32).into()));
        Gc { running, pause, stepmul, gc64: None, limit_bytes: None }
    }
}

fn symbol(name: &CStr) -> Result<*const c_void, Refusal> {
    // SAFETY: looks a NUL-terminated name up, without effect.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found.cast_const()).ok_or(Refusal::NoLua)
}

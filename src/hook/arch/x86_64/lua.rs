//! The entry points of the hooked functions that create Lua VMs. They pass on the caller's return
//! address in the register after the last argument.
//!
//! The code below relies on rule 1 of [`lua`](crate::hook::lua).

use std::arch::global_asm;
use std::ffi::c_void;

use crate::hook::lua::api::{LuaAlloc, LuaState};
use crate::hook::lua::{new, new_state};

extern "C" {
    /// Replaces `luaL_newstate`.
    pub fn memstat_lua_new() -> LuaState;

    /// Replaces `lua_newstate`.
    pub fn memstat_lua_new_state(alloc: Option<LuaAlloc>, data: *mut c_void) -> LuaState;
}

global_asm!(
    ".hidden memstat_lua_new",
    ".globl memstat_lua_new",
    ".type memstat_lua_new, @function",
    "memstat_lua_new:",
    "endbr64",
    "mov rdi, [rsp]",
    "jmp {new}",
    ".size memstat_lua_new, . - memstat_lua_new",
    ".hidden memstat_lua_new_state",
    ".globl memstat_lua_new_state",
    ".type memstat_lua_new_state, @function",
    "memstat_lua_new_state:",
    "endbr64",
    "mov rdx, [rsp]",
    "jmp {new_state}",
    ".size memstat_lua_new_state, . - memstat_lua_new_state",
    new = sym new,
    new_state = sym new_state,
);

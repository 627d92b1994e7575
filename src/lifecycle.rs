//! The module tables, and what happens when a cycle begins, and when a process begins and ends.
//!
//! Invariants for `unsafe`: those of [`crate::nginx`].

use std::ffi::c_char;
use std::ptr::{addr_of, addr_of_mut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nginx_sys::{ngx_cycle_t, ngx_int_t, ngx_module_t, NGX_CORE_MODULE, NGX_HTTP_MODULE, NGX_OK};

use crate::conf::{self, Settings};
use crate::exchange::{Exchange, EXCHANGE};
use crate::hook::set::HookSet;
use crate::hook::state::Hooked;
use crate::hook::{creators, pool, slab};
use crate::http::answer;
use crate::loading;
use crate::nginx::{guard, log, process, zones};
use crate::report::model::HookState;

/// The modules of this library, where nginx looks for them. The macro of the `ngx` crate supports
/// only one.
#[no_mangle]
#[allow(non_upper_case_globals)]
pub static mut ngx_modules: [*const ngx_module_t; 4] = [
    addr_of!(ngx_memstat_module),
    addr_of!(ngx_stream_memstat_module),
    addr_of!(ngx_http_memstat_module),
    std::ptr::null(),
];

/// The names of the modules.
#[no_mangle]
#[allow(non_upper_case_globals)]
pub static mut ngx_module_names: [*const c_char; 4] = [
    c"ngx_memstat_module".as_ptr(),
    c"ngx_stream_memstat_module".as_ptr(),
    c"ngx_http_memstat_module".as_ptr(),
    std::ptr::null(),
];

/// The position of the modules in nginx's order: anywhere.
#[no_mangle]
#[allow(non_upper_case_globals)]
pub static mut ngx_module_order: [*const c_char; 1] = [std::ptr::null()];

/// The core module: the directive outside `http`, and the callbacks for cycles and processes.
#[no_mangle]
#[allow(non_upper_case_globals)]
pub static mut ngx_memstat_module: ngx_module_t = ngx_module_t {
    ctx: addr_of_mut!(conf::CORE_CONTEXT).cast(),
    commands: addr_of_mut!(conf::CORE_COMMANDS).cast(),
    type_: NGX_CORE_MODULE as _,
    init_module: Some(init_module),
    init_process: Some(init_process),
    exit_process: Some(exit_process),
    ..ngx_module_t::default()
};

/// The stream module: its only purpose is to notice that `stream` begins. An nginx without stream
/// ignores it.
#[allow(non_upper_case_globals)]
static mut ngx_stream_memstat_module: ngx_module_t = ngx_module_t {
    ctx: addr_of!(conf::STREAM_CONTEXT).cast_mut().cast(),
    type_: NGX_STREAM_MODULE,
    ..ngx_module_t::default()
};

/// `NGX_STREAM_MODULE`: "STRM".
const NGX_STREAM_MODULE: usize = 0x4d52_5453;

/// The HTTP module: the directives inside `http`.
#[no_mangle]
#[allow(non_upper_case_globals)]
pub static mut ngx_http_memstat_module: ngx_module_t = ngx_module_t {
    ctx: addr_of!(conf::HTTP_CONTEXT).cast_mut().cast(),
    commands: addr_of_mut!(conf::HTTP_COMMANDS).cast(),
    type_: NGX_HTTP_MODULE as _,
    ..ngx_module_t::default()
};

/// The number of configurations loaded so far, in the master.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Called when a cycle begins: in the master, before it forks the cycle's workers.
unsafe extern "C" fn init_module(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_OK as ngx_int_t, || {
        let generation = GENERATION.fetch_add(1, Relaxed) + 1;
        // SAFETY: nginx passes a valid cycle (N3).
        unsafe { conf::warn_of_open(cycle) };
        if process::is_config_test() {
            return NGX_OK as ngx_int_t;
        }
        // SAFETY: nginx passes a valid cycle (N3).
        let settings = unsafe { conf::settings(cycle) };
        EXCHANGE.with(|exchange| {
            let before = exchange.take();
            *exchange = match settings {
                Some(settings) => prepare(settings, cycle, generation, before),
                None => {
                    loading::withdraw();
                    before.and_then(Exchange::retire)
                }
            };
        });
        NGX_OK as ngx_int_t
    })
}

fn prepare(
    settings: Settings,
    cycle: *mut ngx_cycle_t,
    generation: u64,
    before: Option<Exchange>,
) -> Option<Exchange> {
    // Pointers into the module, which exist from now on, must stay valid when nginx unloads it.
    if let Err(refusal) = loading::pin_module() {
        loading::withdraw();
        log::alert(&format!("memstat: the module is off: {refusal}"));
        return None;
    }
    process::product();
    let HookSet { master, .. } = settings.hooks;
    let wanted = HookSet { master: master && settings.has_master, ..settings.hooks };
    // SAFETY: this is `init_module`, which passes nginx's cycle, and the module is pinned (N3).
    let hooks = unsafe { loading::settle(cycle, wanted) };
    if hooks.pool == HookState::On {
        creators::find();
    }
    // SAFETY: nginx passes a valid cycle (N3).
    let cycle = unsafe { &*cycle };
    if slab::state() == Hooked::On {
        // SAFETY: nginx passes a valid cycle (N3).
        unsafe { zones::loaded(cycle, generation) };
    }
    pool::cycle(cycle.pool as usize, generation, c"ngx_init_cycle");
    let masters_cycle = settings.has_master.then(|| std::ptr::from_ref(cycle) as usize);
    let board = settings.zone.board();
    let prepared = board.ok_or_else(|| "there is no shared zone".to_owned());
    match prepared.and_then(|board| {
        Exchange::prepare(board, hooks, settings.uris, generation, masters_cycle, before)
    }) {
        Ok(exchange) => Some(exchange),
        Err(error) => {
            log::alert(&format!("memstat: \"memstat\" locations cannot answer: {error}"));
            None
        }
    }
}

/// Called when a worker or a helper begins.
unsafe extern "C" fn init_process(_cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_OK as ngx_int_t, || {
        EXCHANGE.with(|exchange| {
            if let Some(exchange) = exchange.as_mut().filter(|exchange| !exchange.has_joined()) {
                exchange.join(answer::tick, answer::woken, answer::second);
            }
        });
        NGX_OK as ngx_int_t
    })
}

/// Called when a worker or a helper ends.
unsafe extern "C" fn exit_process(_cycle: *mut ngx_cycle_t) {
    guard((), || {
        EXCHANGE.with(|exchange| {
            if let Some(exchange) = exchange {
                exchange.leave();
            }
        });
    });
}

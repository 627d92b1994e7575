//! The configuration: what the directives set, how levels are merged, and what is decided once
//! nginx has read everything.
//!
//! Invariants for `unsafe`: those of [`crate::nginx`].

use std::ffi::{c_char, c_void};
use std::ptr::{addr_of, NonNull};

use nginx_sys::{
    ngx_conf_t, ngx_core_conf_t, ngx_core_module, ngx_cycle_t, ngx_http_module_t,
    ngx_http_request_t, ngx_int_t, ngx_module_t, ngx_msec_t, ngx_str_t,
};
use ngx::core::Status;
use ngx::http::{HttpModule, HttpModuleLocationConf, HttpModuleMainConf, Merge, MergeConfigError};
use ngx::ngx_string;

use crate::format::Format;
use crate::handler::{self, Location};
use crate::hook::set::HookSet;
use crate::loading;
use crate::nginx::access;
use crate::nginx::conf::{self, Conf};
use crate::nginx::request::{Request, FAILED};
use crate::nginx::shm::{self, ShmZone};
use crate::nginx::{guard, log};
use crate::scoreboard::MAX_SLOTS;
use crate::{ngx_http_memstat_module, ngx_memstat_module};

pub use directives::{CORE_COMMANDS, HTTP_COMMANDS};

mod directives;

/// The default of `memstat_timeout`: how long a request waits for other processes, in milliseconds.
const DEFAULT_TIMEOUT_MS: ngx_msec_t = 200;

/// nginx's value for a time that is not set (`NGX_CONF_UNSET_MSEC`).
const UNSET_MSEC: ngx_msec_t = ngx_msec_t::MAX;

/// The settings of the whole server, except for hooks.
#[derive(Debug, Clone, Copy, Default)]
pub struct MainConf {
    /// The number of locations with `memstat`. With none, the module does nothing.
    locations: usize,
    /// The location read last. It links to the one before.
    last: Option<NonNull<LocationConf>>,
    /// Whether any level has `memstat_uri on`.
    uris: bool,
    zone: Option<ShmZone>,
    zone_size: Option<SizeAt>,
}

/// The position of a directive.
#[derive(Debug, Clone, Copy)]
struct DirectivePosition {
    file: ngx_str_t,
    line: usize,
}

/// The size in `memstat_zone`, in bytes, and the position of the directive.
#[derive(Debug, Clone, Copy)]
struct SizeAt {
    size: usize,
    at: DirectivePosition,
}

/// A location with `memstat`.
#[derive(Debug, Clone, Copy)]
struct Here {
    at: DirectivePosition,
    /// The configurations that all modules have for this location.
    confs: access::LocationConfs,
    /// The location read before this one.
    before: Option<NonNull<LocationConf>>,
}

/// The setting of `memstat_hooks`, from either of its contexts.
#[derive(Debug, Clone, Copy)]
struct CoreConf {
    hooks: Option<HookSet>,
}

/// The settings of a location.
#[derive(Debug, Clone, Copy)]
pub struct LocationConf {
    timeout: ngx_msec_t,
    uri: Option<bool>,
    format: Option<Format>,
    /// Set if `memstat` is in this very location: it is not inherited.
    here: Option<Here>,
}

impl LocationConf {
    /// Returns what a request needs of the configuration, with defaults for what is not set.
    fn settled(&self) -> Location {
        Location {
            timeout_ms: self.timeout as u64,
            uris: self.uri == Some(true),
            format: self.format.unwrap_or_default(),
        }
    }
}

/// Handles a request in a location with `memstat`: the content handler that nginx calls.
unsafe extern "C" fn handle(request: *mut ngx_http_request_t) -> ngx_int_t {
    guard(FAILED, || {
        // SAFETY: nginx passes a live request to a content handler (N3).
        let Some(mut request) = (unsafe { Request::from_raw(request) }) else { return FAILED };
        // SAFETY: `create_loc_conf` of `Module` creates this type, in the cycle's pool (N4).
        let conf = unsafe { request.location_conf::<LocationConf>(Module::module()) };
        let Some(location) = conf.map(LocationConf::settled) else { return FAILED };
        handler::serve(request, location)
    })
}

impl Default for LocationConf {
    fn default() -> Self {
        LocationConf { timeout: UNSET_MSEC, uri: None, format: None, here: None }
    }
}

impl Merge for LocationConf {
    fn merge(&mut self, previous: &Self) -> Result<(), MergeConfigError> {
        if self.timeout == UNSET_MSEC {
            self.timeout = match previous.timeout {
                UNSET_MSEC => DEFAULT_TIMEOUT_MS,
                timeout => timeout,
            };
        }
        self.uri = self.uri.or(previous.uri);
        self.format = self.format.or(previous.format);
        Ok(())
    }
}

/// The HTTP module.
pub struct Module;

impl HttpModule for Module {
    fn module() -> &'static ngx_module_t {
        // SAFETY: nginx writes the structure only while it loads modules, on this thread (N1).
        unsafe { &*addr_of!(ngx_http_memstat_module) }
    }

    unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
        guard(Status::NGX_ERROR.0, || {
            // SAFETY: nginx passes the configuration that it reads (N3).
            let cf = unsafe { Conf::from_raw(cf) };
            let Some(main) = main_conf(&cf).filter(|main| main.locations > 0) else {
                return Status::NGX_OK.0;
            };
            main.zone = ShmZone::add(&cf, shm::zone_size(1), Module::module());
            main.zone.map_or(Status::NGX_ERROR.0, |_| Status::NGX_OK.0)
        })
    }
}

// SAFETY: `create_main_conf` is that of `HttpModule`, which creates this type in a pool (N4).
unsafe impl HttpModuleMainConf for Module {
    type MainConf = MainConf;
}

// SAFETY: `create_loc_conf` is that of `HttpModule`, which creates this type in a pool (N4).
unsafe impl HttpModuleLocationConf for Module {
    type LocationConf = LocationConf;
}

/// The callbacks of the HTTP module.
pub static HTTP_CONTEXT: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: Some(preconfiguration),
    postconfiguration: Some(Module::postconfiguration),
    create_main_conf: Some(Module::create_main_conf),
    init_main_conf: Some(init_main_conf),
    create_srv_conf: None,
    merge_srv_conf: None,
    create_loc_conf: Some(Module::create_loc_conf),
    merge_loc_conf: Some(Module::merge_loc_conf),
};

/// The beginning of `ngx_stream_module_t`, which the bindings lack if nginx was built without
/// stream.
#[repr(C)]
pub struct StreamContext {
    preconfiguration: unsafe extern "C" fn(*mut ngx_conf_t) -> ngx_int_t,
    rest: [Option<extern "C" fn()>; 5],
}

/// The callbacks of the stream module.
pub static STREAM_CONTEXT: StreamContext = StreamContext { preconfiguration, rest: [None; 5] };

/// Called when `http {}` or `stream {}` begins. All modules are loaded then.
unsafe extern "C" fn preconfiguration(_cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(Status::NGX_OK.0, || {
        loading::modules_loaded();
        Status::NGX_OK.0
    })
}

/// The callbacks of the core module.
pub static mut CORE_CONTEXT: nginx_sys::ngx_core_module_t = nginx_sys::ngx_core_module_t {
    name: ngx_string!("memstat"),
    create_conf: Some(create_core_conf),
    init_conf: Some(init_core_conf),
};

/// What the configuration of a cycle demands of the module.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The hooks that are wanted.
    pub hooks: HookSet,
    /// Whether replies of any location contain request lines.
    pub uris: bool,
    /// The zone, which nginx has created.
    pub zone: ShmZone,
    /// Whether there is a master process.
    pub has_master: bool,
}

/// Returns the settings of a cycle, or `None` if it has no `memstat` location.
///
/// # Safety
///
/// `cycle` is the pointer that nginx passed to `init_module`.
pub unsafe fn settings(cycle: *mut ngx_cycle_t) -> Option<Settings> {
    // SAFETY: nginx passes a valid cycle, by contract (N3).
    let cycle = unsafe { cycle.as_ref() }?;
    let main = Module::main_conf(cycle).filter(|main| main.locations > 0)?;
    let hooks = core_conf(cycle).and_then(|core| core.hooks).unwrap_or_default();
    let has_master = nginx_conf(cycle).is_some_and(|core| core.master != 0);
    Some(Settings { hooks, uris: main.uris, zone: main.zone?, has_master })
}

/// Logs a warning for each location that is open to every client.
///
/// # Safety
///
/// As for [`settings`].
pub unsafe fn warn_of_open(cycle: *mut ngx_cycle_t) {
    // SAFETY: nginx passes a valid cycle, by contract (N3).
    let Some(cycle) = (unsafe { cycle.as_ref() }) else { return };
    if !access::is_public(cycle) {
        return;
    }
    let mut next = Module::main_conf(cycle).and_then(|main| main.last);
    // SAFETY: the locations lie in this cycle's pool, and nothing changes them any more (N4).
    let here = |location: NonNull<LocationConf>| unsafe { location.as_ref() }.here;
    while let Some(Here { at, confs, before }) = next.and_then(here) {
        // SAFETY: the location belongs to this cycle, whose configuration is read (N4).
        if !unsafe { access::is_restricted(cycle, confs) } {
            log::warn(&format!(
                "memstat: the location in {}:{} is open to every client: add \"allow\" and \"deny\", \
                 \"auth_basic\", \"auth_request\" or \"internal\"",
                at.file, at.line
            ));
        }
        next = before;
    }
}

fn main_conf(cf: &Conf) -> Option<&'static mut MainConf> {
    // SAFETY: these functions run inside `http`, so the context is that of HTTP modules (N3).
    Module::main_conf_mut(unsafe { cf.as_ptr().as_ref() }?)
}

fn core_conf(cycle: &ngx_cycle_t) -> Option<&'static mut CoreConf> {
    // SAFETY: `create_core_conf` put the value there, in the cycle's pool (N2, N4).
    unsafe {
        let index = (*addr_of!(ngx_memstat_module)).index;
        cycle.conf_ctx.add(index).cast::<*mut CoreConf>().read().as_mut()
    }
}

/// Called when nginx loads the module.
unsafe extern "C" fn create_core_conf(cycle: *mut ngx_cycle_t) -> *mut c_void {
    // SAFETY: nginx passes a valid cycle (N3).
    guard((), || unsafe { loading::begin(cycle) });
    // SAFETY: the memory comes from the cycle's pool, with the size of this type (N3, N4).
    unsafe {
        let place: *mut CoreConf =
            nginx_sys::ngx_palloc((*cycle).pool, std::mem::size_of::<CoreConf>()).cast();
        if !place.is_null() {
            place.write(CoreConf { hooks: None });
        }
        place.cast()
    }
}

/// Called when `http {}` is read, before its modules create their Lua VMs. Installs the hooks that
/// the previous configuration did not want.
unsafe extern "C" fn init_main_conf(cf: *mut ngx_conf_t, conf: *mut c_void) -> *mut c_char {
    guard(conf::OK, || {
        // SAFETY: nginx passes the pointer that `create_main_conf` returned (N3).
        let (cycle, main) = unsafe { ((*cf).cycle, conf.cast::<MainConf>().as_ref()) };
        // SAFETY: the configuration belongs to a valid cycle (N3).
        let hooks = core_conf(unsafe { &*cycle }).and_then(|core| core.hooks).unwrap_or_default();
        if main.is_some_and(|main| main.locations > 0) {
            // SAFETY: this is the cycle whose configuration nginx reads (N3).
            unsafe { loading::want(cycle, hooks) };
        }
        conf::OK
    })
}

/// Called when everything is read and the number of workers is known. Sets the size of the zone.
unsafe extern "C" fn init_core_conf(cycle: *mut ngx_cycle_t, _conf: *mut c_void) -> *mut c_char {
    guard(conf::ERROR, || {
        // SAFETY: nginx passes a valid cycle (N3).
        let cycle = unsafe { &*cycle };
        let Some(main) = Module::main_conf(cycle).filter(|main| main.locations > 0) else {
            return conf::OK;
        };
        let Some(zone) = main.zone else {
            return conf::OK;
        };
        let needed = needed_slots(worker_processes(cycle));
        let Some(SizeAt { size, at: DirectivePosition { file, line } }) = main.zone_size else {
            // Nearly all configurations get the same size, so that a reload keeps the zone.
            let slots = needed.next_multiple_of(shm::DEFAULT_SLOTS).min(MAX_SLOTS);
            zone.set_size(shm::zone_size(slots));
            return conf::OK;
        };
        if size < shm::zone_size(needed) {
            log::emerg(&format!(
                "\"memstat_zone\" is too small, {} worker_processes need at least size={}k in {}:{}",
                worker_processes(cycle),
                shm::zone_size(needed) / 1024,
                file,
                line
            ));
            return conf::ERROR;
        }
        zone.set_size(size);
        conf::OK
    })
}

/// Returns the number of slots that a server needs: two generations of workers, as during a reload,
/// each with a cache manager, a cache loader, a privileged agent and one spare slot.
fn needed_slots(workers: usize) -> usize {
    2 * (workers + 4)
}

fn worker_processes(cycle: &ngx_cycle_t) -> usize {
    let core = nginx_conf(cycle);
    core.map_or(1, |core| usize::try_from(core.worker_processes).unwrap_or(1).max(1))
}

/// Returns the settings of nginx's core module.
fn nginx_conf(cycle: &ngx_cycle_t) -> Option<&ngx_core_conf_t> {
    // SAFETY: the core module has its settings in its place, in the cycle's pool. nginx initialises
    // them before those of any other module (N2, N4).
    unsafe {
        let core = cycle.conf_ctx.add((*addr_of!(ngx_core_module)).index);
        core.cast::<*const ngx_core_conf_t>().read().as_ref()
    }
}

//! The configuration: what the directives set, how it merges, and what is settled when all is read.
//!
//! Invariants for `unsafe`: those of [`crate::nginx`].

use std::ffi::{c_char, c_void};
use std::ptr::{addr_of, NonNull};

use nginx_sys::{
    ngx_conf_t, ngx_core_conf_t, ngx_core_module, ngx_cycle_t, ngx_http_module_t, ngx_int_t,
    ngx_module_t, ngx_msec_t, ngx_str_t,
};
use ngx::core::Status;
use ngx::http::{HttpModule, HttpModuleLocationConf, HttpModuleMainConf, Merge, MergeConfigError};
use ngx::ngx_string;

use crate::format::Format;
use crate::hook::set::HookSet;
use crate::loading;
use crate::nginx::access;
use crate::nginx::conf::{self, Conf};
use crate::nginx::shm::{self, Zone};
use crate::nginx::{guard, log};
use crate::scoreboard::MAX_SLOTS;
use crate::{ngx_http_memstat_module, ngx_memstat_module};

pub use directives::{CORE_COMMANDS, HTTP_COMMANDS};

mod directives;

/// How long a request waits for other processes, in milliseconds, unless `memstat_timeout` says.
const DEFAULT_TIMEOUT_MS: ngx_msec_t = 200;

/// "Not set" of a time, as nginx has it (`NGX_CONF_UNSET_MSEC`).
const UNSET_MSEC: ngx_msec_t = ngx_msec_t::MAX;

/// What holds for the whole server, hooks apart.
#[derive(Debug, Clone, Copy, Default)]
pub struct MainConf {
    /// Locations with `memstat`. With none the module does nothing.
    locations: usize,
    /// The last one read; the others are behind it.
    last: Option<NonNull<LocationConf>>,
    /// Whether `memstat_uri on` stands anywhere.
    uris: bool,
    zone: Option<Zone>,
    zone_size: Option<SizeAt>,
}

/// Where a directive stands.
#[derive(Debug, Clone, Copy)]
struct At {
    file: ngx_str_t,
    line: usize,
}

/// The size in `memstat_zone`, and where it stands.
#[derive(Debug, Clone, Copy)]
struct SizeAt {
    size: usize,
    at: At,
}

/// A location with `memstat`.
#[derive(Debug, Clone, Copy)]
struct Here {
    at: At,
    /// All modules' configurations of it.
    confs: access::LocationConfs,
    /// The location read before.
    before: Option<NonNull<LocationConf>>,
}

/// What `memstat_hooks` says, in whichever context it stands.
#[derive(Debug, Clone, Copy)]
struct CoreConf {
    hooks: Option<HookSet>,
}

/// What holds for a location.
#[derive(Debug, Clone, Copy)]
pub struct LocationConf {
    timeout: ngx_msec_t,
    uri: Option<bool>,
    format: Option<Format>,
    /// Set where `memstat` stands in this very location.
    here: Option<Here>,
}

impl LocationConf {
    /// How long a request waits for other processes, in milliseconds.
    pub fn timeout_ms(&self) -> u64 {
        self.timeout as u64
    }

    /// Whether replies may have request lines.
    pub fn has_uris(&self) -> bool {
        self.uri == Some(true)
    }

    /// The format for those who ask for none.
    pub fn format(&self) -> Format {
        self.format.unwrap_or_default()
    }
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
        // SAFETY: nginx writes the structure only while it loads modules.
        unsafe { &*addr_of!(ngx_http_memstat_module) }
    }

    unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
        guard(Status::NGX_ERROR.0, || {
            // SAFETY: N3.
            let cf = unsafe { Conf::from_raw(cf) };
            let Some(main) = main_conf(&cf).filter(|main| main.locations > 0) else {
                return Status::NGX_OK.0;
            };
            main.zone = Zone::add(&cf, shm::zone_size(1), Module::module());
            main.zone.map_or(Status::NGX_ERROR.0, |_| Status::NGX_OK.0)
        })
    }
}

// SAFETY: `create_main_conf` makes this type, and the one of `HttpModule` is used.
unsafe impl HttpModuleMainConf for Module {
    type MainConf = MainConf;
}

// SAFETY: as above, for `create_loc_conf`.
unsafe impl HttpModuleLocationConf for Module {
    type LocationConf = LocationConf;
}

/// The functions of the HTTP module.
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

/// The beginning of `ngx_stream_module_t`, which nginx may have been built without.
#[repr(C)]
pub struct StreamContext {
    preconfiguration: unsafe extern "C" fn(*mut ngx_conf_t) -> ngx_int_t,
    rest: [Option<extern "C" fn()>; 5],
}

/// The functions of the stream module.
pub static STREAM_CONTEXT: StreamContext = StreamContext { preconfiguration, rest: [None; 5] };

/// `http {}` or `stream {}` begins: all modules are loaded.
unsafe extern "C" fn preconfiguration(_cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(Status::NGX_OK.0, || {
        loading::modules_loaded();
        Status::NGX_OK.0
    })
}

/// The functions of the core module.
pub static mut CORE_CONTEXT: nginx_sys::ngx_core_module_t = nginx_sys::ngx_core_module_t {
    name: ngx_string!("memstat"),
    create_conf: Some(create_core_conf),
    init_conf: Some(init_core_conf),
};

/// What a cycle asks of the module, once its configuration is read.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Which hooks are wanted.
    pub hooks: HookSet,
    /// Whether some location's replies have request lines.
    pub uris: bool,
    /// The zone, made by nginx.
    pub zone: Zone,
    /// Whether there is a master process.
    pub has_master: bool,
}

/// The settings of a cycle; `None` when it has no `memstat` location.
///
/// # Safety
///
/// `cycle` is what nginx handed to `init_module`.
pub unsafe fn settings(cycle: *mut ngx_cycle_t) -> Option<Settings> {
    // SAFETY: N3.
    let cycle = unsafe { cycle.as_ref() }?;
    let main = Module::main_conf(cycle).filter(|main| main.locations > 0)?;
    let hooks = core_conf(cycle).and_then(|core| core.hooks).unwrap_or_default();
    let has_master = nginx_conf(cycle).is_some_and(|core| core.master != 0);
    Some(Settings { hooks, uris: main.uris, zone: main.zone?, has_master })
}

/// Warns of each location that answers everybody.
///
/// # Safety
///
/// As for [`settings`].
pub unsafe fn warn_of_open(cycle: *mut ngx_cycle_t) {
    // SAFETY: N3.
    let Some(cycle) = (unsafe { cycle.as_ref() }) else { return };
    if !access::is_public(cycle) {
        return;
    }
    let mut next = Module::main_conf(cycle).and_then(|main| main.last);
    // SAFETY: N4: locations of this cycle, which nothing changes any more.
    let here = |location: NonNull<LocationConf>| unsafe { location.as_ref() }.here;
    while let Some(Here { at, confs, before }) = next.and_then(here) {
        // SAFETY: N4: a location of this cycle.
        if !unsafe { access::is_restricted(cycle, confs) } {
            log::warn(&format!(
                "memstat: the location in {}:{} answers everybody: it has no \"allow\", \"deny\", \
                 \"auth_basic\" or \"auth_request\"",
                at.file, at.line
            ));
        }
        next = before;
    }
}

fn main_conf(cf: &Conf) -> Option<&'static mut MainConf> {
    // SAFETY: N3: these functions run inside `http`, so the context is that of HTTP modules.
    Module::main_conf_mut(unsafe { cf.as_ptr().as_ref() }?)
}

fn core_conf(cycle: &ngx_cycle_t) -> Option<&'static mut CoreConf> {
    // SAFETY: N2; N4: `create_core_conf` put the value there.
    unsafe {
        let index = (*addr_of!(ngx_memstat_module)).index;
        cycle.conf_ctx.add(index).cast::<*mut CoreConf>().read().as_mut()
    }
}

/// nginx loads the module.
unsafe extern "C" fn create_core_conf(cycle: *mut ngx_cycle_t) -> *mut c_void {
    // SAFETY: N3.
    guard((), || unsafe { loading::begin(cycle) });
    // SAFETY: N3, N4.
    unsafe {
        let place: *mut CoreConf =
            nginx_sys::ngx_palloc((*cycle).pool, std::mem::size_of::<CoreConf>()).cast();
        if !place.is_null() {
            place.write(CoreConf { hooks: None });
        }
        place.cast()
    }
}

/// `http {}` is read; next its modules make their Lua VMs. Hooks go in here that the configuration before
/// did not want.
unsafe extern "C" fn init_main_conf(cf: *mut ngx_conf_t, conf: *mut c_void) -> *mut c_char {
    guard(conf::OK, || {
        // SAFETY: N3: nginx hands over what `create_main_conf` made.
        let (cycle, main) = unsafe { ((*cf).cycle, conf.cast::<MainConf>().as_ref()) };
        // SAFETY: N3.
        let hooks = core_conf(unsafe { &*cycle }).and_then(|core| core.hooks).unwrap_or_default();
        if main.is_some_and(|main| main.locations > 0) {
            // SAFETY: the cycle whose configuration is read.
            unsafe { loading::want(cycle, hooks) };
        }
        conf::OK
    })
}

/// All is read, and the number of workers is known: settles the size of the zone.
unsafe extern "C" fn init_core_conf(cycle: *mut ngx_cycle_t, _conf: *mut c_void) -> *mut c_char {
    guard(conf::ERROR, || {
        // SAFETY: N3.
        let cycle = unsafe { &*cycle };
        let Some(main) = Module::main_conf(cycle).filter(|main| main.locations > 0) else {
            return conf::OK;
        };
        let Some(zone) = main.zone else {
            return conf::OK;
        };
        let needed = needed_slots(worker_processes(cycle));
        let Some(SizeAt { size, at: At { file, line } }) = main.zone_size else {
            // The same for nearly all configurations, so that a reload keeps the zone.
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

/// Two generations of workers, as during a reload, each with a cache manager, a cache loader, a
/// privileged agent and one to spare.
fn needed_slots(workers: usize) -> usize {
    2 * (workers + 4)
}

fn worker_processes(cycle: &ngx_cycle_t) -> usize {
    let core = nginx_conf(cycle);
    core.map_or(1, |core| usize::try_from(core.worker_processes).unwrap_or(1).max(1))
}

/// The settings of nginx's core module.
fn nginx_conf(cycle: &ngx_cycle_t) -> Option<&ngx_core_conf_t> {
    // SAFETY: N2, N4: nginx's core module settles its own part before any other module's.
    unsafe {
        let core = cycle.conf_ctx.add((*addr_of!(ngx_core_module)).index);
        core.cast::<*const ngx_core_conf_t>().read().as_ref()
    }
}

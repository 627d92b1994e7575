//! What nginx knows of its processes.

use std::ffi::CStr;
use std::ptr::addr_of;
use std::sync::OnceLock;

use nginx_sys::{
    ngx_change_binary, ngx_cycle, ngx_exiting, ngx_last_process, ngx_noaccept, ngx_parent, ngx_pid,
    ngx_process, ngx_processes, ngx_quit, ngx_reap, ngx_reconfigure, ngx_reopen, ngx_sigalrm,
    ngx_sigio, ngx_terminate, ngx_test_config, ngx_worker, sig_atomic_t, NGX_PROCESS_MASTER,
    NGX_PROCESS_SIGNALLER, NGX_PROCESS_SINGLE, NGX_PROCESS_WORKER,
};

use crate::abi::product;
use crate::report::model::Kind;

/// The version of nginx, such as `1.22.1`.
pub fn version() -> &'static str {
    CStr::from_bytes_with_nul(NGINX_VERSION_BYTES).ok().and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// The executable by its own name and version, such as `openresty/1.27.1.2`; why it is not known.
/// Searched for once: in the master, whose children inherit it.
pub fn product() -> &'static Result<String, String> {
    static PRODUCT: OnceLock<Result<String, String>> = OnceLock::new();
    PRODUCT.get_or_init(product::of_executable)
}

const NGINX_VERSION_BYTES: &[u8] = nginx_sys::NGINX_VERSION.to_bytes_with_nul();

/// This process's pid.
pub fn pid() -> i32 {
    // SAFETY: N2.
    unsafe { ngx_pid }
}

/// The master's pid; `None` in the only process (`master_process off`).
pub fn master() -> Option<i32> {
    // SAFETY: N2.
    (!is_single()).then_some(unsafe { ngx_parent })
}

/// Whether this is the only process.
pub fn is_single() -> bool {
    // SAFETY: N2.
    unsafe { ngx_process as u32 == NGX_PROCESS_SINGLE }
}

/// The address of the cycle that runs.
pub fn cycle() -> usize {
    // SAFETY: N2.
    unsafe { ngx_cycle as usize }
}

/// Whether this is the master.
pub fn is_master() -> bool {
    // SAFETY: N2.
    unsafe { ngx_process as u32 == NGX_PROCESS_MASTER }
}

/// The signals that nginx has noticed and not seen to yet, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signals(u16);

/// The signals that nginx has noticed.
pub fn signals() -> Signals {
    let flags = [
        addr_of!(ngx_reap),
        addr_of!(ngx_sigio),
        addr_of!(ngx_sigalrm),
        addr_of!(ngx_terminate),
        addr_of!(ngx_quit),
        addr_of!(ngx_reconfigure),
        addr_of!(ngx_reopen),
        addr_of!(ngx_change_binary),
        addr_of!(ngx_noaccept),
    ];
    // SAFETY: N2; a handler of a signal may write to them meanwhile.
    let is_set = |flag: &*const sig_atomic_t| unsafe { flag.read_volatile() } != 0;
    Signals(flags.iter().fold(0, |bits, flag| bits << 1 | u16::from(is_set(flag))))
}

/// Whether the master reads a configuration next.
pub fn is_to_reload() -> bool {
    // SAFETY: N2; a handler of a signal may write to it meanwhile.
    unsafe { addr_of!(ngx_reconfigure).read_volatile() != 0 }
}

/// Whether this is a worker.
pub fn is_worker() -> bool {
    // SAFETY: N2.
    unsafe { ngx_process as u32 == NGX_PROCESS_WORKER }
}

/// Whether this run only tests the configuration.
pub fn is_config_test() -> bool {
    // SAFETY: N2.
    unsafe { ngx_test_config != 0 }
}

/// Whether this run serves once its configuration is read: it neither tests that (`-t`) nor sends a
/// signal (`-s`).
pub fn will_serve() -> bool {
    // SAFETY: N2.
    !is_config_test() && unsafe { ngx_process } as u32 != NGX_PROCESS_SIGNALLER
}

/// The worker's number, as in `$worker_id`.
pub fn worker_id() -> Option<u32> {
    // SAFETY: N2.
    is_worker().then_some(unsafe { ngx_worker } as u32)
}

/// Whether this process finishes its last requests.
pub fn is_shutting_down() -> bool {
    // SAFETY: N2.
    unsafe { ngx_exiting != 0 || ngx_quit != 0 || ngx_terminate != 0 }
}

/// What this process is to nginx. Helpers tell by the title that nginx gives them when they start.
pub fn kind() -> Kind {
    // SAFETY: N2.
    let process = unsafe { ngx_process } as u32;
    match process {
        NGX_PROCESS_SINGLE => Kind::Single,
        NGX_PROCESS_MASTER => Kind::Master,
        NGX_PROCESS_WORKER => Kind::Worker,
        _ => crate::probe::title::kind_of(pid()),
    }
}

/// The other children of the master, by nginx's own table. It may be behind by the messages that the
/// master has sent and this process has not read.
pub fn siblings() -> Vec<i32> {
    // SAFETY: N2; the table is an array in nginx's data, of which `ngx_last_process` are in use.
    let table = unsafe { &*std::ptr::addr_of!(ngx_processes) };
    // SAFETY: N2.
    let used = usize::try_from(unsafe { ngx_last_process }).unwrap_or(0);
    let live = |process: &&nginx_sys::ngx_process_t| process.pid > 0 && process.detached() == 0;
    table.iter().take(used).filter(live).map(|process| process.pid).collect()
}

/// Whether a process with this pid exists.
pub fn exists(pid: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else {
        return false;
    };
    // A process of another user exists all the same.
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

//! What nginx knows about its processes.
//!
//! Invariants for `unsafe`: those of [`super`].

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
use crate::report::model::ProcessKind;

/// Returns the version of nginx, such as `1.22.1`.
pub fn version() -> &'static str {
    CStr::from_bytes_with_nul(NGINX_VERSION_BYTES).ok().and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// Returns the name and the version of the executable, such as `openresty/1.27.1.2`, or why they
/// are not known. They are searched for once, in the master; its children inherit the result.
pub fn product() -> &'static Result<String, String> {
    static PRODUCT: OnceLock<Result<String, String>> = OnceLock::new();
    PRODUCT.get_or_init(product::of_executable)
}

const NGINX_VERSION_BYTES: &[u8] = nginx_sys::NGINX_VERSION.to_bytes_with_nul();

/// Returns the pid of this process.
pub fn pid() -> i32 {
    // SAFETY: a number that nginx has set (N2).
    unsafe { ngx_pid }
}

/// Returns the pid of the master, or `None` if there is only one process (`master_process off`).
pub fn master() -> Option<i32> {
    // SAFETY: a number that nginx has set (N2).
    (!is_single()).then_some(unsafe { ngx_parent })
}

/// Returns whether this is the only process.
pub fn is_single() -> bool {
    // SAFETY: a number that nginx has set (N2).
    unsafe { ngx_process as u32 == NGX_PROCESS_SINGLE }
}

/// Returns the address of the current cycle.
pub fn cycle() -> usize {
    // SAFETY: a pointer that nginx has set, and that is not followed (N2).
    unsafe { ngx_cycle as usize }
}

/// Returns whether this is the master.
pub fn is_master() -> bool {
    // SAFETY: a number that nginx has set (N2).
    unsafe { ngx_process as u32 == NGX_PROCESS_MASTER }
}

/// The signals that nginx has received and not handled yet, one bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signals(u16);

/// Returns the signals that nginx has received and not handled yet.
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
    // SAFETY: nginx's flags are static. A signal handler may write them meanwhile, so they are read
    // as volatile (N2).
    let is_set = |flag: &*const sig_atomic_t| unsafe { flag.read_volatile() } != 0;
    Signals(flags.iter().fold(0, |bits, flag| bits << 1 | u16::from(is_set(flag))))
}

/// Returns whether the master will read a configuration next.
pub fn is_to_reload() -> bool {
    // SAFETY: nginx's flag is static. A signal handler may write it meanwhile, so it is read as
    // volatile (N2).
    unsafe { addr_of!(ngx_reconfigure).read_volatile() != 0 }
}

/// Returns whether this is a worker.
pub fn is_worker() -> bool {
    // SAFETY: a number that nginx has set (N2).
    unsafe { ngx_process as u32 == NGX_PROCESS_WORKER }
}

/// Returns whether this run only tests the configuration.
pub fn is_config_test() -> bool {
    // SAFETY: a number that nginx has set (N2).
    unsafe { ngx_test_config != 0 }
}

/// Returns whether this run will serve requests once it has read its configuration: it neither
/// tests the configuration (`-t`) nor sends a signal (`-s`).
pub fn will_serve() -> bool {
    // SAFETY: a number that nginx has set (N2).
    !is_config_test() && unsafe { ngx_process } as u32 != NGX_PROCESS_SIGNALLER
}

/// Returns the number of this worker, as in `$worker_id`.
pub fn worker_id() -> Option<u32> {
    // SAFETY: a number that nginx has set (N2).
    is_worker().then_some(unsafe { ngx_worker } as u32)
}

/// Returns whether this process is finishing its last requests.
pub fn is_shutting_down() -> bool {
    // SAFETY: numbers that nginx has set (N2).
    unsafe { ngx_exiting != 0 || ngx_quit != 0 || ngx_terminate != 0 }
}

/// Returns what kind of process this is. Helpers are recognised by the title that nginx gives them
/// when they start.
pub fn kind() -> ProcessKind {
    // SAFETY: a number that nginx has set (N2).
    let process = unsafe { ngx_process } as u32;
    match process {
        NGX_PROCESS_SINGLE => ProcessKind::Single,
        NGX_PROCESS_MASTER => ProcessKind::Master,
        NGX_PROCESS_WORKER => ProcessKind::Worker,
        _ => crate::probe::other_process::title::kind_of(pid()),
    }
}

/// Returns the pids of the master's live children, by nginx's own table. The table does not have
/// the changes that the master has sent and this process has not read yet.
pub fn siblings() -> Vec<i32> {
    // SAFETY: the table is a static array, of which the first `ngx_last_process` entries are in use
    // (N2).
    let table = unsafe { &*std::ptr::addr_of!(ngx_processes) };
    // SAFETY: a number that nginx has set (N2).
    let used = usize::try_from(unsafe { ngx_last_process }).unwrap_or(0);
    let live = |process: &&nginx_sys::ngx_process_t| process.pid > 0 && process.detached() == 0;
    table.iter().take(used).filter(live).map(|process| process.pid).collect()
}

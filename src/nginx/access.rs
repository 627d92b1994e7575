//! Finds out whether a location is open to every client.
//!
//! Invariants for `unsafe`, in addition to those of [`super`]:
//!
//! - **A1** The configurations of a location are an array with one place for each HTTP module
//!   (`ctx_index`). Each place is null or points to what that module created. The configurations of
//!   nginx's own access modules begin with a pointer to the rules for IPv4, not null if there are
//!   any (`ngx_http_access_module`), a pointer to the realm (`ngx_http_auth_basic_module`), or a
//!   string whose first word is its length, not 0 if it is set (`ngx_http_auth_request_module`).

use std::ffi::{c_void, CStr};

use nginx_sys::{
    ngx_cycle_t, ngx_http_core_loc_conf_t, ngx_http_init_connection, ngx_listening_t, ngx_module_t,
    NGX_HTTP_MODULE,
};

/// nginx's modules that restrict access.
const MODULES: [&CStr; 3] =
    [c"ngx_http_access_module", c"ngx_http_auth_basic_module", c"ngx_http_auth_request_module"];

/// The configurations of a location: an array that nginx owns.
pub type LocationConfs = *mut *mut c_void;

/// Returns whether one of nginx's access modules restricts the location, or the location is
/// `internal`.
///
/// # Safety
///
/// `location` belongs to this cycle, whose configuration nginx has read completely.
pub unsafe fn is_restricted(cycle: &ngx_cycle_t, location: LocationConfs) -> bool {
    http_modules(cycle).any(|(name, module)| {
        // SAFETY: the array has a place for this module, by contract (A1).
        let conf = unsafe { location.add(module.ctx_index).read() };
        if conf.is_null() {
            return false;
        }
        if name == c"ngx_http_core_module" {
            // SAFETY: the core module created a value of this type (A1).
            return unsafe { (*conf.cast::<ngx_http_core_loc_conf_t>()).internal } != 0;
        }
        // SAFETY: the configuration of each of these modules begins with a word (A1).
        MODULES.contains(&name) && unsafe { conf.cast::<usize>().read() } != 0
    })
}

fn http_modules(cycle: &ngx_cycle_t) -> impl Iterator<Item = (&CStr, &ngx_module_t)> {
    // SAFETY: `modules` points to `modules_n` pointers (N2).
    let modules = unsafe { std::slice::from_raw_parts(cycle.modules, cycle.modules_n) };
    modules.iter().filter_map(|module| {
        // SAFETY: each pointer is null or points to a module of the cycle (N2).
        let module = unsafe { module.as_ref() }?;
        let is_http = module.type_ == NGX_HTTP_MODULE as usize && !module.name.is_null();
        // SAFETY: nginx gave each module its name, a C string (N2).
        is_http.then(|| (unsafe { CStr::from_ptr(module.name) }, module))
    })
}

/// Returns whether HTTP listens on an address that other machines can reach.
pub fn is_public(cycle: &ngx_cycle_t) -> bool {
    let listening = &cycle.listening;
    if listening.elts.is_null() {
        return false;
    }
    // SAFETY: the cycle's array holds `nelts` listening sockets (N2).
    let sockets = unsafe {
        std::slice::from_raw_parts(listening.elts.cast::<ngx_listening_t>(), listening.nelts)
    };
    sockets.iter().any(|socket| {
        let http = ngx_http_init_connection as *const () as usize;
        socket.handler.is_some_and(|handler| handler as usize == http) && !is_local(socket)
    })
}

fn is_local(socket: &ngx_listening_t) -> bool {
    // SAFETY: the address of a socket has the size of its family (N2).
    unsafe {
        match i32::from((*socket.sockaddr).sa_family) {
            libc::AF_INET => {
                let address = &*socket.sockaddr.cast::<libc::sockaddr_in>();
                u32::from_be(address.sin_addr.s_addr) >> 24 == 127
            }
            libc::AF_INET6 => {
                let address = &*socket.sockaddr.cast::<libc::sockaddr_in6>();
                std::net::Ipv6Addr::from(address.sin6_addr.s6_addr).is_loopback()
            }
            family => family == libc::AF_UNIX,
        }
    }
}

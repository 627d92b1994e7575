//! Whether a location answers everybody.
//!
//! Invariants for `unsafe`, beside those of [`super`]:
//!
//! - **A1** The configurations of a location are an array with a place for each HTTP module
//!   (`ctx_index`), each null or what that module made. Those of nginx's own access modules begin with
//!   a pointer that is not null when there are rules for IPv4 (`ngx_http_access_module`), one to the
//!   realm (`ngx_http_auth_basic_module`), and a string that is not empty (`ngx_http_auth_request_module`).

use std::ffi::{c_void, CStr};

use nginx_sys::{
    ngx_cycle_t, ngx_http_core_loc_conf_t, ngx_http_init_connection, ngx_listening_t, ngx_module_t,
    NGX_HTTP_MODULE,
};

/// nginx's modules that let only some in.
const MODULES: [&CStr; 3] =
    [c"ngx_http_access_module", c"ngx_http_auth_basic_module", c"ngx_http_auth_request_module"];

/// The configurations of a location, an array of nginx's.
pub type LocationConfs = *mut *mut c_void;

/// Whether some module of nginx's lets not everybody in, or the location is for nginx itself.
///
/// # Safety
///
/// The location is one of the cycle's, all of which is read.
pub unsafe fn is_restricted(cycle: &ngx_cycle_t, location: LocationConfs) -> bool {
    http_modules(cycle).any(|(name, module)| {
        // SAFETY: A1, by contract.
        let conf = unsafe { location.add(module.ctx_index).read() };
        if conf.is_null() {
            return false;
        }
        if name == c"ngx_http_core_module" {
            // SAFETY: A1.
            return unsafe { (*conf.cast::<ngx_http_core_loc_conf_t>()).internal } != 0;
        }
        // SAFETY: A1.
        MODULES.contains(&name) && unsafe { conf.cast::<usize>().read() } != 0
    })
}

fn http_modules(cycle: &ngx_cycle_t) -> impl Iterator<Item = (&CStr, &ngx_module_t)> {
    // SAFETY: N2: an array of as many modules, with names.
    let modules = unsafe { std::slice::from_raw_parts(cycle.modules, cycle.modules_n) };
    modules.iter().filter_map(|module| {
        // SAFETY: N2.
        let module = unsafe { module.as_ref() }?;
        let is_http = module.type_ == NGX_HTTP_MODULE as usize && !module.name.is_null();
        // SAFETY: N2: a string.
        is_http.then(|| (unsafe { CStr::from_ptr(module.name) }, module))
    })
}

/// Whether HTTP listens for others than this machine itself.
pub fn is_public(cycle: &ngx_cycle_t) -> bool {
    let listening = &cycle.listening;
    if listening.elts.is_null() {
        return false;
    }
    // SAFETY: N2: an array of listening sockets.
    let sockets = unsafe {
        std::slice::from_raw_parts(listening.elts.cast::<ngx_listening_t>(), listening.nelts)
    };
    sockets.iter().any(|socket| {
        let http = ngx_http_init_connection as *const () as usize;
        socket.handler.is_some_and(|handler| handler as usize == http) && !is_local(socket)
    })
}

fn is_local(socket: &ngx_listening_t) -> bool {
    // SAFETY: N2: the address of a socket, of the size that its family has.
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

//! Whom a pool belongs to: the server of a request or a connection, and the request line.
//!
//! Invariants for `unsafe`, beside those of [`super`]:
//!
//! - **O1** The pool is live, and its header is as [`pool::Header`] has it: this was found out
//!   before its functions were hooked.
//! - **O2** A request is recognised by its signature and by being the pool's own, a connection by
//!   its place in nginx's table and by being the pool's own. Whatever fails that is not read on.
//! - **O3** What a connection's `data` points to begins with a word, whatever it is: a connection
//!   of HTTP (whose first word points to its address), one of HTTP/2 (to the connection), or a
//!   request (its signature).

use std::ffi::c_void;
use std::slice::from_raw_parts;

use nginx_sys::{
    ngx_connection_t, ngx_cycle, ngx_http_addr_conf_t, ngx_http_conf_ctx_t, ngx_http_connection_t,
    ngx_http_core_module, ngx_http_core_srv_conf_t, ngx_http_in6_addr_t, ngx_http_in_addr_t,
    ngx_http_init_connection, ngx_http_log_ctx_t, ngx_http_port_t, ngx_http_request_t,
    ngx_listening_t, ngx_log_t, ngx_str_t, NGX_HTTP_MODULE,
};

use crate::abi::pool;
use crate::abi::pool::Header;
use crate::probe::pools::Owner;
use crate::report::model::pools::Kind;

/// Bytes of a request line or a name that are told.
const LINE: usize = 256;

/// Large allocations of a pool among which its request is looked for.
const LARGE: usize = 64;

/// Addresses of a port among which a connection's is looked for.
const ADDRESSES: usize = 1024;

/// The owner of a live pool, as far as it is known; the request line only if it is wanted.
pub fn of(pool: usize, kind: Kind, request_line: bool) -> Owner {
    match kind {
        Kind::Request => request_of(pool).map_or_else(Owner::default, |request| Owner {
            server_name: server_name(request.srv_conf),
            request: request_line.then(|| text(bytes(request.request_line))).flatten(),
        }),
        Kind::Connection => {
            let server_name = connection_of(pool).and_then(configuration).and_then(server_name);
            Owner { server_name, request: None }
        }
        _ => Owner::default(),
    }
}

/// The request that a pool was created for: the first thing in it.
pub(super) fn request_of(pool: usize) -> Option<&'static ngx_http_request_t> {
    // SAFETY: O1.
    let header = unsafe { pool::header(pool) };
    let is_request = |address: &usize| {
        // SAFETY: O1: this much of the pool or of an allocation in it is there to be read; the
        // signature comes first, and only what has it is taken for a request (O2).
        unsafe {
            let request = *address as *const ngx_http_request_t;
            (*request).signature == NGX_HTTP_MODULE && (*request).pool as usize == pool
        }
    };
    let size = size_of::<ngx_http_request_t>();
    let first = pool.checked_add(size_of::<Header>())?;
    if header.max >= size {
        // SAFETY: O2.
        let request = (first.checked_add(size)? <= header.last).then_some(first)?;
        // SAFETY: O2.
        return is_request(&request).then(|| unsafe { &*(request as *const ngx_http_request_t) });
    }
    // In a small pool it is the first large allocation, which is the last of their list.
    // SAFETY: O1.
    let last = unsafe { pool::large(header.large) }.take(LARGE).last()?;
    // SAFETY: O1: an allocation knows its size.
    let is_there = last.usable >= size && is_request(&last.address);
    // SAFETY: O2.
    is_there.then(|| unsafe { &*(last.address as *const ngx_http_request_t) })
}

/// The connection that a pool was created for, by the log in it.
pub(super) fn connection_of(pool: usize) -> Option<&'static ngx_connection_t> {
    // SAFETY: O1.
    let header = unsafe { pool::header(pool) };
    let log_end = header.log.checked_add(size_of::<ngx_log_t>())?;
    if header.log < pool || log_end > header.end {
        return None;
    }
    // SAFETY: O1: the log lies in the pool's first block.
    let context = unsafe { (*(header.log as *const ngx_log_t)).data }.cast::<ngx_http_log_ctx_t>();
    // SAFETY: O3: the log of a connection leads to its context, which begins with the connection.
    let connection = unsafe { context.as_ref() }?.connection as usize;
    entry(connection).filter(|connection| connection.pool as usize == pool)
}

/// The connection at an address, if that is one of nginx's table.
pub(super) fn entry(connection: usize) -> Option<&'static ngx_connection_t> {
    // SAFETY: N2.
    let (table, count) = unsafe { ((*ngx_cycle).connections as usize, (*ngx_cycle).connection_n) };
    let offset = connection.checked_sub(table)?;
    let size = size_of::<ngx_connection_t>();
    if offset % size != 0 || offset / size >= count {
        return None;
    }
    // SAFETY: N2: an entry of the table.
    Some(unsafe { &*(connection as *const ngx_connection_t) })
}

/// Whether a listening socket is HTTP's.
pub(super) fn is_of_http(listening: &ngx_listening_t) -> bool {
    let http = ngx_http_init_connection as *const () as usize;
    listening.handler.is_some_and(|handler| handler as usize == http)
}

/// The configuration of the server that a connection of HTTP is for.
pub(super) fn configuration(connection: &ngx_connection_t) -> Option<*mut *mut c_void> {
    // SAFETY: N2: a connection's listening socket lasts as long as its cycle.
    let listening = unsafe { connection.listening.as_ref() }?;
    let data = connection.data;
    if !is_of_http(listening) || data.is_null() {
        return None;
    }
    // SAFETY: O3.
    let word = unsafe { data.cast::<usize>().read() };
    if word as u32 == NGX_HTTP_MODULE {
        // SAFETY: O2.
        let request = unsafe { &*data.cast::<ngx_http_request_t>() };
        let is_its = std::ptr::eq(request.connection, connection);
        return is_its.then_some(request.srv_conf);
    }
    // SAFETY: N2: HTTP keeps its port there.
    let port = unsafe { listening.servers.cast::<ngx_http_port_t>().as_ref() }?;
    let http = if word == std::ptr::from_ref(connection) as usize {
        http_connection_of_http2(data)?
    } else {
        data.cast::<ngx_http_connection_t>()
    };
    // SAFETY: O3: both kinds of connection of HTTP are larger than a word.
    let address = unsafe { (*http).addr_conf };
    if !is_of_port(port, address, listening.sockaddr) {
        return None;
    }
    // SAFETY: O2: its address is one of the port's, so it is a connection of HTTP.
    let context: *const ngx_http_conf_ctx_t = unsafe { (*http).conf_ctx };
    // SAFETY: N4.
    Some(unsafe { context.as_ref() }?.srv_conf)
}

#[cfg(ngx_feature = "http_v2")]
fn http_connection_of_http2(data: *mut c_void) -> Option<*mut ngx_http_connection_t> {
    // SAFETY: O3.
    let http = unsafe { (*data.cast::<nginx_sys::ngx_http_v2_connection_t>()).http_connection };
    (!http.is_null()).then_some(http)
}

#[cfg(not(ngx_feature = "http_v2"))]
fn http_connection_of_http2(_data: *mut c_void) -> Option<*mut ngx_http_connection_t> {
    None
}

/// Whether an address configuration is one of a port's.
fn is_of_port(
    port: &ngx_http_port_t,
    address: *const ngx_http_addr_conf_t,
    socket: *const nginx_sys::sockaddr,
) -> bool {
    let count = port.naddrs.min(ADDRESSES);
    // SAFETY: N2, N4: a port has an array of as many addresses, of the family of its socket.
    unsafe {
        match socket.as_ref().map(|socket| i32::from(socket.sa_family)) {
            Some(libc::AF_INET6) => from_raw_parts(port.addrs.cast::<ngx_http_in6_addr_t>(), count)
                .iter()
                .any(|known| std::ptr::eq(&known.conf, address)),
            Some(_) => from_raw_parts(port.addrs.cast::<ngx_http_in_addr_t>(), count)
                .iter()
                .any(|known| std::ptr::eq(&known.conf, address)),
            None => false,
        }
    }
}

fn server_name(srv_conf: *mut *mut c_void) -> Option<String> {
    text(name_of(srv_conf)?)
}

/// The first name of a server, empty when it has none.
pub(super) fn name_of(srv_conf: *mut *mut c_void) -> Option<&'static [u8]> {
    if srv_conf.is_null() {
        return None;
    }
    // SAFETY: N2, N4: the configurations of a server are an array with a place for each module, and
    // the core module keeps its own there.
    let core = unsafe {
        let index = (*std::ptr::addr_of!(ngx_http_core_module)).ctx_index;
        srv_conf.add(index).read().cast::<ngx_http_core_srv_conf_t>().as_ref()
    }?;
    Some(bytes(core.server_name))
}

/// What a string of nginx says; `None` when it is empty.
fn text(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// A string of nginx, as long as it lasts.
pub(super) fn bytes(string: ngx_str_t) -> &'static [u8] {
    if string.data.is_null() {
        return &[];
    }
    // SAFETY: N4: as long as it says.
    unsafe { from_raw_parts(string.data, string.len.min(LINE)) }
}

//! The owner of a pool: the server of its request or connection, and the request line.
//!
//! Invariants for `unsafe`, in addition to those of [`super`]:
//!
//! - **O1** The pool is live, and its header has the layout of [`pool::Header`]. The module checks
//!   this layout before it hooks the functions of pools.
//! - **O2** A request is recognised by its signature and because its pool is this one. A connection
//!   is recognised by its place in nginx's table and because its pool is this one. Nothing further
//!   is read of what fails the check.
//! - **O3** A connection's `data`, if not null, points to at least one word: to a connection of
//!   HTTP (whose first word points to its address), a connection of HTTP/2 (whose first word points
//!   to the connection), or a request (whose first word is its signature).

use std::ffi::c_void;
use std::slice::from_raw_parts;

use nginx_sys::{
    ngx_connection_t, ngx_cycle, ngx_http_addr_conf_t, ngx_http_conf_ctx_t, ngx_http_connection_t,
    ngx_http_core_module, ngx_http_core_srv_conf_t, ngx_http_in6_addr_t, ngx_http_in_addr_t,
    ngx_http_init_connection, ngx_http_log_ctx_t, ngx_http_port_t, ngx_http_request_t,
    ngx_listening_t, ngx_log_t, ngx_str_t, NGX_HTTP_MODULE,
};

use crate::abi::pool;
use crate::abi::pool::PoolHeader;
use crate::probe::pools::Owner;
use crate::report::model::pools::PoolKind;

/// Bytes of a request line or a name that are reported at most.
const LINE: usize = 256;

/// The number of large allocations of a pool that are searched for its request.
const LARGE: usize = 64;

/// The number of a port's addresses that are searched for a connection's address.
const ADDRESSES: usize = 1024;

/// Returns the owner of a live pool, if it is known. Reads the request line only if `request_line`.
pub fn of(pool: usize, kind: PoolKind, request_line: bool) -> Owner {
    match kind {
        PoolKind::Request => request_of(pool).map_or_else(Owner::default, |request| Owner {
            server_name: server_name(request.srv_conf),
            request: request_line.then(|| text(bytes(request.request_line))).flatten(),
        }),
        PoolKind::Connection => {
            let server_name = connection_of(pool).and_then(configuration).and_then(server_name);
            Owner { server_name, request: None }
        }
        _ => Owner::default(),
    }
}

/// Returns the request that a pool was created for. It is the first allocation in the pool.
pub(super) fn request_of(pool: usize) -> Option<&'static ngx_http_request_t> {
    // SAFETY: the pool is live (O1).
    let header = unsafe { pool::header(pool) };
    let is_request = |address: &usize| {
        // SAFETY: the first bytes of the pool, or of an allocation in it, can be read (O1). The
        // signature comes first, and only memory that has it is used as a request (O2).
        unsafe {
            let request = *address as *const ngx_http_request_t;
            (*request).signature == NGX_HTTP_MODULE && (*request).pool as usize == pool
        }
    };
    let size = size_of::<ngx_http_request_t>();
    let first = pool.checked_add(size_of::<PoolHeader>())?;
    if header.max >= size {
        // SAFETY: `first` points to `size` bytes of the pool that are in use (O1).
        let request = (first.checked_add(size)? <= header.last).then_some(first)?;
        // SAFETY: the memory was recognised as a request of this pool (O2).
        return is_request(&request).then(|| unsafe { &*(request as *const ngx_http_request_t) });
    }
    // In a small pool, the request is the first large allocation, which is the last one in the
    // list.
    // SAFETY: the list of a live pool can be read (O1).
    let last = unsafe { pool::large(header.large) }.take(LARGE).last()?;
    // SAFETY: the allocation is at least as large as a request (O1).
    let is_there = last.usable >= size && is_request(&last.address);
    // SAFETY: the memory was recognised as a request of this pool (O2).
    is_there.then(|| unsafe { &*(last.address as *const ngx_http_request_t) })
}

/// Returns the connection that a pool was created for. The log in the pool leads to it.
pub(super) fn connection_of(pool: usize) -> Option<&'static ngx_connection_t> {
    // SAFETY: the pool is live (O1).
    let header = unsafe { pool::header(pool) };
    let log_end = header.log.checked_add(size_of::<ngx_log_t>())?;
    if header.log < pool || log_end > header.end {
        return None;
    }
    // SAFETY: the log lies in the pool's first block (O1).
    let context = unsafe { (*(header.log as *const ngx_log_t)).data }.cast::<ngx_http_log_ctx_t>();
    // SAFETY: the log of a connection leads to its context, which begins with the connection (O3).
    let connection = unsafe { context.as_ref() }?.connection as usize;
    entry(connection).filter(|connection| connection.pool as usize == pool)
}

/// Returns the connection at an address, if the address is an entry of nginx's table.
pub(super) fn entry(connection: usize) -> Option<&'static ngx_connection_t> {
    // SAFETY: `ngx_cycle` points to the current cycle (N2).
    let (table, count) = unsafe { ((*ngx_cycle).connections as usize, (*ngx_cycle).connection_n) };
    let offset = connection.checked_sub(table)?;
    let size = size_of::<ngx_connection_t>();
    if offset % size != 0 || offset / size >= count {
        return None;
    }
    // SAFETY: the address is an entry of the table (N2).
    Some(unsafe { &*(connection as *const ngx_connection_t) })
}

/// Returns whether HTTP uses a listening socket.
pub(super) fn is_of_http(listening: &ngx_listening_t) -> bool {
    let http = ngx_http_init_connection as *const () as usize;
    listening.handler.is_some_and(|handler| handler as usize == http)
}

/// Returns the configuration of the server that a connection of HTTP belongs to.
pub(super) fn configuration(connection: &ngx_connection_t) -> Option<*mut *mut c_void> {
    // SAFETY: a connection's listening socket lives as long as its cycle (N2).
    let listening = unsafe { connection.listening.as_ref() }?;
    let data = connection.data;
    if !is_of_http(listening) || data.is_null() {
        return None;
    }
    // SAFETY: `data` is not null, so it points to at least one word (O3).
    let word = unsafe { data.cast::<usize>().read() };
    if word as u32 == NGX_HTTP_MODULE {
        // SAFETY: the signature says that this is a request (O2).
        let request = unsafe { &*data.cast::<ngx_http_request_t>() };
        let is_its = std::ptr::eq(request.connection, connection);
        return is_its.then_some(request.srv_conf);
    }
    // SAFETY: HTTP stores its port in `servers` (N2).
    let port = unsafe { listening.servers.cast::<ngx_http_port_t>().as_ref() }?;
    let http = if word == std::ptr::from_ref(connection) as usize {
        http_connection_of_http2(data)?
    } else {
        data.cast::<ngx_http_connection_t>()
    };
    // SAFETY: both kinds of connections of HTTP are larger than a word (O3).
    let address = unsafe { (*http).addr_conf };
    if !is_of_port(port, address, listening.sockaddr) {
        return None;
    }
    // SAFETY: `addr_conf` is one of the port's, so this is a connection of HTTP (O2).
    let context: *const ngx_http_conf_ctx_t = unsafe { (*http).conf_ctx };
    // SAFETY: the context is null or lies in the cycle's pool (N4).
    Some(unsafe { context.as_ref() }?.srv_conf)
}

#[cfg(ngx_feature = "http_v2")]
fn http_connection_of_http2(data: *mut c_void) -> Option<*mut ngx_http_connection_t> {
    // SAFETY: the first word of `data` points to the connection, so this is HTTP/2's (O3).
    let http = unsafe { (*data.cast::<nginx_sys::ngx_http_v2_connection_t>()).http_connection };
    (!http.is_null()).then_some(http)
}

#[cfg(not(ngx_feature = "http_v2"))]
fn http_connection_of_http2(_data: *mut c_void) -> Option<*mut ngx_http_connection_t> {
    None
}

/// Returns whether an address configuration belongs to a port.
fn is_of_port(
    port: &ngx_http_port_t,
    address: *const ngx_http_addr_conf_t,
    socket: *const nginx_sys::sockaddr,
) -> bool {
    let count = port.naddrs.min(ADDRESSES);
    // SAFETY: a port has an array of `naddrs` addresses, of the family of its socket (N2, N4).
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

/// Returns the first name of a server, which is empty if the server has no name.
pub(super) fn name_of(srv_conf: *mut *mut c_void) -> Option<&'static [u8]> {
    if srv_conf.is_null() {
        return None;
    }
    // SAFETY: the configurations of a server are an array with one place for each module, and the
    // core module keeps its own in its place (N2, N4).
    let core = unsafe {
        let index = (*std::ptr::addr_of!(ngx_http_core_module)).ctx_index;
        srv_conf.add(index).read().cast::<ngx_http_core_srv_conf_t>().as_ref()
    }?;
    Some(bytes(core.server_name))
}

/// Returns the text of a string of nginx, or `None` if it is empty.
fn text(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Returns the first [`LINE`] bytes of a string of nginx. The slice is valid as long as the string
/// is.
pub(super) fn bytes(string: ngx_str_t) -> &'static [u8] {
    if string.data.is_null() {
        return &[];
    }
    // SAFETY: the string has at least that many bytes (N4).
    unsafe { from_raw_parts(string.data, string.len.min(LINE)) }
}

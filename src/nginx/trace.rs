//! Traces a pool to the server, the upstream and the listening socket that it is for.
//!
//! The log of a pool of a client's HTTP connection leads to the connection (see [`owner`]). Other
//! connections (to upstreams, of stream, mail and other modules) are found by the address of their
//! pool, in a table that [`Traces::prepare`] builds from nginx's connections.
//!
//! Invariants for `unsafe`, in addition to those of [`super`] and [`owner`]:
//!
//! - **T1** The `data` of a connection to an upstream that is not idle is its request: nginx sets
//!   it before it creates the pool of kind `upstream`. It is accepted as a request if it has the
//!   signature, and if the request's upstream has this very connection.
//! - **T2** The upstream of a request is null, or was allocated in the pool of the request.
//! - **T3** The configuration of an upstream is read only if it is found in nginx's array of
//!   upstreams, which lives as long as the cycle.

use std::ffi::c_void;
use std::io::Write;
use std::mem::offset_of;
use std::sync::OnceLock;

use nginx_sys::{
    ngx_connection_t, ngx_cycle, ngx_http_conf_ctx_t, ngx_http_log_ctx_t, ngx_http_module,
    ngx_http_request_t, ngx_http_upstream_main_conf_t, ngx_http_upstream_module,
    ngx_http_upstream_srv_conf_t, ngx_listening_t, ngx_log_t, ngx_module_t, NGX_HTTP_MODULE,
};

use super::owner;
use crate::abi::pool;
use crate::probe::pools::{Owner, Traced, Tracer};
use crate::report::model::pools::PoolKind;
use crate::sys::memory::{word, Memory, OwnMemory};
use crate::sys::symbol;

/// Bytes of a name that are reported at most, and of a name with a port.
const NAME: usize = 128;
const NAME_AND_PORT: usize = NAME + 6;

/// The entries of the largest table: 512 KB. At most half of them are used.
const TABLE: usize = 1 << 17;

/// Returns the tracer of this nginx.
pub fn tracer() -> Box<dyn Tracer> {
    Box::new(Traces::new())
}

/// Connections by the address of their pool: a hash table of places in nginx's own table. An entry
/// is the place plus 1, or 0 if it is empty. A place may be out of date, so the connection itself
/// is checked.
#[derive(Debug)]
struct Traces {
    table: Vec<u32>,
    used: usize,
    /// The place of the connection to look at next.
    next: usize,
}

impl Traces {
    fn new() -> Self {
        // SAFETY: nginx has set its cycle before it calls a module (N2).
        let cycle = unsafe { &*ngx_cycle };
        let in_use = cycle.connection_n.saturating_sub(cycle.free_connection_n);
        let places = in_use.saturating_mul(2).saturating_add(64).next_power_of_two().min(TABLE);
        let mut table = Vec::new();
        if table.try_reserve_exact(places).is_ok() {
            table.resize(places, 0);
        }
        Traces { table, used: 0, next: 0 }
    }

    fn place(&self, pool: usize) -> usize {
        let mixed = (pool as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        mixed as usize & self.table.len().wrapping_sub(1)
    }

    fn insert(&mut self, pool: usize, index: usize) {
        let Ok(entry) = u32::try_from(index.saturating_add(1)) else { return };
        if self.used.saturating_mul(2) >= self.table.len() {
            return;
        }
        let mut place = self.place(pool);
        while self.table.get(place).is_some_and(|taken| *taken != 0) {
            place = (place + 1) & (self.table.len() - 1);
        }
        if let Some(free) = self.table.get_mut(place) {
            *free = entry;
            self.used += 1;
        }
    }

    /// Returns the connection that has this pool.
    fn find(&self, pool: usize) -> Option<&'static ngx_connection_t> {
        let mut place = self.place(pool);
        loop {
            let index = (*self.table.get(place)? as usize).checked_sub(1)?;
            let found = connection(index)?;
            if found.pool as usize == pool {
                return Some(found);
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }
}

impl Tracer for Traces {
    fn prepare(&mut self, connections: usize) -> bool {
        for _ in 0..connections {
            let Some(found) = connection(self.next) else { return true };
            let is_open = found.fd >= 0 && !found.pool.is_null();
            if is_open && !listening(found).is_some_and(owner::is_of_http) {
                self.insert(found.pool as usize, self.next);
            }
            self.next += 1;
        }
        false
    }

    fn trace(&self, pool: usize, kind: PoolKind, take: &mut dyn FnMut(&Traced)) {
        let mut traced = Traced::default();
        let mut name = [0; NAME_AND_PORT];
        match kind {
            PoolKind::Request => {
                if let Some(request) = owner::request_of(pool) {
                    of_request(request, &mut traced, &mut name);
                }
            }
            PoolKind::Connection | PoolKind::Http2Stream => {
                let client = owner::connection_of(pool).or_else(|| self.find(pool));
                if let Some(client) = client.or_else(|| of_log(pool)) {
                    traced.is_idle = client.pool as usize == pool && is_idle(client);
                    traced.server = owner::configuration(client).and_then(owner::name_of).map(cut);
                    traced.listener = listening(client).map(address);
                }
            }
            PoolKind::Cycle | PoolKind::Conf => {}
            PoolKind::Upstream | PoolKind::Lua | PoolKind::Other => {
                if let Some(peer) = self.find(pool) {
                    traced.is_idle = is_idle(peer);
                    if kind == PoolKind::Upstream {
                        of_upstream(peer, &mut traced, &mut name);
                    }
                }
            }
        }
        take(&traced);
    }

    fn owner(&self, pool: usize, kind: PoolKind, request_line: bool) -> Owner {
        owner::of(pool, kind, request_line)
    }
}

/// Returns an entry of nginx's table of connections. The master has no such table.
fn connection(index: usize) -> Option<&'static ngx_connection_t> {
    // SAFETY: a table of `connection_n` entries, which lives as long as the process (N2).
    unsafe {
        let cycle = &*ngx_cycle;
        let is_one = index < cycle.connection_n && !cycle.connections.is_null();
        is_one.then(|| &*cycle.connections.add(index))
    }
}

/// Returns whether nginx may close the connection when it needs one: it waits for a request, or is
/// kept for later use.
fn is_idle(connection: &ngx_connection_t) -> bool {
    connection.idle() != 0 || connection.reusable() != 0
}

/// Returns the listening socket of a connection, if it is one of the cycle's.
fn listening(connection: &ngx_connection_t) -> Option<&'static ngx_listening_t> {
    // SAFETY: the cycle's array of listening sockets (N2).
    let (first, count) =
        unsafe { ((*ngx_cycle).listening.elts as usize, (*ngx_cycle).listening.nelts) };
    let offset = (connection.listening as usize).checked_sub(first)?;
    let size = size_of::<ngx_listening_t>();
    let is_one = offset % size == 0 && offset / size < count;
    // SAFETY: the address is an entry of that array (N2).
    is_one.then(|| unsafe { &*connection.listening })
}

fn address(socket: &'static ngx_listening_t) -> &'static [u8] {
    cut(owner::bytes(socket.addr_text))
}

fn cut(name: &[u8]) -> &[u8] {
    name.get(..NAME).unwrap_or(name)
}

/// Returns the connection whose log the pool uses, for a further pool of a connection: the log lies
/// in another pool of that connection.
fn of_log(pool: usize) -> Option<&'static ngx_connection_t> {
    // SAFETY: the pool is live (O1).
    let log = unsafe { pool::header(pool) }.log;
    let mut data = [0; 8];
    OwnMemory.read(log.checked_add(offset_of!(ngx_log_t, data))?, &mut data).ok()?;
    let context = word(&data, 0);
    let at = context.checked_add(offset_of!(ngx_http_log_ctx_t, connection))?;
    OwnMemory.read(at, &mut data).ok()?;
    owner::entry(word(&data, 0)).filter(|found| found.log as usize == log)
}

fn of_request<'a>(
    request: &'static ngx_http_request_t,
    traced: &mut Traced<'a>,
    name: &'a mut [u8; NAME_AND_PORT],
) {
    traced.server = owner::name_of(request.srv_conf).map(cut);
    // SAFETY: a request ends before its connection does (N3).
    traced.listener = unsafe { request.connection.as_ref() }.and_then(listening).map(address);
    // SAFETY: the upstream is null, or lies in the pool of the request (T2).
    let upstream = unsafe { request.upstream.as_ref() };
    let known = upstream.and_then(|upstream| upstreams().find(|one| *one == upstream.upstream));
    // SAFETY: the configuration is one of the array's (T3).
    traced.upstream = known.and_then(|known| unsafe { known.as_ref() }).map(|u| label(u, name));
}

/// Traces a connection to an upstream.
fn of_upstream<'a>(
    peer: &'static ngx_connection_t,
    traced: &mut Traced<'a>,
    name: &'a mut [u8; NAME_AND_PORT],
) {
    if peer.idle() != 0 {
        traced.upstream = kept_for(peer).map(|upstream| label(upstream, name));
        return;
    }
    let request = peer.data.cast::<ngx_http_request_t>();
    // SAFETY: `data` is not null, so it points to at least one word (O3).
    if request.is_null() || unsafe { request.cast::<u32>().read() } != NGX_HTTP_MODULE {
        return;
    }
    // SAFETY: the signature says that this is a request (T1).
    let request = unsafe { &*request };
    // SAFETY: the upstream is null, or lies in the pool of the request (T2).
    let upstream = unsafe { request.upstream.as_ref() };
    if upstream.is_some_and(|upstream| std::ptr::eq(upstream.peer.connection, peer)) {
        of_request(request, traced, name);
    }
}

/// Returns the upstream that an idle connection is kept for. In nginx's keepalive module, the data
/// of such a connection begins with a pointer to the module's configuration of the upstream.
fn kept_for(peer: &ngx_connection_t) -> Option<&'static ngx_http_upstream_srv_conf_t> {
    static MODULE: OnceLock<Option<usize>> = OnceLock::new();
    let module = *MODULE.get_or_init(|| symbol::address(c"ngx_http_upstream_keepalive_module"));
    // SAFETY: the symbol is a module of the executable, and nginx has set its index (N2).
    let index = unsafe { (*(module? as *const ngx_module_t)).ctx_index };
    let mut data = [0; 8];
    OwnMemory.read(peer.data as usize, &mut data).ok()?;
    let conf = word(&data, 0) as *mut c_void;
    let is_of = |upstream: &&ngx_http_upstream_srv_conf_t| {
        // SAFETY: `srv_conf` is null, or an array with one place for each module of HTTP (N4).
        !upstream.srv_conf.is_null() && unsafe { upstream.srv_conf.add(index).read() } == conf
    };
    // SAFETY: the configuration is one of the array's (T3).
    upstreams().filter_map(|upstream| unsafe { upstream.as_ref() }).find(is_of)
}

/// Returns the upstreams of the cycle.
fn upstreams() -> impl Iterator<Item = *mut ngx_http_upstream_srv_conf_t> {
    let (first, count) = all_upstreams().unwrap_or((std::ptr::null_mut(), 0));
    // SAFETY: the array has `count` pointers (T3).
    (0..count).map(move |index| unsafe { first.add(index).read() })
}

fn all_upstreams() -> Option<(*mut *mut ngx_http_upstream_srv_conf_t, usize)> {
    // SAFETY: nginx has made a place for each core module, null if the configuration has no such
    // block. HTTP's leads to an array with one place for each of its modules (N2).
    let main = unsafe {
        let index = (*std::ptr::addr_of!(ngx_http_module)).index;
        let context = (*ngx_cycle).conf_ctx.add(index).read().cast::<ngx_http_conf_ctx_t>();
        let index = (*std::ptr::addr_of!(ngx_http_upstream_module)).ctx_index;
        let main = context.as_ref()?.main_conf.add(index).read();
        main.cast::<ngx_http_upstream_main_conf_t>().as_ref()?
    };
    Some((main.upstreams.elts.cast(), main.upstreams.nelts))
}

/// Returns the name of an upstream block, or the host and the port of an upstream without one.
fn label<'a>(
    upstream: &'static ngx_http_upstream_srv_conf_t,
    name: &'a mut [u8; NAME_AND_PORT],
) -> &'a [u8] {
    let host = cut(owner::bytes(upstream.host));
    if upstream.port == 0 {
        return host;
    }
    let mut rest: &mut [u8] = name;
    let _ = rest.write_all(host);
    let _ = write!(rest, ":{}", upstream.port);
    let left = rest.len();
    name.get(..NAME_AND_PORT - left).unwrap_or_default()
}

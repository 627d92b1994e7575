//! The arrays that nginx allocates outside its pools.
//!
//! Invariants for `unsafe`: those of [`super`].

use std::mem::size_of;

use nginx_sys::{ngx_connection_t, ngx_cycle, ngx_event_t};

use crate::report::model::named::Named;

/// Returns the sizes of the arrays of connections and of their events, in bytes. A process that runs
/// an event loop allocates them when it starts, with `worker_connections` elements each; others have
/// none.
pub fn arrays() -> Named<u64> {
    // SAFETY: `ngx_cycle` points to the current cycle (N2).
    let cycle = unsafe { &*ngx_cycle };
    let arrays = [
        ("connections", cycle.connections.is_null(), size_of::<ngx_connection_t>()),
        ("read_events", cycle.read_events.is_null(), size_of::<ngx_event_t>()),
        ("write_events", cycle.write_events.is_null(), size_of::<ngx_event_t>()),
    ];
    let elements = cycle.connection_n as u64;
    let exist = arrays.into_iter().filter(|(_, is_null, _)| !is_null);
    Named(exist.map(|(name, _, size)| (name.to_owned(), elements * size as u64)).collect())
}

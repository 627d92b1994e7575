//! `ngx_http_memstat_module`: where the memory of every nginx process goes.
#![warn(missing_docs)]

pub mod hook;
pub mod probe;
pub mod query;
pub mod render;
pub mod report;
pub mod slot;

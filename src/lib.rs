//! `ngx_http_memstat_module`: where the memory of every nginx process goes.
//!
//! A request flows through the files in this order:
//!
//! - `handler` reads it and asks `gather` for everybody's figures;
//! - `gather` wakes the other processes, and each takes its own `probe::snapshot`: address ranges,
//!   the pages in them, the allocator's statistics, the kernel's totals;
//! - `report::close` makes the sum of it, `slot` carries it through shared memory;
//! - `report` puts all processes into one model, `negotiate` chooses a format, `render`
//!   writes it piece by piece, and `reply` is what is sent.
//!
//! `conf` reads the directives, `hook` patches what has to be counted where it happens, `nginx`
//! wraps the C interface. Everything but `conf`, `gather`, `handler`, `reply` and `nginx` builds
//! without nginx (`--no-default-features`).
#![warn(missing_docs)]

pub mod hook;
pub mod negotiate;
pub mod own;
pub mod probe;
pub mod query;
pub mod render;
pub mod report;
pub mod slot;
pub mod tally;

#[cfg(feature = "module")]
mod conf;
#[cfg(feature = "module")]
mod gather;
#[cfg(feature = "module")]
mod handler;
#[cfg(feature = "module")]
mod lifecycle;
#[cfg(feature = "module")]
mod lua;
#[cfg(feature = "module")]
mod nginx;
#[cfg(feature = "module")]
mod reply;

#[cfg(feature = "module")]
pub use lifecycle::{ngx_http_memstat_module, ngx_memstat_module};

#[global_allocator]
static ALLOCATOR: own::Counting = own::Counting;

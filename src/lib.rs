//! `ngx_http_memstat_module`: where the memory of every nginx process goes.
//!
//! A request flows through the rooms in this order:
//!
//! - `handler` reads it (`http::query`, `http::negotiate`) and asks `gather` for everybody's figures;
//! - `gather` wakes the other processes, and each takes its own `probe::snapshot`: address ranges,
//!   the pages in them, the allocator's statistics, the kernel's totals;
//! - `report::balance` makes the entries add up, `scoreboard` carries the figures through shared
//!   memory;
//! - `report` puts all processes into one model, `render` writes it piece by piece, and
//!   `http::reply` is what is sent.
//!
//! `conf` reads the directives, `hook` patches what has to be counted where it happens, `tally`
//! keeps the counts. `sys` reads what the kernel and the loader say, `abi` structures that belong to
//! others, `nginx` wraps the C interface. Imports only point down: tools/floors lists the floors and
//! checks it. All below `nginx` builds without nginx (`--no-default-features`).
#![warn(missing_docs)]

pub mod abi;
pub mod budget;
pub mod format;
pub mod hook;
pub mod http;
pub mod own;
pub mod probe;
pub mod render;
pub mod report;
pub mod scoreboard;
pub mod sys;
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
mod loading;
#[cfg(feature = "module")]
mod lua;
#[cfg(feature = "module")]
mod nginx;

#[cfg(feature = "module")]
pub use lifecycle::{ngx_http_memstat_module, ngx_memstat_module};

#[global_allocator]
static ALLOCATOR: own::Counting = own::Counting;

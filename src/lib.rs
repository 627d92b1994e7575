//! `ngx_http_memstat_module`: where the memory of every nginx process goes.
//!
//! A request passes through the modules in this order:
//!
//! - `handler` parses it (`http::query`, `http::negotiate`) and hands it to `http::answer`, which
//!   asks `exchange` for the figures of all processes;
//! - `exchange` wakes the other processes. Each of them takes its own `probe::snapshot`: address
//!   ranges, the pages in them, the allocator's statistics, the kernel's totals;
//! - `report::balance` makes the entries of a process add up, and `scoreboard` passes the figures
//!   on through shared memory;
//! - `report` combines all processes into one model (`report::model`), `doctor` adds its verdicts,
//!   `render` writes it in pieces, and `http::answer` sends it.
//!
//! `conf` reads the directives. `hook` patches the functions whose calls must be counted
//! (`hook::arch` has everything that depends on the processor), and `tally` keeps the counts. `sys` reads from the kernel and the loader, `abi` reads structures
//! that other programs define, and `nginx` wraps the C interface. Imports only point down:
//! tools/floors lists the floors and checks the imports. Everything below `nginx` builds without
//! nginx (`--no-default-features`).
#![warn(missing_docs)]

pub mod abi;
pub mod budget;
pub mod doctor;
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
mod exchange;
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
static ALLOCATOR: own::CountingAllocator = own::CountingAllocator;

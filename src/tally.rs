//! Tallies: what the hooks count, in plain memory of this process.
#![forbid(unsafe_code)]

pub mod pools;

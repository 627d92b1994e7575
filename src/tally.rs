//! Tallies: what the hooks count, in plain memory of this process, or of this server.
#![forbid(unsafe_code)]

pub mod lua;
pub mod mappings;
pub mod pools;
pub mod zones;

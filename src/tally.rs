//! Tallies: the counts that the hooks keep, in plain memory of this process or shared by the
//! server.
#![forbid(unsafe_code)]

pub mod lua;
pub mod mappings;
pub mod pools;
pub mod zones;

//! Combines the figures of several processes.
#![forbid(unsafe_code)]

pub mod lua;
pub mod pages;
pub mod pools;
pub mod sharing;
pub mod zones;

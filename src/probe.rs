//! What is read on demand.

pub mod budget;
pub mod pagemap;

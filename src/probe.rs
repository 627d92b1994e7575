//! Reads figures on demand, each probe from its own process.

pub mod heap;
pub mod layout;
pub mod lua;
pub mod mappings;
pub mod mcode;
pub mod other_process;
pub mod pools;
pub mod rounds;
pub mod shared;
pub mod sharing;
pub mod snapshot;
pub mod touched;
pub mod uses;
pub mod zones;

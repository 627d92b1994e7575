//! What is read on demand.

pub mod budget;
pub mod elf;
pub mod heap;
pub mod layout;
pub mod lua;
pub mod luajit;
pub mod maps;
pub mod memory;
pub mod pagemap;
pub mod pool;
pub mod pools;
pub mod ranges;
pub mod scan;
pub mod shared;
pub mod slab;
pub mod snapshot;
pub mod status;
pub mod title;
pub mod touched;
pub mod uses;
pub mod zones;

//! Structures that belong to others: nginx, LuaJIT, the C library.

pub mod glibc;
pub mod luajit;
pub mod pool;
pub mod product;
pub mod slab;

//! Decodes structures of other programs: nginx, LuaJIT and the C library.

pub mod glibc;
pub mod luajit;
pub mod pool;
pub mod product;
pub mod slab;

//! Reads what the kernel and the loader report about this process and about other processes.

pub mod cgroup;
pub mod elf;
pub mod exports;
pub mod functions;
pub mod image;
pub mod life;
pub mod limits;
pub mod maps;
pub mod memory;
pub mod near;
pub mod pagemap;
pub mod ranges;
pub mod scan;
pub mod status;
pub mod symbol;
pub mod symbols;
#[cfg(test)]
pub(crate) mod testing;
pub mod window;

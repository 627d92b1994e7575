//! Which pages of a process others map, too.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// What a process maps alone and what it shares. Figures are bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// Anonymous pages that others map, too.
    pub anon_shared: u64,
    /// Pages of files that only this process maps.
    pub file_private: u64,
    /// Pages of shared memory that only this process maps, nginx's apart.
    pub shmem_private: u64,
    /// All pages that others map, too.
    pub shared: u64,
    /// The anonymous ones among these, by generation and address.
    pub anon: PageSet,
    /// The pages of files among these, by file and offset.
    pub files: PageSet,
    /// The pages of shared memory among these, nginx's apart, by file and offset.
    pub shmem: PageSet,
    /// `Pss_File`: pages of files, each divided by the number of processes that map it. Only where it
    /// is cheap to ask for.
    pub pss_file: Option<u64>,
}

/// A set of page numbers as it travels between processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageSet {
    /// A block has `1 << shift` pages.
    pub(in crate::report) shift: u8,
    /// Of each span: blocks since the last one, its blocks, the pages of each that are in the set.
    pub(in crate::report) runs: Vec<(u64, u64, u64)>,
}

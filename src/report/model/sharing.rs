//! The pages of a process that other processes map, too.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// The pages that a process maps alone and those that it shares. Figures are in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// Anonymous pages that other processes map, too.
    pub anon_shared: u64,
    /// Pages of files that only this process maps.
    pub file_private: u64,
    /// Pages of shared memory that only this process maps, without nginx's zones.
    pub shmem_private: u64,
    /// All pages that other processes map, too.
    pub shared: u64,
    /// The anonymous pages of `shared`, by address.
    pub anon: PageSet,
    /// The file pages of `shared`, by file and offset.
    pub files: PageSet,
    /// The pages of shared memory of `shared`, by file and offset, without nginx's zones.
    pub shmem: PageSet,
    /// `Pss_File`: file pages, each divided by the number of processes that map it. Known only if
    /// it is cheap to read.
    pub pss_file: Option<u64>,
}

/// A set of page numbers, encoded for the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageSet {
    /// A block has `1 << shift` pages.
    pub(in crate::report) shift: u8,
    /// For each span: the blocks between the last one and it, the number of its blocks, and the
    /// number of pages of each block that are in the set.
    pub(in crate::report) runs: Vec<(u64, u64, u64)>,
}

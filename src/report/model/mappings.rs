//! The largest mappings among the memory that has no owner in the breakdown.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// The largest mappings of two entries of the breakdown, those with the most bytes in RAM first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mappings {
    /// Of `file_other`.
    pub file_other: Vec<Mapping>,
    /// Of `anon_other`.
    pub anon_other: Vec<Mapping>,
}

/// Mappings of one path with the same permissions. Mappings without a name are merged only if they
/// are small.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The file or the name in `/proc/PID/maps`; `None` if the mapping has none.
    pub path: Option<String>,
    /// The permissions, such as `rw-p`.
    pub perms: String,
    /// Virtual bytes.
    pub reserved: u64,
    /// Bytes in RAM. `MAP_HUGETLB` pages are included here, but not in the process's `resident`.
    pub resident: Option<u64>,
    /// The age of `resident` when the snapshot was taken, in milliseconds.
    pub resident_ms_ago: Option<u64>,
    /// The number of mappings.
    pub count: u64,
}

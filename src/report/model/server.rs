//! The whole reply.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::container::Container;
use super::health::Health;
use super::process::Process;
use super::zones::SharedZones;

/// The version of the module.
pub const MODULE: &str = env!("CARGO_PKG_VERSION");

/// The version of the JSON shape.
pub const SCHEMA: u32 = 1;

/// The whole reply.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Server {
    /// The version of this shape, [`SCHEMA`].
    pub schema: u32,
    /// The version of the module.
    pub module: String,
    /// The version of nginx, such as `1.22.1`.
    pub nginx: String,
    /// The executable's own name and version, such as `openresty/1.27.1.2`; for nginx itself
    /// `nginx/1.22.1`.
    pub product: Option<String>,
    /// The time of the reply, RFC 3339.
    pub time: String,
    /// The size of a page in bytes.
    pub page_size: u64,
    /// The process that answered.
    pub answered_by: AnsweredBy,
    /// The time from the arrival of the request at the handler to this reply, in microseconds.
    pub elapsed_us: u64,
    /// What is wrong with the server, and what to do.
    pub health: Health,
    /// The processes: the master first, then by kind, id and generation.
    pub processes: Vec<Process>,
    /// The shared memory zones, by name.
    pub shared_zones: SharedZones,
    /// Sums over the processes.
    pub totals: Totals,
    /// The memory of the container; `null` if there is none.
    pub container: Option<Container>,
    /// Whether only one zone was requested.
    #[serde(skip)]
    pub narrowed: bool,
}

/// The process that answered a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredBy {
    /// Process id.
    pub pid: i32,
    /// The worker's number, as in `$worker_id`; `null` outside a worker.
    pub id: Option<u32>,
}

/// Sums over all processes of the server, even if not all of them are in the reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Processes of the server.
    pub processes: u64,
    /// Sum of `system.resident`: a shared page counts once for each process that maps it.
    pub resident: Option<u64>,
    /// The memory that the server takes: each page in RAM counts once, no matter how many processes
    /// map it. File pages that other programs also map count in part, if the part is known.
    pub resident_unique: Option<u64>,
    /// The largest possible error of the estimated parts of `resident_unique`, in bytes.
    pub resident_unique_error: Option<u64>,
    /// Sum of `system.swap`.
    pub swap: Option<u64>,
    /// nginx's shared memory in RAM, each page counted once.
    pub shared_memory: Option<u64>,
}

//! What a snapshot is told, and what it remembers.
#![forbid(unsafe_code)]

use std::time::Instant;

use crate::abi::slab;
use crate::probe::heap::HeapProbe;
use crate::probe::mappings::MappingsProbe;
use crate::probe::pools::{PoolsProbe, Tracer};
use crate::probe::shared::Remembered;
use crate::probe::sharing::SharingProbe;
use crate::probe::touched::Touched;
use crate::probe::zones::ZoneMapping;
use crate::report::model::{Hooks, Kind, State};

/// What only nginx knows of the process.
#[derive(Debug, Clone)]
pub struct Identity {
    /// See [`Process::kind`].
    pub kind: Kind,
    /// See [`Process::id`].
    pub id: Option<u32>,
    /// See [`Process::pid`].
    pub pid: i32,
    /// See [`Process::generation`].
    pub generation: u64,
    /// See [`Process::state`].
    pub state: State,
    /// When the process began to run the module's code.
    pub started: Instant,
    /// See [`Process::hooks`].
    pub hooks: Hooks,
    /// See [`Own::bytes`].
    pub own_bytes: u64,
    /// A number that is another one once a process of the server has started or left.
    pub membership: u64,
    /// nginx's shared mappings.
    pub zones: Vec<ZoneMapping>,
    /// How a slab pool is laid out.
    pub slab: slab::Layout,
    /// Makes what finds out whose pools are.
    pub tracer: fn() -> Box<dyn Tracer>,
    /// Whether request lines are wanted.
    pub requests: bool,
}

/// The probes that remember something from one measurement to the next.
pub struct Probes {
    /// The system allocator.
    pub heap: HeapProbe,
    /// nginx's pools.
    pub pools: PoolsProbe,
    /// Mappings that nothing claims.
    pub mappings: MappingsProbe,
    /// Touched pages of zones.
    pub touched: Touched,
    /// Pages that other processes map, too.
    pub sharing: SharingProbe,
    /// Whether the next measurement is to count all of them.
    pub refresh_zones: bool,
    /// Pages of zones that are in RAM.
    pub resident: Remembered,
}

impl Default for Probes {
    /// Nothing is known yet.
    fn default() -> Self {
        Probes {
            heap: HeapProbe::new(),
            pools: PoolsProbe::default(),
            mappings: MappingsProbe::default(),
            touched: Touched::default(),
            sharing: SharingProbe::default(),
            refresh_zones: false,
            resident: Remembered::default(),
        }
    }
}

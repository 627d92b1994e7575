//! The inputs of a snapshot, and the state that it keeps for the next one.
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
use crate::report::model::named::Named;
use crate::report::model::{Hooks, ProcessKind, ProcessState};
use crate::report::peak::Worst;

/// The properties of the process that only nginx knows.
#[derive(Debug, Clone)]
pub struct Identity {
    /// See [`Process::kind`](crate::report::model::Process::kind).
    pub kind: ProcessKind,
    /// See [`Process::id`](crate::report::model::Process::id).
    pub id: Option<u32>,
    /// See [`Process::pid`](crate::report::model::Process::pid).
    pub pid: i32,
    /// See [`Process::generation`](crate::report::model::Process::generation).
    pub generation: u64,
    /// See [`Process::state`](crate::report::model::Process::state).
    pub state: ProcessState,
    /// The time at which the process started to run the module's code.
    pub started: Instant,
    /// See [`Process::hooks`](crate::report::model::Process::hooks).
    pub hooks: Hooks,
    /// See [`ModuleCost::bytes`](crate::report::model::ModuleCost::bytes).
    pub own_bytes: u64,
    /// See [`Allocator::nginx`](crate::report::model::Allocator::nginx).
    pub arrays: Named<u64>,
    /// A number that changes whenever a process of the server starts or exits.
    pub membership: u64,
    /// nginx's shared mappings.
    pub zones: Vec<ZoneMapping>,
    /// The layout of a slab pool.
    pub slab: slab::SlabLayout,
    /// Makes the tracer that finds the owners of pools.
    pub tracer: fn() -> Box<dyn Tracer>,
    /// Whether request lines are reported.
    pub requests: bool,
}

/// The probes that keep state from one measurement to the next.
pub struct Probes {
    /// The system allocator.
    pub heap: HeapProbe,
    /// nginx's pools.
    pub pools: PoolsProbe,
    /// Mappings that nothing claims.
    pub mappings: MappingsProbe,
    /// The worst moment so far.
    pub worst: Worst,
    /// Touched pages of zones.
    pub touched: Touched,
    /// Pages that other processes also map.
    pub sharing: SharingProbe,
    /// Whether the next measurement counts everything from the start.
    pub refresh_zones: bool,
    /// Pages of zones that are in RAM.
    pub resident: Remembered,
}

impl Default for Probes {
    /// Makes probes without any earlier figures.
    fn default() -> Self {
        Probes {
            heap: HeapProbe::new(),
            pools: PoolsProbe::default(),
            mappings: MappingsProbe::default(),
            worst: Worst::default(),
            touched: Touched::default(),
            sharing: SharingProbe::default(),
            refresh_zones: false,
            resident: Remembered::default(),
        }
    }
}

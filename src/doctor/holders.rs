//! Processes that hold memory for the same reason.
#![forbid(unsafe_code)]

use crate::report::model::pools::PoolKind;
use crate::report::model::{Category, Process, ProcessKind, ProcessState, Server};
use crate::report::who::{label, ProcessNames};

/// Processes, each with the bytes that it holds.
pub(super) struct Holders<'a> {
    server: &'a Server,
    found: Vec<(usize, &'a Process, u64)>,
}

/// Returns the processes for which the function returns bytes.
pub(super) fn holders(server: &Server, bytes: impl Fn(&Process) -> Option<u64>) -> Holders<'_> {
    let processes = server.processes.iter().enumerate();
    let found = processes.filter_map(|(place, p)| Some((place, p, bytes(p)?))).collect();
    Holders { server, found }
}

impl<'a> Holders<'a> {
    /// The process that holds most, the first of equal ones, and its bytes.
    pub(super) fn worst(&self) -> Option<(&'a Process, u64)> {
        let worst = self.found.iter().rev().max_by_key(|(_, _, bytes)| *bytes);
        worst.map(|(_, process, bytes)| (*process, *bytes))
    }

    /// The bytes of all of them.
    pub(super) fn sum(&self) -> u64 {
        self.total(|_, bytes| bytes)
    }

    /// The sum of a figure of each process, which may depend on its bytes.
    pub(super) fn total(&self, figure: impl Fn(&Process, u64) -> u64) -> u64 {
        let figures = self.found.iter().map(|(_, process, bytes)| figure(process, *bytes));
        figures.fold(0, u64::saturating_add)
    }

    /// The processes.
    pub(super) fn processes(&self) -> impl Iterator<Item = &'a Process> + '_ {
        self.found.iter().map(|(_, process, _)| *process)
    }

    /// The number of processes.
    pub(super) fn count(&self) -> u64 {
        self.total(|_, _| 1)
    }

    /// The names of the processes: `workers 0-3`.
    pub(super) fn names(&self) -> String {
        let places: Vec<usize> = self.found.iter().map(|(place, _, _)| *place).collect();
        ProcessNames::new(&self.server.processes).list(&places)
    }

    /// The name of the process that holds most.
    pub(super) fn worst_name(&self) -> String {
        self.worst().map(|(process, _)| label(process)).unwrap_or_default()
    }
}

/// Whether a process serves requests, and will also do so after a change of the configuration.
pub(super) fn serves(process: &Process) -> bool {
    let is_worker = matches!(process.kind, ProcessKind::Worker | ProcessKind::Single);
    is_worker && process.state != ProcessState::ShuttingDown
}

/// The bytes that are returned when the process ends.
pub(super) fn private(process: &Process) -> Option<u64> {
    process.system.resident_private.or(process.system.resident_anon)
}

/// The least of these bytes of a heap that must be in RAM: all but as many as are not. Memory that
/// was allocated and never written is not.
pub(super) fn in_ram(process: &Process, bytes: u64) -> Option<u64> {
    const HEAPS: [Category; 5] = [
        Category::GlibcHeap,
        Category::Jemalloc,
        Category::Tcmalloc,
        Category::Mimalloc,
        Category::MuslHeap,
    ];
    let reserved = process.allocator.as_ref()?.reserved?;
    let breakdown = process.breakdown.as_ref()?;
    let resident = HEAPS.into_iter().find_map(|heap| breakdown.get(heap))?.resident?;
    Some(bytes.saturating_sub(reserved.saturating_sub(resident)))
}

/// The live pools of these kinds.
pub(super) fn live(process: &Process, kinds: &[PoolKind]) -> Option<u64> {
    let creators = process.pools.as_ref()?.by_creator.iter();
    let creators = creators.filter(|creator| kinds.contains(&creator.kind));
    Some(creators.fold(0, |sum, creator| sum.saturating_add(creator.live)))
}

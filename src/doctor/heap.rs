//! The heaps of processes that have something in common.
#![forbid(unsafe_code)]

use super::verdict::is_share;
use crate::report::model::{Allocator, Category, Process, ProcessState, Server};
use crate::report::who::{label, ProcessNames};

/// Heaps with much free memory.
pub(super) struct Heaps<'a> {
    server: &'a Server,
    found: Vec<(usize, &'a Process, FreeHeap<'a>)>,
}

/// A heap with much free memory.
#[derive(Clone)]
pub(super) struct FreeHeap<'a> {
    /// The name of the process.
    pub(super) name: String,
    /// Free bytes that are in RAM, and in no other process's.
    pub(super) free: u64,
    /// Bytes that malloc got from the system.
    pub(super) reserved: u64,
    /// Its allocator.
    pub(super) allocator: &'a Allocator,
}

/// Returns the heaps of which at least this many bytes, and this percentage, are free. Processes that
/// are shutting down are left out: their memory is returned when they end.
pub(super) fn heaps(
    server: &Server,
    bytes: u64,
    percent: u64,
    is: impl Fn(&Allocator) -> bool,
) -> Heaps<'_> {
    let heap = |process: &'_ Process| {
        let allocator = process.allocator.as_ref()?;
        let (free, reserved) = (allocator.free?, allocator.reserved?);
        // What malloc has returned with madvise is free and not in RAM.
        let region =
            [Category::GlibcHeap, Category::Jemalloc, Category::Tcmalloc, Category::Mimalloc]
                .into_iter()
                .find_map(|category| process.breakdown.as_ref()?.get(category));
        let resident = region.and_then(|region| region.resident).unwrap_or(u64::MAX);
        let unused = resident.saturating_sub(allocator.in_use.unwrap_or(0));
        // A process has the free memory of its parent until one of them writes to it.
        let private = process.system.resident_private.unwrap_or(u64::MAX);
        Some((free.min(unused).min(private), reserved))
    };
    let mut found = Vec::new();
    for (place, process) in server.processes.iter().enumerate() {
        let (Some((free, reserved)), Some(allocator)) = (heap(process), &process.allocator) else {
            continue;
        };
        let is_ending = process.state == ProcessState::ShuttingDown;
        if !is_ending && free >= bytes && is_share(free, reserved, percent) && is(allocator) {
            found.push((
                place,
                process,
                FreeHeap { name: label(process), free, reserved, allocator },
            ));
        }
    }
    Heaps { server, found }
}

impl<'a> Heaps<'a> {
    /// The heap with the most free bytes.
    pub(super) fn worst(&self) -> Option<FreeHeap<'a>> {
        let heaps = self.found.iter().map(|(_, _, heap)| heap);
        // Of equal ones the first.
        heaps.rev().max_by_key(|heap| heap.free).cloned()
    }

    /// The free bytes of all of them.
    pub(super) fn sum(&self) -> u64 {
        self.found.iter().fold(0, |sum, (_, _, heap)| sum.saturating_add(heap.free))
    }

    /// The processes.
    pub(super) fn processes(&self) -> impl Iterator<Item = &'a Process> + '_ {
        self.found.iter().map(|(_, process, _)| *process)
    }

    /// The names of the processes: `workers 0-3`.
    pub(super) fn names(&self) -> String {
        let places: Vec<usize> = self.found.iter().map(|(place, _, _)| *place).collect();
        ProcessNames::new(&self.server.processes).list(&places)
    }
}

//! Reads the figures of the VMs at one moment.
//!
//! What the unsafe code below relies on:
//!
//! 1. A VM that a place in [`vm`] shows as live is alive (rule 3 of [`super`]).
//! 2. Only the main thread uses a cycle's own VM, and the main thread is the one that reads.
//! 3. LuaJIT's allocator keeps its state, its list of segments and its trees of free chunks in
//!    memory that stays mapped as long as the VM lives, and follows the same words at each call.
//!    [`Footprint::verify`] has checked their layout before [`Vm::heap`] returns their address.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::api::Api;
use super::vm::{self, Vm};
use super::{ALL_SEEN, ENDED, MISCOUNTED, UNWRAPPED};
use crate::abi::luajit::{Footprint, Unreadable};
use crate::hook::state::Hooked;
use crate::report::model::lua::{Gc, Subsystem};
use crate::sys::memory::{Direct, OwnMemory};
use crate::tally::lua::{EndedVms, VmFigures};

/// The maximum number of segments to follow, which takes some milliseconds.
pub(super) const SEGMENTS: usize = 16_384;
/// The maximum for a VM that another thread may be using, where each segment costs a system call.
const SEGMENTS_ELSEWHERE: usize = 512;

/// The figures of all VMs of the process.
#[derive(Debug, Default)]
pub struct KnownVms {
    /// The live VMs, in the order of their creation.
    pub vms: Vec<VmReading>,
    /// The sums over the VMs that have ended, in the order of [`Subsystem::ALL`].
    pub ended: [VmFigures; 3],
    /// The number of VMs that ended with a count of bytes that differed from Lua's own.
    pub miscounted: u64,
    /// The number of VMs that could not be wrapped.
    pub unwrapped: u64,
    /// Whether there may be unknown VMs.
    pub unseen: bool,
}

/// The figures of one VM.
#[derive(Debug)]
pub struct VmReading {
    /// The subsystem that the VM belongs to.
    pub subsystem: Subsystem,
    /// The figures of the VM's memory.
    pub figures: VmFigures,
    /// For a cycle's own VM: the number of bytes that Lua counts, and the state of its collector.
    pub counted: Option<(u64, Gc)>,
    /// Its mappings, or the reason why they are unknown.
    pub heap: Result<Heap, &'static str>,
    serial: u64,
}

#[cfg(test)]
impl VmReading {
    /// Returns a reading with the given values, for tests.
    pub fn new(
        subsystem: Subsystem,
        figures: VmFigures,
        counted: Option<(u64, Gc)>,
        heap: Result<Heap, &'static str>,
    ) -> Self {
        VmReading { subsystem, figures, counted, heap, serial: 0 }
    }
}

/// The mappings of a VM.
#[derive(Debug, Default)]
pub struct Heap {
    /// Its segments, and the parts of them that are not blocks.
    pub footprint: Footprint,
    /// Its direct mappings.
    pub directs: Vec<Range<usize>>,
}

/// Reads all VMs. Call it on the main thread. Takes some microseconds, plus 100 ns for each
/// segment.
pub fn read() -> KnownVms {
    let Some(api) = Api::get() else {
        return KnownVms::default();
    };
    let mut vms: Vec<VmReading> = vm::all().filter_map(|vm| read_vm(api, vm)).collect();
    vms.sort_by_key(|vm| vm.serial);
    KnownVms {
        vms,
        ended: ENDED.each_ref().map(EndedVms::figures),
        miscounted: MISCOUNTED.load(Ordering::Relaxed),
        unwrapped: UNWRAPPED.load(Ordering::Relaxed),
        unseen: !ALL_SEEN.load(Ordering::Relaxed) && super::state() == Hooked::On,
    }
}

fn read_vm(api: &Api, vm: &Vm) -> Option<VmReading> {
    /// The number of attempts to read a VM that another thread changes meanwhile.
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        let (serial, figures) = (vm.serial(), vm.tally.figures());
        if !vm.is_live() {
            return None;
        }
        let main = vm.is_main();
        let reading = VmReading {
            subsystem: vm.subsystem(),
            figures,
            // SAFETY: the VM is alive (1) and this thread's (2).
            counted: main.then(|| unsafe { (api.count(vm.lua()), gc(api, vm)) }),
            heap: heap(vm, main),
            serial,
        };
        let is_same =
            || vm.is_live() && vm.serial() == serial && vm.tally.figures() == reading.figures;
        if main || is_same() {
            return Some(reading);
        }
    }
    let heap = Err("another thread uses it");
    let figures = vm.tally.figures();
    let live = vm.is_live();
    live.then(|| VmReading {
        subsystem: vm.subsystem(),
        figures,
        counted: None,
        heap,
        serial: vm.serial(),
    })
}

/// Returns the state of a VM's garbage collector.
///
/// # Safety
///
/// The VM is alive and used only by this thread.
unsafe fn gc(api: &Api, vm: &Vm) -> Gc {
    /// The upper end of the addresses that a build without GC64 uses for all its memory:
    /// `LJ_MAX_MEM`, the first 2 GB.
    const LOW: u64 = 1 << 31;
    // SAFETY: the VM is alive (1) and this thread's (2), by contract.
    let mut gc = unsafe { api.gc(vm.lua()) };
    if vm.heap().is_some() {
        let is_low = (vm.lua() as u64) < LOW;
        (gc.gc64, gc.limit_bytes) = (Some(!is_low), is_low.then_some(LOW));
    }
    gc
}

fn heap(vm: &Vm, main: bool) -> Result<Heap, &'static str> {
    let state = vm.heap().ok_or("its allocator is not LuaJIT's own")?;
    let footprint = if main {
        // SAFETY: only words that the allocator itself follows are read, which are mapped while the
        // VM lives (1, 3). The allocator cannot run meanwhile, because its thread is this one (2).
        let memory = unsafe { Direct::new(0..usize::MAX) };
        Footprint::read(&memory, state, SEGMENTS)
    } else {
        Footprint::read(&OwnMemory, state, SEGMENTS_ELSEWHERE)
    };
    let footprint = footprint.map_err(|error| match error {
        Unreadable::TooMany => "it has too many segments to follow",
        Unreadable::Memory | Unreadable::Layout => "its allocator's state cannot be read",
    })?;
    let directs = vm.directs().ok_or("not all of its direct mappings are known")?;
    Ok(Heap { footprint, directs })
}

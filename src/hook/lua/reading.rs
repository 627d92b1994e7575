//! What is known of the VMs at a moment.
//!
//! What the unsafe code below relies on:
//!
//! 1. A VM that a place in [`vm`] shows as live is alive, as [`super`] sees to.
//! 2. A cycle's own VM is used by the main thread only, which is also who reads.
//! 3. LuaJIT's allocator keeps its state, its list of segments and its trees of free chunks in memory
//!    that stays mapped as long as the VM lives, and follows the same words at each call.
//!    [`Footprint::verify`] has checked their layout before [`Vm::heap`] says where they are.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::api::Api;
use super::vm::{self, Vm};
use super::{ALL_SEEN, ENDED, MISCOUNTED, UNWRAPPED};
use crate::abi::luajit::{Footprint, Unreadable};
use crate::hook::state::Hooked;
use crate::report::model::lua::{Gc, Subsystem};
use crate::sys::memory::{Direct, Own};
use crate::tally::lua::{Ended, Figures};

/// More segments are not followed: some milliseconds' worth.
pub(super) const SEGMENTS: usize = 16_384;
/// And in a VM that another thread may be using, where each costs a system call.
const SEGMENTS_ELSEWHERE: usize = 512;

/// What is known of all VMs of the process.
#[derive(Debug, Default)]
pub struct Reading {
    /// Those that are alive, in the order of their birth.
    pub vms: Vec<VmReading>,
    /// The sums over those that have ended, in the order of [`Subsystem::ALL`].
    pub ended: [Figures; 3],
    /// VMs whose count was not Lua's own when they ended.
    pub miscounted: u64,
    /// VMs that could not be wrapped.
    pub unwrapped: u64,
    /// Whether there may be VMs that are not known.
    pub unseen: bool,
}

/// What is known of a VM.
#[derive(Debug)]
pub struct VmReading {
    /// Whose it is.
    pub subsystem: Subsystem,
    /// What it has got.
    pub figures: Figures,
    /// What Lua counts, and the state of its collector: of a cycle's own VM.
    pub counted: Option<(u64, Gc)>,
    /// Its mappings; or why they are not known.
    pub heap: Result<Heap, &'static str>,
    serial: u64,
}

#[cfg(test)]
impl VmReading {
    /// A made-up one.
    pub fn new(
        subsystem: Subsystem,
        figures: Figures,
        counted: Option<(u64, Gc)>,
        heap: Result<Heap, &'static str>,
    ) -> Self {
        VmReading { subsystem, figures, counted, heap, serial: 0 }
    }
}

/// The mappings of a VM.
#[derive(Debug, Default)]
pub struct Heap {
    /// Its segments, and what of them is no block.
    pub footprint: Footprint,
    /// Its direct mappings.
    pub directs: Vec<Range<usize>>,
}

/// Reads all VMs. Call it on the main thread. Takes some microseconds, and 100 ns a segment.
pub fn read() -> Reading {
    let Some(api) = Api::get() else {
        return Reading::default();
    };
    let mut vms: Vec<VmReading> = vm::all().filter_map(|vm| read_vm(api, vm)).collect();
    vms.sort_by_key(|vm| vm.serial);
    Reading {
        vms,
        ended: ENDED.each_ref().map(Ended::figures),
        miscounted: MISCOUNTED.load(Ordering::Relaxed),
        unwrapped: UNWRAPPED.load(Ordering::Relaxed),
        unseen: !ALL_SEEN.load(Ordering::Relaxed) && super::state() == Hooked::On,
    }
}

fn read_vm(api: &Api, vm: &Vm) -> Option<VmReading> {
    /// What another thread changes meanwhile is read again so often.
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
            // SAFETY: alive (1) and this thread's (2).
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

/// # Safety
///
/// The VM is alive and this thread's.
unsafe fn gc(api: &Api, vm: &Vm) -> Gc {
    /// Where a build without GC64 has all its memory: `LJ_MAX_MEM` and the addresses below 2 GB.
    const LOW: u64 = 1 << 31;
    // SAFETY: the caller's contract.
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
        // VM lives (1, 3); it cannot run meanwhile, for its thread is this one (2).
        let memory = unsafe { Direct::new(0..usize::MAX) };
        Footprint::read(&memory, state, SEGMENTS)
    } else {
        Footprint::read(&Own, state, SEGMENTS_ELSEWHERE)
    };
    let footprint = footprint.map_err(|error| match error {
        Unreadable::TooMany => "it has too many segments to follow",
        Unreadable::Memory | Unreadable::Layout => "its allocator's state cannot be read",
    })?;
    let directs = vm.directs().ok_or("not all of its direct mappings are known")?;
    Ok(Heap { footprint, directs })
}

//! Reports the Lua VMs of this process: the figures and the addresses of each subsystem.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::hook::lua::{Heap, KnownVms, VmReading};
use crate::report::model::lua::{BlockSizes, LuaMappings, LuaVms, Subsystem};
use crate::report::model::{Category, Note};
use crate::sys::ranges;
use crate::tally::lua::VmFigures;

/// The figures of the VMs.
#[derive(Debug, Default)]
pub struct LuaReading {
    /// The subsystems that have or had a VM, without the bytes in RAM.
    pub subsystems: Vec<LuaVms>,
    /// The addresses of each subsystem; `None` if some are unknown.
    pub mappings: Vec<(Category, Option<Vec<Range<usize>>>)>,
    /// The reasons why figures are unknown.
    pub notes: Vec<Note>,
}

impl LuaReading {
    /// Evaluates what the hook has read.
    pub fn new(reading: &KnownVms) -> Self {
        let mut all = LuaReading::default();
        for (subsystem, ended) in Subsystem::ALL.into_iter().zip(&reading.ended) {
            let vms: Vec<_> = reading.vms.iter().filter(|vm| vm.subsystem == subsystem).collect();
            if !vms.is_empty() || *ended != VmFigures::default() {
                all.add(subsystem, &vms, ended);
            }
        }
        if reading.miscounted > 0 {
            let reason = format!(
                "the GC count of {} VMs differed from the module's tally when they ended",
                reading.miscounted
            );
            all.notes.push(Note::of(&["lua"], reason));
        }
        if reading.unseen {
            all.notes.push(Note::of(
                &["lua"],
                "the calls that make VMs cannot be hooked here: only the VMs that the modules keep \
                 for the whole configuration are counted",
            ));
        }
        if reading.unwrapped > 0 {
            let reason = format!(
                "{} VMs are not counted: there was no memory for their counters",
                reading.unwrapped
            );
            all.notes.push(Note::of(&["lua"], reason));
        }
        all
    }

    /// Iterates over all known addresses.
    pub fn claimed(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.mappings.iter().flat_map(|(_, ranges)| ranges.iter().flatten().cloned())
    }

    fn add(&mut self, subsystem: Subsystem, vms: &[&VmReading], ended: &VmFigures) {
        let mut sum = ended.clone();
        vms.iter().for_each(|vm| sum.add(&vm.figures));
        let heaps = vms.iter().map(|vm| vm.heap.as_ref()).collect::<Result<Vec<_>, _>>();
        let heaps = heaps.map_err(|reason| (*reason).to_owned());
        let account = heaps.and_then(|heaps| {
            let account = Account::new(&sum, &heaps);
            account.ok_or_else(|| "its figures do not add up".to_owned()).map(|a| (a, heaps))
        });
        let (account, ranges) = match account {
            Ok((account, heaps)) => {
                let ranges = heaps
                    .iter()
                    .flat_map(|heap| heap.footprint.segments.iter().chain(&heap.directs).cloned());
                (Some(account), Some(ranges::normalize(ranges.collect())))
            }
            Err(reason) => {
                let reason = format!(
                    "{}: reserved, resident, segments, direct, overhead_bytes, free_bytes, \
                     largest_free: unknown for a VM ({reason}); its pages are in anon_other",
                    subsystem.name(),
                );
                self.notes.push(Note::of(&["lua"], reason));
                (None, None)
            }
        };
        if !vms.is_empty() {
            self.mappings.push((subsystem.category(), ranges));
        }
        // A VM that may run on another thread is not queried: its GC count equals the bytes that it
        // has allocated, which is checked when the VM ends.
        let counted = |vm: &&VmReading| vm.counted.map_or(vm.figures.live, |(bytes, _)| bytes);
        self.subsystems.push(LuaVms {
            subsystem,
            vms: vms.len() as u64,
            gc_bytes: Some(vms.iter().map(counted).sum()),
            allocated_bytes: sum.live,
            peak_bytes: sum.peak,
            allocations: sum.allocations,
            resizes: sum.resizes,
            frees: sum.frees,
            failures: sum.failures,
            sizes: BlockSizes(sum.sizes),
            reserved: account.map(|a| a.segments.bytes.saturating_add(a.direct.bytes)),
            resident: None,
            segments: account.map(|a| a.segments),
            direct: account.map(|a| a.direct),
            overhead_bytes: account.map(|a| a.overhead),
            free_bytes: account.map(|a| a.free),
            largest_free: account.map(|a| a.largest_free),
            gc: vms.iter().find_map(|vm| vm.counted).map(|(_, gc)| gc),
        });
    }
}

/// The composition of the heaps' bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    segments: LuaMappings,
    direct: LuaMappings,
    overhead: u64,
    free: u64,
    largest_free: u64,
}

impl Account {
    /// Sums up the heaps. In segments, memory is free if it belongs neither to the chunks of blocks
    /// nor to the allocator itself. Returns `None` if this contradicts what was read of the
    /// segments.
    fn new(figures: &VmFigures, heaps: &[&Heap]) -> Option<Self> {
        let mut segments = LuaMappings { count: 0, bytes: 0 };
        let (mut fixed, mut largest_free, mut direct_bytes, mut directs) = (0, 0, 0u64, 0u64);
        for heap in heaps {
            segments.count += heap.footprint.segments.len() as u64;
            segments.bytes += heap.footprint.segment_bytes();
            fixed += heap.footprint.fixed;
            largest_free = heap.footprint.largest_free.max(largest_free);
            directs += heap.directs.len() as u64;
            direct_bytes += ranges::bytes(&heap.directs);
        }
        let direct = LuaMappings { count: figures.directs, bytes: figures.direct };
        let free = segments.bytes.checked_sub(fixed)?.checked_sub(figures.chunks)?;
        let held = segments.bytes.checked_add(direct.bytes)?;
        let overhead = held.checked_sub(free)?.checked_sub(figures.live)?;
        let agrees = largest_free <= free
            && (directs, direct_bytes) == (direct.count, direct.bytes)
            // The headers alone take one word per block.
            && overhead >= fixed;
        agrees.then_some(Account { segments, direct, overhead, free, largest_free })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::luajit::Footprint;
    use crate::report::model::lua::Gc;

    fn heap(from: usize, fixed: u64, largest_free: u64, directs: Vec<Range<usize>>) -> Heap {
        let segments = vec![from..from + 0x1000, from + 0x1000..from + 0x3000];
        Heap { footprint: Footprint::new(segments, fixed, largest_free), directs }
    }

    fn vm(subsystem: Subsystem, figures: VmFigures, heap: Heap) -> VmReading {
        let gc = Gc {
            running: Some(true),
            pause: Some(200),
            stepmul: Some(200),
            gc64: Some(true),
            limit_bytes: None,
        };
        VmReading::new(subsystem, figures.clone(), Some((figures.live, gc)), Ok(heap))
    }

    fn figures(live: u64, chunks: u64) -> VmFigures {
        VmFigures { live, peak: live, chunks, allocations: 3, frees: 1, ..VmFigures::default() }
    }

    #[test]
    fn none() {
        let all = LuaReading::new(&KnownVms::default());
        assert!(all.subsystems.is_empty() && all.mappings.is_empty() && all.notes.is_empty());
    }

    #[test]
    fn adds_up() {
        let direct = 0x90000..0x92000;
        let with_direct = VmFigures { direct: 0x2000, directs: 1, ..figures(0x3000, 0x1800) };
        let reading = KnownVms {
            vms: vec![
                vm(Subsystem::Http, with_direct, heap(0x10000, 0x100, 0x400, vec![direct.clone()])),
                vm(Subsystem::Stream, figures(0x100, 0x200), heap(0x20000, 0x100, 0x50, vec![])),
                vm(Subsystem::Http, figures(0x500, 0x800), heap(0x13000, 0x100, 0x900, vec![])),
            ],
            ended: [
                VmFigures { peak: 0x9000, allocations: 5, frees: 5, ..VmFigures::default() },
                VmFigures::default(),
                VmFigures::default(),
            ],
            ..KnownVms::default()
        };
        let all = LuaReading::new(&reading);
        let stream = 0x20000..0x23000;
        assert_eq!(all.notes, []);
        let http = &all.subsystems[0];
        assert_eq!((http.vms, http.gc_bytes, http.allocated_bytes), (2, Some(0x3500), 0x3500));
        assert_eq!((http.peak_bytes, http.allocations, http.frees), (0x9000, 11, 7));
        assert_eq!(http.reserved, Some(2 * 0x3000 + 0x2000));
        assert_eq!(http.segments, Some(LuaMappings { count: 4, bytes: 0x6000 }));
        assert_eq!(http.direct, Some(LuaMappings { count: 1, bytes: 0x2000 }));
        assert_eq!(http.free_bytes, Some(0x6000 - 0x200 - 0x2000));
        assert_eq!(http.largest_free, Some(0x900));
        let sum = http.allocated_bytes + http.overhead_bytes.unwrap() + http.free_bytes.unwrap();
        assert_eq!(http.reserved, Some(sum));
        assert_eq!(all.subsystems[1].subsystem, Subsystem::Stream);
        let expected = [
            (Category::HttpLuajit, Some(vec![0x10000..0x16000, direct])),
            (Category::StreamLuajit, Some(Vec::from([stream]))),
        ];
        assert_eq!(all.mappings, expected);
        assert_eq!(all.claimed().count(), 3);
    }

    #[test]
    fn figures_that_do_not_add_up_are_left_out() {
        let read = |figures: VmFigures, heap: Heap| {
            let reading =
                KnownVms { vms: vec![vm(Subsystem::Other, figures, heap)], ..KnownVms::default() };
            LuaReading::new(&reading)
        };
        let good = || figures(0x100, 0x200);
        let direct = 0x9000..0xa000;
        assert_eq!(read(good(), heap(0, 0x100, 0x10, vec![])).subsystems[0].reserved, Some(0x3000));
        for all in [
            read(figures(0x100, 0x4000), heap(0, 0x100, 0x10, vec![])),
            read(figures(0x300, 0x200), heap(0, 0x100, 0x10, vec![])),
            read(good(), heap(0, 0x100, 0x2fff, vec![])),
            read(good(), heap(0, 0x100, 0x10, vec![direct])),
        ] {
            let lua = &all.subsystems[0];
            assert_eq!((lua.reserved, lua.free_bytes, lua.overhead_bytes), (None, None, None));
            assert_eq!(all.mappings, [(Category::OtherLuajit, None)]);
            assert_eq!(all.notes.len(), 1, "{:?}", all.notes);
        }
    }

    #[test]
    fn a_vm_that_ended_is_remembered() {
        let mut reading =
            KnownVms { miscounted: 1, unwrapped: 2, unseen: true, ..KnownVms::default() };
        reading.ended[1] =
            VmFigures { allocations: 4, frees: 4, peak: 100, ..VmFigures::default() };
        let all = LuaReading::new(&reading);
        let stream = &all.subsystems[0];
        assert_eq!((stream.vms, stream.allocated_bytes, stream.reserved), (0, 0, Some(0)));
        assert!(all.mappings.is_empty());
        assert_eq!(all.notes.len(), 3);
    }
}

//! Takes one process's figures, in steps on its own event loop.
//!
//! The order matters: first the address ranges are found and their pages counted, then the kernel's
//! totals are read. The difference is reported as `anon_other` and `file_other`.
#![forbid(unsafe_code)]

mod breakdown;
mod identity;
mod text;
mod unclaimed;
pub mod worst;

use std::io;
use std::time::{Duration, Instant};

use procfs::process::MemoryMap;

use super::heap::HeapReading;
use super::layout::{AddressLayout, CountedRange};
use super::pools::{PoolsProbe, PoolsRead};
use super::uses::{fit_full, uses};
use super::zones::{ZoneMapping, ZonesReading};
use crate::budget::{Budget, Job, Progress};
use crate::probe::mcode::CodeReader;
use crate::report::balance::settle;
use crate::report::model::sharing::Sharing;
use crate::report::model::zones::{SharedZone, ZoneUses};
use crate::report::model::{Allocator, ModuleCost, Named, Note, Process, ProcessState, System};
use crate::sys::maps::MapsReader;
use crate::sys::near::NearRanges;
use crate::sys::pagemap::PageMap;
use crate::sys::{limits, memory, status};

pub use identity::{Identity, Probes};
use text::text;

/// How long a snapshot waits for two counts whose last figures are old: the allocator's, and that
/// of pages that other processes also map. After this time the counts continue in the next
/// snapshot, so that the other figures are ready before `memstat_timeout` ends.
const PATIENCE: Duration = Duration::from_millis(150);

/// The figures named in notes about pages that other processes also map.
const SHARED: &[&str] = &["system.resident_private", "resident_shared"];

/// The result of a measurement.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The figures.
    pub process: Process,
    /// The zones with all their figures, if this process may be the only one that has them mapped.
    pub zones: Vec<(String, SharedZone)>,
    /// Which of its pages other processes also map.
    pub sharing: Option<Sharing>,
}

/// A measurement in progress.
#[derive(Debug)]
pub struct Snapshot {
    stage: SnapshotStage,
    maps: Vec<MemoryMap>,
    layout: AddressLayout,
    heap: Option<HeapReading>,
    pages: Option<PageMap>,
    targets: Vec<CountedRange>,
    /// The targets that may have pages of files.
    near: NearRanges,
    /// Bytes of the targets in transparent huge pages.
    huge: u64,
    uses: Option<ZoneUses>,
    /// Bytes of nginx's shared memory that this process has touched, if all of it was counted.
    touched: Option<u64>,
    zones: Vec<(String, SharedZone)>,
    begun: Instant,
    spent: Duration,
    longest: Duration,
    notes: Vec<Note>,
}

#[derive(Debug)]
enum SnapshotStage {
    /// The allocator counts its free memory.
    Allocator,
    Maps(Option<MapsReader>),
    Heap,
    /// The machine code of LuaJIT is searched.
    Code(CodeReader),
    /// Target `.0` is counted from address `.1` on.
    Count(usize, usize),
    /// The mappings that nothing claims are counted.
    Unclaimed,
    Pools,
    Touched,
    Sharing,
    Zones(ZonesReading),
    Done,
}

impl Snapshot {
    /// Starts a measurement.
    pub fn begin() -> Self {
        Snapshot {
            stage: SnapshotStage::Allocator,
            maps: Vec::new(),
            layout: AddressLayout::default(),
            heap: None,
            pages: None,
            targets: Vec::new(),
            near: NearRanges::default(),
            huge: 0,
            uses: None,
            touched: None,
            zones: Vec::new(),
            begun: Instant::now(),
            spent: Duration::ZERO,
            longest: Duration::ZERO,
            notes: Vec::new(),
        }
    }

    /// Continues until the budget is spent or everything is measured.
    pub fn step(&mut self, identity: &Identity, probes: &mut Probes, budget: &Budget) -> Progress {
        let begun = Instant::now();
        self.near.forget();
        let progress = loop {
            match self.advance(identity, probes, budget) {
                Ok(Progress::Done) if matches!(self.stage, SnapshotStage::Done) => {
                    break Progress::Done
                }
                Ok(Progress::Done) if !budget.spent() => continue,
                Ok(_) => break Progress::More,
                Err(error) => {
                    self.notes.push(Note::of(&["breakdown", "zones"], error.to_string()));
                    self.targets.clear();
                    self.pages = None;
                    self.stage = SnapshotStage::Done;
                    break Progress::Done;
                }
            }
        };
        let slice = begun.elapsed();
        self.spent += slice;
        self.longest = self.longest.max(slice);
        progress
    }

    /// Does one piece of the current stage. Returns `More` if the budget ran out within the piece.
    fn advance(
        &mut self,
        identity: &Identity,
        probes: &mut Probes,
        budget: &Budget,
    ) -> io::Result<Progress> {
        match &mut self.stage {
            SnapshotStage::Allocator => {
                let waited = self.begun.elapsed();
                let more = probes.heap.count(budget) == Progress::More;
                if more && waited < PATIENCE && !probes.heap.is_fresh() {
                    return Ok(Progress::More);
                }
                self.stage = SnapshotStage::Maps(None);
                Ok(Progress::Done)
            }
            SnapshotStage::Maps(slot) => {
                let mut reader = match slot.take() {
                    Some(reader) => reader,
                    None => MapsReader::open().map_err(|e| at("/proc/self/maps", e))?,
                };
                if reader.step(budget).map_err(|e| at("/proc/self/maps", e))? == Progress::More {
                    *slot = Some(reader);
                    return Ok(Progress::More);
                }
                self.maps = reader.finish();
                self.pages = Some(PageMap::open().map_err(|e| at("/proc/self/pagemap", e))?);
                let shared: Vec<_> = identity.zones.iter().map(|zone| zone.range.start).collect();
                self.layout = AddressLayout::find(&self.maps, &shared);
                probes.heap.begin(&self.maps, &self.layout.claimed);
                self.stage = SnapshotStage::Heap;
                Ok(Progress::Done)
            }
            SnapshotStage::Heap => {
                let Some(pages) = &self.pages else {
                    return Ok(Progress::Done);
                };
                if probes.heap.step(pages, budget) == Ok(Progress::More) {
                    return Ok(Progress::More);
                }
                self.heap = Some(probes.heap.finish());
                self.stage = SnapshotStage::Code(CodeReader::new(&self.maps));
                Ok(Progress::Done)
            }
            SnapshotStage::Code(reader) => {
                if reader.step(&memory::OwnMemory, budget) == Ok(Progress::More) {
                    return Ok(Progress::More);
                }
                self.layout.set_code(&self.maps, reader.finish());
                if let Some(heap) = &self.heap {
                    self.targets = self.layout.targets(&self.maps, heap);
                    self.targets.sort_by_key(|target| target.range.start);
                    let mixed = self.targets.iter().filter(|target| !target.private);
                    self.near = NearRanges::new(mixed.map(|target| target.range.clone()));
                }
                self.stage = SnapshotStage::Count(0, 0);
                Ok(Progress::Done)
            }
            SnapshotStage::Count(index, address) => {
                let Some((target, pages)) = self.targets.get_mut(*index).zip(self.pages.as_ref())
                else {
                    self.claim_huge_pages();
                    self.begin_unclaimed(probes);
                    self.stage = SnapshotStage::Unclaimed;
                    return Ok(Progress::Done);
                };
                let from = target.range.start.max(*address);
                let rest = from..target.range.end;
                let counted = match target.private {
                    true => pages.count_huge(&rest, &mut target.resident.anon, &mut self.huge),
                    false => pages.count_near(&mut self.near, &rest, &mut target.resident),
                };
                *address = counted.map_err(|e| at("/proc/self/pagemap", e))?;
                if *address >= target.range.end {
                    self.stage = SnapshotStage::Count(*index + 1, 0);
                }
                Ok(Progress::Done)
            }
            SnapshotStage::Unclaimed => {
                if self.count(&mut probes.mappings, &["mappings"], budget) == Progress::More {
                    return Ok(Progress::More);
                }
                probes.pools.begin((identity.tracer)());
                self.stage = SnapshotStage::Pools;
                Ok(Progress::Done)
            }
            SnapshotStage::Pools => {
                if probes.pools.step(budget) == Progress::More {
                    return Ok(Progress::More);
                }
                let ranges = identity.zones.iter().map(ZoneMapping::pages);
                let all = std::mem::take(&mut probes.refresh_zones);
                probes.touched.begin(ranges, all);
                let patience = PATIENCE.saturating_sub(self.begun.elapsed());
                let membership = identity.membership;
                probes.sharing.begin(&self.maps, &self.layout, all, membership, patience);
                self.stage = SnapshotStage::Touched;
                Ok(Progress::Done)
            }
            SnapshotStage::Touched => {
                if self.count(&mut probes.touched, &["zones", "touched"], budget) == Progress::More
                {
                    return Ok(Progress::More);
                }
                self.uses = Some(uses(&identity.zones, &probes.touched, &mut self.notes));
                self.touched = probes.touched.sum();
                self.stage = SnapshotStage::Sharing;
                Ok(Progress::Done)
            }
            SnapshotStage::Sharing => {
                if self.count(&mut probes.sharing, SHARED, budget) == Progress::More {
                    return Ok(Progress::More);
                }
                self.stage = match identity.state {
                    ProcessState::ShuttingDown => {
                        let zones = identity.zones.clone();
                        let known = std::mem::take(&mut probes.resident);
                        SnapshotStage::Zones(ZonesReading::begin(zones, identity.slab, known))
                    }
                    _ => SnapshotStage::Done,
                };
                Ok(Progress::Done)
            }
            SnapshotStage::Zones(reading) => {
                if reading.step(budget) == Progress::More {
                    return Ok(Progress::More);
                }
                (self.zones, probes.resident) = reading.finish();
                fit_full(&mut self.zones);
                self.stage = SnapshotStage::Done;
                Ok(Progress::Done)
            }
            SnapshotStage::Done => Ok(Progress::Done),
        }
    }

    /// Continues a count of pages. If it fails, a note names the `figures` that are missing, and
    /// the snapshot continues without them.
    fn count(
        &mut self,
        job: &mut impl Job<PageMap, Error = io::Error>,
        figures: &[&'static str],
        budget: &Budget,
    ) -> Progress {
        let Some(pages) = &self.pages else { return Progress::Done };
        job.step(pages, budget).unwrap_or_else(|error| {
            self.notes.push(Note::of(figures, format!("/proc/self/pagemap: {error}")));
            Progress::Done
        })
    }

    /// Returns the figures. The snapshot must be done.
    pub fn finish(mut self, identity: &Identity, probes: &mut Probes) -> Taken {
        let begun = Instant::now();
        let (mut system, threads) = match status::own() {
            Ok(reading) => (reading.system, Some(reading.threads)),
            Err(error) => {
                let reason = format!("/proc/self/status: {error}");
                self.notes.push(Note::of(&["system", "peak"], reason));
                (System::default(), None)
            }
        };
        self.notes.extend(settle(&mut system));
        let sharing = probes.sharing.finish();
        if let Some((sharing, age)) = &sharing {
            sharing.fill_in(&mut system, *age);
        }
        let stacks = self.stacks(threads);
        let lua = self.lua();
        let mappings = self.unclaimed(&mut system, probes);
        let limits = Some(Named(limits::own()));
        let breakdown = self.pages.take().and_then(|_| self.close(&system, &stacks));
        let allocator = self.heap.take().map(|heap| {
            self.notes.extend(heap.unlocated.into_iter().chain(heap.notes));
            heap.allocator
        });
        let read = self.pools(identity, &mut probes.pools);
        let peak = worst::see(probes, &system, || read.as_ref().map(PoolsRead::moment));
        let pools = read.map(|read| read.pools);
        let allocator = allocator.map(|allocator| Allocator {
            pools: pools.as_ref().map(|pools| pools.bytes.saturating_add(pools.large_bytes)),
            nginx: identity.arrays.clone(),
            ..allocator
        });
        let refused = crate::own::refused();
        if refused > 0 {
            self.notes.push(Note::of(
                &["self"],
                format!(
                    "the system refused the module memory {refused} times; it used its reserve"
                ),
            ));
        }
        let slice = begun.elapsed();
        let process = Process {
            kind: identity.kind,
            id: identity.id,
            pid: identity.pid,
            generation: Some(identity.generation),
            state: identity.state,
            age_ms: 0,
            uptime_s: Some(identity.started.elapsed().as_secs()),
            system,
            breakdown,
            mappings,
            limits,
            allocator,
            pools,
            peak,
            zones: self.uses,
            lua,
            text: Some(text(&self.layout.objects, &self.maps)),
            stacks: Some(stacks),
            hooks: Some(identity.hooks.clone()),
            own: Some(ModuleCost {
                bytes: identity.own_bytes,
                snapshot_us: (self.spent + slice).as_micros() as u64,
                longest_slice_us: self.longest.max(slice).as_micros() as u64,
            }),
            notes: self.notes,
        };
        Taken { process, zones: self.zones, sharing: sharing.map(|(sharing, _)| sharing) }
    }

    /// Returns the pools if the hooks that record them are in place.
    fn pools(&mut self, identity: &Identity, probe: &mut PoolsProbe) -> Option<PoolsRead> {
        let read = match identity.hooks.pool.reason() {
            Some(reason) => Err(reason),
            None => probe.finish(identity.requests),
        };
        match read {
            Ok(mut read) => {
                self.notes.append(&mut read.notes);
                Some(read)
            }
            Err(reason) => {
                let fields = ["pools", "allocator.pools", "peak.pools"];
                self.notes.push(Note::of(&fields, reason.to_owned()));
                None
            }
        }
    }
}

fn at(path: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

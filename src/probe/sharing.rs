//! Which pages of this process others map, too, from `/proc/self/pagemap`.
//!
//! The kernel looks at each page's own descriptor for that, about 12 us for a megabyte, so a snapshot
//! spends a short while on it and goes on where the last one stopped. What is complete is served with
//! its age, and begun again when it is a second old, or twenty times as old as it took. A snapshot
//! whose figures would be more than five seconds old, or from before a process of the server started
//! or left, reads all of them, if its patience allows: with a fork or an exit, much of a process turns
//! from private to shared, or back, in several processes at once.
//!
//! `smaps` has the same figures, but goes over all pages of a mapping in one call, and holds up whoever
//! maps or unmaps meanwhile.
#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use procfs::process::{MMapPath, MemoryMap};

use super::layout::{Layout, ShmemDevices};
use crate::budget::{Budget, Job, Progress};
use crate::report::merge::pages::Spans;
use crate::report::model::sharing::Sharing;
use crate::sys::pagemap::{page_size, PageMap};
use crate::sys::{maps, status};

/// The time a snapshot spends on it, once there are figures.
const ALLOWANCE: Duration = Duration::from_micros(300);
/// The age at which figures are taken again.
const OLD: Duration = Duration::from_secs(1);
/// The age from which a snapshot does not do with figures.
const STALE: Duration = Duration::from_secs(5);
/// How long after a process has started or left the pages of the others may still change hands.
const SETTLES: Duration = Duration::from_secs(1);
/// How much time may be lost by beginning again: a process with more pages than that is read on.
const LARGE: Duration = Duration::from_millis(20);
/// How many times longer than they took figures are used at least.
const REST: u32 = 20;
/// Bytes of a slot for the anonymous pages, and as many for those of files.
const ROOM: usize = 2048;
/// The same for other shared memory.
const ROOM_SHMEM: usize = 512;
/// The most resident bytes with which the kernel is asked for `Pss_File`, in one call: 0.7 ms.
const SMALL: u64 = 48 << 20;
/// What may be used of a slice before.
const BEFORE: Duration = Duration::from_micros(50);
/// Address bits of a page number.
const PAGE_BITS: u32 = 46;

/// What is known, and the reading under way.
#[derive(Debug, Default)]
pub struct SharingProbe {
    known: Option<(Sharing, Instant)>,
    /// How long the last reading took, all slices together.
    took: Duration,
    reading: Option<Reading>,
    /// `Pss_File` of a process that is small enough.
    pss_file: Option<u64>,
    /// Whether it is to be asked for in this snapshot.
    ask: bool,
    /// Whether that waits for a slice of its own.
    deferred: bool,
    /// What this snapshot may spend.
    allowance: Allowance,
    /// Which processes there were, and when that has last changed.
    membership: Option<(u64, Instant)>,
}

/// What a snapshot may spend.
#[derive(Debug, Clone, Copy)]
enum Allowance {
    /// Time of the processor.
    Slice(Duration),
    /// As much as it takes until then.
    Until(Instant),
    /// As much as it takes.
    All,
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance::Slice(ALLOWANCE)
    }
}

impl Allowance {
    fn is_spent(&self) -> bool {
        match self {
            Allowance::Slice(left) => left.is_zero(),
            Allowance::Until(then) => Instant::now() >= *then,
            Allowance::All => false,
        }
    }

    fn spend(&mut self, spent: Duration) {
        if let Allowance::Slice(left) = self {
            *left = left.saturating_sub(spent);
        }
    }
}

/// A reading under way.
#[derive(Debug)]
struct Reading {
    begun: Instant,
    spent: Duration,
    /// By address.
    areas: Vec<Area>,
    /// The next area, and the address in it.
    next: usize,
    at: usize,
    counts: Counts,
    anon: Spans,
    files: Spans,
    shmem: Spans,
}

#[derive(Debug)]
struct Area {
    range: Range<usize>,
    of: Of,
}

#[derive(Debug, Clone, Copy)]
enum Of {
    /// nginx's shared memory, which counts once anyway.
    Nginx,
    /// Memory with no file behind it.
    Nothing,
    /// A file: what is added to an address gives the number of the page in it.
    File { number: u64, start: usize, shmem: bool },
}

/// Pages.
#[derive(Debug, Default)]
struct Counts {
    anon_shared: u64,
    file_private: u64,
    shmem_private: u64,
    private: u64,
    shared: u64,
}

impl SharingProbe {
    /// Begins a snapshot, `membership` standing for the processes that there are. With `all`, nothing
    /// that was read before is used; stale figures are not used if there are others within `patience`.
    pub fn begin(
        &mut self,
        maps: &[MemoryMap],
        layout: &Layout,
        all: bool,
        membership: u64,
        patience: Duration,
    ) {
        let now = Instant::now();
        let changed = match self.membership {
            Some((known, since)) if known == membership => since,
            _ => now,
        };
        self.membership = Some((membership, changed));
        let age = |since: Instant| now.saturating_duration_since(since);
        let is_stale = |since: Instant| {
            age(since) >= STALE || since < changed.checked_add(SETTLES).unwrap_or(now)
        };
        let since = self.known.as_ref().map(|(_, since)| *since);
        let is_wrong = all || since.is_none_or(is_stale);
        let rest = self.took.saturating_mul(REST).max(OLD);
        let begins = match &self.reading {
            Some(reading) => {
                all || (is_stale(reading.begun) && reading.spent < LARGE) || reading.begun < changed
            }
            None => is_wrong || since.is_none_or(|since| age(since) >= rest),
        };
        if begins {
            self.reading = Some(Reading::new(maps, layout, now));
        }
        self.allowance = match is_wrong {
            _ if all => Allowance::All,
            true => Allowance::Until(now.checked_add(patience).unwrap_or(now)),
            false => Allowance::default(),
        };
    }

    /// What is known, and its age in milliseconds.
    pub fn finish(&self) -> Option<(Sharing, u64)> {
        let (sharing, since) = self.known.as_ref()?;
        let age = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some((Sharing { pss_file: self.pss_file, ..sharing.clone() }, age))
    }
}

impl Job<PageMap> for SharingProbe {
    type Error = io::Error;

    fn step(&mut self, map: &PageMap, budget: &Budget) -> io::Result<Progress> {
        while let Some(reading) = self.reading.as_mut().filter(|_| !self.allowance.is_spent()) {
            let begun = Instant::now();
            let progress = reading.piece(map);
            let spent = begun.elapsed();
            self.allowance.spend(spent);
            reading.spent = reading.spent.saturating_add(spent);
            match progress {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => {
                    let Some(reading) = self.reading.take() else { break };
                    self.took = reading.spent;
                    let pages = reading.counts.private.saturating_add(reading.counts.shared);
                    let is_small = pages.saturating_mul(page_size() as u64) <= SMALL;
                    self.pss_file = self.pss_file.filter(|_| is_small);
                    self.ask = is_small;
                    let since = reading.begun;
                    self.known = Some((reading.finish(), since));
                }
                Err(error) => {
                    self.reading = None;
                    return Err(error);
                }
            }
            if budget.spent() {
                return Ok(Progress::More);
            }
        }
        if self.ask {
            // Once: a slice may have little left each time.
            if budget.used() > BEFORE && !self.deferred {
                self.deferred = true;
                return Ok(Progress::More);
            }
            (self.ask, self.deferred) = (false, false);
            self.pss_file = status::own_pss_file().unwrap_or(None);
        }
        Ok(Progress::Done)
    }
}

impl Reading {
    fn new(maps: &[MemoryMap], layout: &Layout, begun: Instant) -> Self {
        let devices = layout.devices(maps);
        let areas = maps.iter().filter_map(|map| Area::new(map, &layout.shared, &devices));
        let mut areas: Vec<_> = areas.collect();
        areas.sort_by_key(|area| area.range.start);
        let [anon, files, shmem] = std::array::from_fn(|_| Spans::default());
        let counts = Counts::default();
        Reading { begun, spent: Duration::ZERO, areas, next: 0, at: 0, counts, anon, files, shmem }
    }

    /// Goes over a bounded number of pages.
    fn piece(&mut self, map: &PageMap) -> io::Result<Progress> {
        let Reading { areas, next, at, counts, anon, files, shmem, .. } = self;
        let Some((area, last)) = areas.get(*next).zip(areas.last()) else {
            return Ok(Progress::Done);
        };
        let from = area.range.start.max(*at);
        let mut inside = areas.iter().skip(*next).peekable();
        *at = map.resident(&(from..last.range.end), |address, page| {
            while inside.next_if(|area| area.range.end <= address).is_some() {}
            let Some(area) = inside.peek().filter(|area| area.range.start <= address) else {
                return;
            };
            let is_file = page.file_or_shared();
            if page.exclusive() {
                match area.of {
                    Of::File { shmem: true, .. } if is_file => counts.shmem_private += 1,
                    Of::File { shmem: false, .. } if is_file => counts.file_private += 1,
                    _ => {}
                }
                counts.private += 1;
                return;
            }
            counts.shared += 1;
            let number = (address / page_size()) as u64;
            match area.of {
                Of::Nginx => {}
                _ if !is_file => {
                    counts.anon_shared += 1;
                    anon.insert(number & ((1 << PAGE_BITS) - 1));
                }
                Of::File { number: file, start, shmem: is_shmem } => {
                    let into = (address.saturating_sub(start) / page_size()) as u64;
                    let set = if is_shmem { &mut *shmem } else { &mut *files };
                    set.insert(file.wrapping_add(into));
                }
                // The kernel's own page of code, which every process maps.
                Of::Nothing => {}
            }
        })?;
        while areas.get(*next).is_some_and(|area| area.range.end <= *at) {
            *next += 1;
        }
        Ok(if *next < areas.len() { Progress::More } else { Progress::Done })
    }

    fn finish(self) -> Sharing {
        let bytes = |pages: u64| pages.saturating_mul(page_size() as u64);
        Sharing {
            anon_shared: bytes(self.counts.anon_shared),
            file_private: bytes(self.counts.file_private),
            shmem_private: bytes(self.counts.shmem_private),
            shared: bytes(self.counts.shared),
            anon: self.anon.pack(ROOM),
            files: self.files.pack(ROOM),
            shmem: self.shmem.pack(ROOM_SHMEM),
            pss_file: None,
        }
    }
}

impl Area {
    /// `None` for what is in no figure of the kernel's.
    fn new(map: &MemoryMap, nginx: &[Range<usize>], devices: &ShmemDevices) -> Option<Area> {
        let range = maps::range(map);
        if matches!(map.pathname, MMapPath::Vvar) || maps::is_hugetlb(map) {
            return None;
        }
        let of = if nginx.contains(&range) {
            Of::Nginx
        } else if maps::has_file(map) {
            let mut hasher = DefaultHasher::new();
            (map.dev, map.inode).hash(&mut hasher);
            let file = (hasher.finish() >> 33) << 32;
            let offset = (map.offset / page_size() as u64) & u64::from(u32::MAX);
            let number = file.wrapping_add(offset);
            Of::File { number, start: range.start, shmem: devices.contains(map) }
        } else {
            Of::Nothing
        };
        Some(Area { range, of })
    }
}

#[cfg(test)]
mod tests;

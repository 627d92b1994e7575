//! Finds which pages of this process other processes also map, from `/proc/self/pagemap`.
//!
//! For this the kernel looks at each page's own descriptor, which takes about 12 us per megabyte. A
//! snapshot spends a short time on it and continues where the last one stopped. A complete reading
//! is reported with its age. A new reading starts when the last one is a second old, or twenty
//! times as old as the time that it took, whichever is later.
//!
//! A snapshot reads all pages at once, if its patience allows, when its figures would otherwise be
//! more than five seconds old, or older than the start or exit of a process of the server. After a
//! fork or an exit, many pages change between private and shared in several processes at once.
//!
//! `smaps` has the same figures, but it walks all pages of a mapping in one call, and blocks any
//! thread that maps or unmaps memory meanwhile.
#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use procfs::process::{MMapPath, MemoryMap};

use super::layout::{AddressLayout, ShmemDevices};
use crate::budget::{Budget, Job, Progress};
use crate::report::merge::pages::Spans;
use crate::report::model::sharing::Sharing;
use crate::sys::pagemap::{page_size, PageMap};
use crate::sys::{maps, status};

/// The time that a snapshot spends on reading once there are figures.
const ALLOWANCE: Duration = Duration::from_micros(300);
/// The minimum age at which figures are read again.
const OLD: Duration = Duration::from_secs(1);
/// The age from which a snapshot does not use figures.
const STALE: Duration = Duration::from_secs(5);
/// After a process started or exited, pages of the others may still change for this long.
const SETTLES: Duration = Duration::from_secs(1);
/// A reading that has taken this long is continued instead of restarted, which would lose more
/// time.
const LARGE: Duration = Duration::from_millis(20);
/// Figures are used for at least this multiple of the time that they took.
const REST: u32 = 20;
/// Bytes of a slot for anonymous pages, and as many for pages of files.
const ROOM: usize = 2048;
/// Bytes of a slot for other shared memory.
const ROOM_SHMEM: usize = 512;
/// The most resident bytes for which the kernel is asked for `Pss_File`, in one call: 0.7 ms.
const SMALL: u64 = 48 << 20;
/// The part of a slice that may be used up before that call.
const BEFORE: Duration = Duration::from_micros(50);
/// The number of bits of an address that form the page number.
const PAGE_BITS: u32 = 46;

/// The last complete figures, and the reading in progress.
#[derive(Debug, Default)]
pub struct SharingProbe {
    known: Option<(Sharing, Instant)>,
    /// The duration of the last reading, as the sum of its slices.
    took: Duration,
    reading: Option<SharingReading>,
    /// `Pss_File`, if the process is small enough.
    pss_file: Option<u64>,
    /// Whether this snapshot still has to query `Pss_File`.
    ask: bool,
    /// Whether the query has already been postponed to another slice.
    deferred: bool,
    /// The time that this snapshot may spend.
    allowance: Allowance,
    /// The last membership number, and when it last changed.
    membership: Option<(u64, Instant)>,
}

/// A limit on the time that a snapshot spends.
#[derive(Debug, Clone, Copy)]
enum Allowance {
    /// This much time on the processor.
    Slice(Duration),
    /// Any amount of time until then.
    Until(Instant),
    /// Any amount of time.
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

/// A reading in progress.
#[derive(Debug)]
struct SharingReading {
    begun: Instant,
    spent: Duration,
    /// The areas, sorted by address.
    areas: Vec<Area>,
    /// The next area, and the address in it at which the reading continues.
    next: usize,
    at: usize,
    counts: SharingCounts,
    anon: Spans,
    files: Spans,
    shmem: Spans,
}

#[derive(Debug)]
struct Area {
    range: Range<usize>,
    of: PageOwner,
}

#[derive(Debug, Clone, Copy)]
enum PageOwner {
    /// nginx's shared memory, which is counted once in any case.
    Nginx,
    /// Memory without a file.
    Nothing,
    /// A file. `number` identifies the page at `start`, by the file and the offset in it.
    File { number: u64, start: usize, shmem: bool },
}

/// Numbers of pages.
#[derive(Debug, Default)]
struct SharingCounts {
    anon_shared: u64,
    file_private: u64,
    shmem_private: u64,
    private: u64,
    shared: u64,
}

impl SharingProbe {
    /// Starts a snapshot. `membership` stands for the set of processes that exist.
    ///
    /// With `all`, no earlier reading is used. Stale figures are not used if a new reading
    /// completes within `patience`.
    pub fn begin(
        &mut self,
        maps: &[MemoryMap],
        layout: &AddressLayout,
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
            self.reading = Some(SharingReading::new(maps, layout, now));
        }
        self.allowance = match is_wrong {
            // The first figures are worth waiting for: a process is small when it starts.
            _ if all || since.is_none() => Allowance::All,
            true => Allowance::Until(now.checked_add(patience).unwrap_or(now)),
            false => Allowance::default(),
        };
    }

    /// Returns the last complete figures and their age in milliseconds.
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
            // The query is postponed once only: the following slices may have little time left,
            // too.
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

impl SharingReading {
    fn new(maps: &[MemoryMap], layout: &AddressLayout, begun: Instant) -> Self {
        let devices = layout.devices(maps);
        let areas = maps.iter().filter_map(|map| Area::new(map, &layout.shared, &devices));
        let mut areas: Vec<_> = areas.collect();
        areas.sort_by_key(|area| area.range.start);
        let [anon, files, shmem] = std::array::from_fn(|_| Spans::default());
        let counts = SharingCounts::default();
        SharingReading {
            begun,
            spent: Duration::ZERO,
            areas,
            next: 0,
            at: 0,
            counts,
            anon,
            files,
            shmem,
        }
    }

    /// Reads a bounded number of pages.
    fn piece(&mut self, map: &PageMap) -> io::Result<Progress> {
        let SharingReading { areas, next, at, counts, anon, files, shmem, .. } = self;
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
                    PageOwner::File { shmem: true, .. } if is_file => counts.shmem_private += 1,
                    PageOwner::File { shmem: false, .. } if is_file => counts.file_private += 1,
                    _ => {}
                }
                counts.private += 1;
                return;
            }
            counts.shared += 1;
            let number = (address / page_size()) as u64;
            match area.of {
                PageOwner::Nginx => {}
                _ if !is_file => {
                    counts.anon_shared += 1;
                    anon.insert(number & ((1 << PAGE_BITS) - 1));
                }
                PageOwner::File { number: file, start, shmem: is_shmem } => {
                    let into = (address.saturating_sub(start) / page_size()) as u64;
                    let set = if is_shmem { &mut *shmem } else { &mut *files };
                    set.insert(file.wrapping_add(into));
                }
                // The kernel's own page of code, which every process maps.
                PageOwner::Nothing => {}
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
    /// Returns `None` for a mapping that no figure of the kernel includes.
    fn new(map: &MemoryMap, nginx: &[Range<usize>], devices: &ShmemDevices) -> Option<Area> {
        let range = maps::range(map);
        if matches!(map.pathname, MMapPath::Vvar) || maps::is_hugetlb(map) {
            return None;
        }
        let of = if nginx.contains(&range) {
            PageOwner::Nginx
        } else if maps::has_file(map) {
            let mut hasher = DefaultHasher::new();
            (map.dev, map.inode).hash(&mut hasher);
            let file = (hasher.finish() >> 33) << 32;
            let offset = (map.offset / page_size() as u64) & u64::from(u32::MAX);
            let number = file.wrapping_add(offset);
            PageOwner::File { number, start: range.start, shmem: devices.contains(map) }
        } else {
            PageOwner::Nothing
        };
        Some(Area { range, of })
    }
}

#[cfg(test)]
mod tests;

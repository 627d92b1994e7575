//! Schedules the counts of malloc's free chunks, and keeps the totals of the last count.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::time::{Duration, Instant};

use super::arenas::{self, MallocState, Reader};
use super::count::{ArenaCount, CountContext};
use super::direct;
use super::ffi::MallInfo;
use super::walk::Stop;
use crate::abi::glibc::Mmapped;
use crate::budget::{Budget, Progress};
use crate::probe::heap::pace::cpu_time;
use crate::report::model::Note;
use crate::sys::memory::OwnMemory;

/// The maximum time for reading malloc's lists of free chunks. It cannot be interrupted, because
/// the lists change in between.
const LISTS_TIME: Duration = Duration::from_micros(500);
/// The maximum processor time of a count, over all its steps.
const MOST_WORK: Duration = Duration::from_secs(2);
/// The pause after a count, as a multiple of the time of its steps: counting takes at most 10 % of
/// the event loop.
const PAUSE: u32 = 10;
/// A count that takes at most this long is done for every snapshot.
const CHEAP: Duration = Duration::from_millis(1);
/// A snapshot waits for new figures if the last ones are older than this.
const FRESH: Duration = Duration::from_secs(2);
/// Figures older than this are reported as old.
const OLD: Duration = Duration::from_secs(5);

/// The totals of one count, or of one answer of malloc.
#[derive(Debug, Clone, Copy)]
pub struct FreeTotals {
    /// Free bytes.
    pub free: usize,
    /// Bytes in use; `None` unless all parts of the sum are known.
    pub in_use: Option<usize>,
    /// Bytes that malloc has from the system.
    pub reserved: Option<usize>,
    /// Bytes of the blocks with a mapping of their own.
    pub mmapped: Option<usize>,
    /// The time at which they were counted.
    pub at: Instant,
    /// The duration of the count; 0 if the totals are of one moment.
    pub over: Duration,
    /// The process that they belong to.
    pid: u32,
}

impl FreeTotals {
    fn of(info: &MallInfo) -> FreeTotals {
        FreeTotals {
            free: info.fordblks,
            in_use: info.uordblks.checked_add(info.hblkhd),
            reserved: info.arena.checked_add(info.hblkhd),
            mmapped: Some(info.hblkhd),
            at: Instant::now(),
            over: Duration::ZERO,
            pid: std::process::id(),
        }
    }

    /// Makes the totals of a count that is complete, including blocks with a mapping of their own.
    fn counted(count: &ArenaCount, mmapped: Option<Mmapped>) -> FreeTotals {
        let used = count.system.checked_sub(count.free);
        let mmapped = mmapped.map(|mmapped| mmapped.bytes);
        FreeTotals {
            free: count.free,
            in_use: used.zip(mmapped).and_then(|(used, mmapped)| used.checked_add(mmapped)),
            reserved: mmapped.and_then(|mmapped| count.system.checked_add(mmapped)),
            mmapped,
            at: Instant::now(),
            over: if count.swept { count.begun.elapsed() } else { Duration::ZERO },
            pid: std::process::id(),
        }
    }
}

/// The count in progress, and the results of the last one.
pub struct ArenaCounting {
    /// [`LISTS_TIME`], except in tests.
    pub lists_time: Duration,
    /// [`PAUSE`], except in tests.
    pub pause: u32,
    /// [`OLD`], except in tests.
    pub old: Duration,
    /// The count in progress, and the process that does it.
    count: Option<(ArenaCount, u32)>,
    /// The processor time of the last count, and when it ended.
    counted: Option<(Duration, Instant)>,
    /// The reason why the last count gave no figures.
    failed: Option<Stop>,
    /// Whether the first arena had many free chunks at the last count.
    many: bool,
    last: Option<FreeTotals>,
}

impl ArenaCounting {
    /// Starts with malloc's own answer, if there is one.
    pub fn new(info: Option<&MallInfo>) -> ArenaCounting {
        ArenaCounting {
            lists_time: LISTS_TIME,
            pause: PAUSE,
            old: OLD,
            count: None,
            counted: None,
            failed: None,
            many: false,
            last: info.map(FreeTotals::of),
        }
    }

    /// Returns the totals of the last count in this process.
    pub fn last(&self) -> Option<FreeTotals> {
        self.last.filter(|last| last.pid == std::process::id())
    }

    /// Uses malloc's own answer instead of a count; `work` is the processor time that it took.
    pub fn replace(&mut self, info: &MallInfo, work: Duration) {
        self.last = Some(FreeTotals::of(info));
        (self.count, self.failed) = (None, None);
        self.counted = Some((work, Instant::now()));
    }

    /// Returns whether a count is in progress in this process.
    pub fn is_under_way(&self) -> bool {
        self.count.as_ref().is_some_and(|(_, pid)| *pid == std::process::id())
    }

    /// Returns whether the last figures are recent enough to be used while a new count, which takes
    /// long, is in progress.
    pub fn is_fresh(&self) -> bool {
        if self.counted.is_none_or(|(work, _)| work <= CHEAP) {
            return false;
        }
        self.last().is_some_and(|last| last.at.elapsed() < FRESH)
    }

    /// Counts the free memory if the last figures are old enough, or continues a count in progress.
    /// The first arena lies in `heap`, which is read directly if this thread is `alone`.
    pub fn step(
        &mut self,
        state: &MallocState,
        reader: &mut Reader,
        heap: Range<usize>,
        alone: bool,
        budget: &Budget,
    ) -> Progress {
        let pid = std::process::id();
        self.count.take_if(|(_, counts)| *counts != pid);
        self.last.take_if(|last| last.pid != pid);
        let pause = self.pause;
        let rests = |(work, at): (Duration, Instant)| work > CHEAP && at.elapsed() < work * pause;
        if self.count.is_none() && self.last.is_some() && self.counted.is_some_and(rests) {
            return Progress::Done;
        }
        let begin = || (ArenaCount::begin(state, self.many), pid);
        let (count, _) = self.count.get_or_insert_with(begin);
        let place = CountContext { state, heap, lists: self.lists_time };
        let begun = cpu_time();
        let done = if alone {
            direct::step(count, reader, &place, budget)
        } else {
            count.step(reader, &OwnMemory, &place, budget)
        };
        count.work += cpu_time().saturating_sub(begun);
        self.failed = match done {
            Ok(Progress::More) if count.work < MOST_WORK => return Progress::More,
            Ok(Progress::More) => Some(Stop::TooMany),
            Err(stop) => Some(stop),
            Ok(Progress::Done) => {
                let mmapped = state.counters.and_then(|at| arenas::mmapped(&OwnMemory, at));
                self.last = Some(FreeTotals::counted(count, mmapped));
                None
            }
        };
        self.many = count.many;
        self.counted = Some((count.work, Instant::now()));
        self.count = None;
        Progress::Done
    }

    /// Returns the reason why the figures are missing or old.
    pub fn doubt(&self) -> Option<Note> {
        let age = self.last().map(|last| last.at.elapsed());
        if age.is_some_and(|age| age < self.old) {
            return None;
        }
        let which = match age {
            Some(age) => format!("reserved, in_use, free and mmapped are {} s old", age.as_secs()),
            None => "in_use and free are not known".to_owned(),
        };
        let why = match self.failed {
            _ if self.is_under_way() => "a new count is under way",
            Some(Stop::TooMany) => "there are more chunks than can be counted",
            Some(Stop::Broken) => "the heap changed while its free chunks were counted",
            Some(Stop::Unreadable) => {
                "the system does not allow process_vm_readv on the own process"
            }
            None => "they are counted again at the next request",
        };
        Some(Note::new(format!("glibc: {which}: {why}")))
    }
}

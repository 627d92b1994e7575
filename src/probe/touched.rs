//! How much of each zone this process has touched: the pages of it in its own page table.
//!
//! A gigabyte that is touched takes some milliseconds to count, so a snapshot goes on for a short
//! while where the last one stopped, and each figure is served with its age. Small zones are
//! counted anew each time, large ones are complete every few snapshots.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::budget::{Budget, Progress};
use crate::sys::pagemap::PageMap;

/// The time a snapshot spends on it.
const ALLOWANCE: Duration = Duration::from_micros(200);

/// What is counted, and where counting goes on.
#[derive(Debug, Default)]
pub struct Touched {
    /// By address.
    zones: Vec<Zone>,
    /// The zone that is next.
    cursor: usize,
    /// Zones that this snapshot has not got to.
    due: usize,
    /// What is left of its time; `None` where it has as much as it takes.
    left: Option<Duration>,
    /// When the snapshot began.
    begun: Option<Instant>,
}

#[derive(Debug)]
struct Zone {
    pages: Range<usize>,
    /// Bytes, and when their count began.
    counted: Option<(u64, Instant)>,
    /// The count under way: when it began, the next page, and bytes so far.
    counting: Option<(Instant, usize, u64)>,
}

impl Touched {
    /// Begins a snapshot of these page ranges. With `all`, every one is counted anew and whole.
    pub fn begin(&mut self, ranges: impl Iterator<Item = Range<usize>>, all: bool) {
        let mut zones: Vec<_> = ranges
            .map(|pages| match self.zone(&pages) {
                Some(Zone { counted, counting, .. }) => {
                    let counting = counting.filter(|_| !all);
                    Zone { pages, counted: *counted, counting }
                }
                None => Zone { pages, counted: None, counting: None },
            })
            .collect();
        zones.sort_by_key(|zone| zone.pages.start);
        self.zones = zones;
        self.due = self.zones.len();
        self.left = (!all).then_some(ALLOWANCE);
        self.begun = Some(Instant::now());
    }

    /// Goes on until the budget, or the snapshot's time for it, is spent, or all are counted.
    pub fn step(&mut self, map: &PageMap, budget: &Budget) -> io::Result<Progress> {
        while self.due > 0 && self.left != Some(Duration::ZERO) {
            let begun = Instant::now();
            self.piece(map, begun)?;
            self.left = self.left.map(|left| left.saturating_sub(begun.elapsed()));
            if budget.spent() {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    /// The zone of a range.
    fn zone(&self, pages: &Range<usize>) -> Option<&Zone> {
        let place = self.zones.partition_point(|zone| zone.pages.start < pages.start);
        self.zones.get(place).filter(|zone| zone.pages == *pages)
    }

    /// One piece of the zone that is next.
    fn piece(&mut self, map: &PageMap, now: Instant) -> io::Result<()> {
        let count = self.zones.len();
        let Some(zone) = self.zones.get_mut(self.cursor % count.max(1)) else {
            self.due = 0;
            return Ok(());
        };
        let (begun, next, mut bytes) = zone.counting.take().unwrap_or((now, zone.pages.start, 0));
        let next = map.count_alike(&(next..zone.pages.end), &mut bytes)?;
        if next < zone.pages.end {
            zone.counting = Some((begun, next, bytes));
        } else {
            zone.counted = Some((bytes, begun));
            self.cursor = (self.cursor + 1) % count;
            self.due -= 1;
        }
        Ok(())
    }

    /// Touched bytes of all ranges, if this snapshot has counted every one of them.
    pub fn sum(&self) -> Option<u64> {
        let begun = self.begun?;
        let fresh = |zone: &Zone| zone.counted.filter(|(_, since)| *since >= begun);
        self.zones.iter().try_fold(0u64, |sum, zone| sum.checked_add(fresh(zone)?.0))
    }

    /// Touched bytes of a range, and their age in milliseconds; `None` before they were counted.
    pub fn of(&self, pages: &Range<usize>) -> Option<(u64, u64)> {
        let (bytes, since) = self.zone(pages)?.counted?;
        Some((bytes, u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pagemap::page_size;

    struct Shared(Range<usize>);

    impl Shared {
        fn map(pages: usize) -> Self {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let map = crate::probe::shared::tests::shared(pages, access);
            Shared(map..map + pages * page_size())
        }
    }

    #[test]
    fn goes_on_where_it_stopped() {
        let zones = [Shared::map(8), Shared::map(100_000), Shared::map(3)];
        let ranges = || zones.iter().map(|zone| zone.0.clone());
        let touch = |zone: usize, pages: usize| {
            crate::probe::shared::tests::touch(&zones[zone].0, pages);
        };
        touch(0, 5);
        touch(1, 70_000);
        let map = PageMap::open().unwrap();
        let mut touched = Touched::default();
        let snapshot = |touched: &mut Touched, all: bool| {
            touched.begin(ranges(), all);
            let spent = Budget::new(Duration::ZERO);
            let mut steps = 0;
            while touched.step(&map, &spent).unwrap() == Progress::More {
                steps += 1;
            }
            steps
        };
        let bytes = |touched: &Touched| {
            ranges()
                .map(|r| touched.of(&r).map(|(b, _)| b / page_size() as u64))
                .collect::<Vec<_>>()
        };
        let mut snapshots = 0;
        while bytes(&touched).contains(&None) {
            snapshot(&mut touched, false);
            snapshots += 1;
            assert!(snapshots < 10_000);
        }
        assert_eq!(bytes(&touched), [Some(5), Some(70_000), Some(0)]);
        touch(2, 2);
        assert!(snapshot(&mut touched, true) >= 3, "a whole count takes its pieces");
        assert_eq!(bytes(&touched), [Some(5), Some(70_000), Some(2)]);
        // A zone that is gone takes its figures with it.
        touched.begin(ranges().take(1), false);
        assert_eq!(bytes(&touched), [Some(5), None, None]);
        touched.begin(ranges().take(0), false);
        let unlimited = Budget::unlimited();
        assert_eq!(touched.step(&map, &unlimited).unwrap(), Progress::Done);
    }
}

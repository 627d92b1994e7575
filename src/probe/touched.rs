//! Counts how much of each zone this process has touched: the zone's pages in its own page table.
//!
//! Zones are counted in rounds ([`Rounds`]), so each figure has an age.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::rounds::Rounds;
use crate::budget::{Budget, Job, Progress};
use crate::sys::pagemap::PageMap;

/// The time that a snapshot spends on counting.
const ALLOWANCE: Duration = Duration::from_micros(200);

/// The figures of the zones, and the progress of counting.
#[derive(Debug, Default)]
pub struct Touched {
    zones: Rounds<u64>,
    /// The time at which the snapshot began.
    begun: Option<Instant>,
}

impl Touched {
    /// Starts a snapshot of these page ranges. With `all`, every range is counted completely and
    /// from its start.
    pub fn begin(&mut self, ranges: impl Iterator<Item = Range<usize>>, all: bool) {
        self.zones.begin(ranges, (!all).then_some(ALLOWANCE));
        self.begun = Some(Instant::now());
    }

    /// Returns the touched bytes of all ranges; `None` unless this snapshot has counted every
    /// range.
    pub fn sum(&self) -> Option<u64> {
        let begun = self.begun?;
        self.zones.all().try_fold(0u64, |sum, counted| {
            let (bytes, _) = counted.filter(|(_, since)| *since >= begun)?;
            sum.checked_add(bytes)
        })
    }

    /// Returns the touched bytes of a range and their age in milliseconds; `None` before the first
    /// count.
    pub fn of(&self, pages: &Range<usize>) -> Option<(u64, u64)> {
        let (bytes, since) = self.zones.of(pages)?;
        Some((bytes, u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Job<PageMap> for Touched {
    type Error = io::Error;

    fn step(&mut self, map: &PageMap, budget: &Budget) -> io::Result<Progress> {
        self.zones.step(budget, |rest, bytes| map.count_alike(rest, bytes))
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
        // The figures of a zone that was removed are dropped.
        touched.begin(ranges().take(1), false);
        assert_eq!(bytes(&touched), [Some(5), None, None]);
        touched.begin(ranges().take(0), false);
        let unlimited = Budget::unlimited();
        assert_eq!(touched.step(&map, &unlimited).unwrap(), Progress::Done);
    }
}

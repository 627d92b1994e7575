//! Scans ranges that lie near each other with one system call.
//!
//! The segments of a library follow each other, and so do libraries. Most are small, so that a system
//! call takes longer than the scan of a segment.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;

/// The largest gap between two ranges of one scan, in bytes. If every page in it is present, scanning
/// the gap takes as long as another system call.
const GAP: usize = 256 << 10;

/// Ranges to scan, and the last scan.
#[derive(Debug, Default)]
pub struct NearRanges {
    /// The ranges in ascending order. Those near each other are joined.
    joined: Vec<Range<usize>>,
    /// The addresses that the last scan covers.
    window: Range<usize>,
    /// Present pages, with a flag that is true for those of one kind.
    runs: Vec<(Range<usize>, bool)>,
}

impl NearRanges {
    /// Prepares scans of these ranges, which must be sorted by their starts.
    pub fn new(ranges: impl Iterator<Item = Range<usize>>) -> Self {
        let mut joined: Vec<Range<usize>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(GAP) => {
                    last.end = last.end.max(range.end);
                }
                _ => joined.push(range),
            }
        }
        NearRanges { joined, window: 0..0, runs: Vec::new() }
    }

    /// Drops the last scan. Pages may have come and gone since.
    pub fn forget(&mut self) {
        self.window = 0..0;
    }

    /// Passes the present bytes at the start of `range` to `add`. `scan` is called if the last scan does
    /// not cover that start: with at most `most` bytes to scan, and a function that takes what it finds.
    /// It returns where to continue, as this function does.
    pub fn count(
        &mut self,
        range: &Range<usize>,
        most: usize,
        scan: impl FnOnce(&Range<usize>, &mut dyn FnMut(Range<usize>, bool)) -> io::Result<usize>,
        mut add: impl FnMut(usize, bool),
    ) -> io::Result<usize> {
        if !self.window.contains(&range.start) {
            let place = self.joined.partition_point(|joined| joined.end <= range.start);
            let joined = self.joined.get(place).filter(|joined| joined.start <= range.start);
            let end = joined.map_or(range.end, |joined| joined.end.max(range.end));
            let wanted = range.start..end.min(range.start.saturating_add(most));
            self.forget();
            self.runs.clear();
            let runs = &mut self.runs;
            let next = scan(&wanted, &mut |run, kind| runs.push((run, kind)))?;
            self.window = wanted.start..next;
        }
        let end = range.end.min(self.window.end);
        let first = self.runs.partition_point(|(run, _)| run.end <= range.start);
        for (run, kind) in self.runs.iter().skip(first) {
            let (from, to) = (run.start.max(range.start), run.end.min(end));
            if from >= to {
                break;
            }
            add(to - from, *kind);
        }
        Ok(end.max(range.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_take_one_scan() {
        // Every page at an even number is present; every fourth is of the kind.
        const PAGE: usize = 4096;
        let ranges = [0..4, 6..7, 10..40, 1000..1003].map(|r| r.start * PAGE..r.end * PAGE);
        let mut near = NearRanges::new(ranges.iter().cloned());
        let mut scans = Vec::new();
        let mut count = |near: &mut NearRanges, range: &Range<usize>| {
            let (mut at, mut counted) = (range.start, (0, 0));
            while at < range.end {
                at = near
                    .count(
                        &(at..range.end),
                        20 * PAGE,
                        |wanted, each| {
                            scans.push(wanted.start / PAGE..wanted.end / PAGE);
                            for page in wanted.clone().step_by(PAGE).map(|at| at / PAGE) {
                                if page % 2 == 0 {
                                    each(page * PAGE..(page + 1) * PAGE, page % 4 == 0);
                                }
                            }
                            Ok(wanted.end)
                        },
                        |bytes, kind| {
                            *if kind { &mut counted.0 } else { &mut counted.1 } += bytes / PAGE;
                        },
                    )
                    .unwrap();
            }
            counted
        };
        let counted = ranges.each_ref().map(|range| count(&mut near, range));
        assert_eq!(counted, [(1, 1), (0, 1), (7, 8), (1, 1)]);
        near.forget();
        assert_eq!(count(&mut near, &ranges[1]), (0, 1));
        assert_eq!(count(&mut near, &(100 * PAGE..104 * PAGE)), (1, 1), "it is none of them");
        assert_eq!(scans, [0..20, 20..40, 1000..1003, 6..26, 100..104]);
    }
}

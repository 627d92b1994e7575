//! Counts ranges of pages piece by piece, in the order of their addresses.
//!
//! Counting a gigabyte takes some milliseconds. A snapshot therefore continues for a short time
//! where the last one stopped, and each figure has an age. Small ranges are counted in every
//! snapshot, large ones are complete every few snapshots.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::budget::{Budget, Progress};

/// The figure of each range, and the progress of counting.
#[derive(Debug)]
pub struct Rounds<B> {
    /// The ranges, sorted by address.
    counts: Vec<RangeCount<B>>,
    /// The index of the next range.
    cursor: usize,
    /// The number of ranges that this snapshot has not finished yet.
    due: usize,
    /// The rest of the snapshot's time; `None` if its time is not limited.
    left: Option<Duration>,
}

#[derive(Debug)]
struct RangeCount<B> {
    range: Range<usize>,
    /// The figure, and when its count began.
    counted: Option<(B, Instant)>,
    /// The count in progress: when it began, the next page, and the figure so far.
    counting: Option<(Instant, usize, B)>,
}

impl<B> Default for Rounds<B> {
    fn default() -> Self {
        Rounds { counts: Vec::new(), cursor: 0, due: 0, left: None }
    }
}

impl<B: Copy + Default> Rounds<B> {
    /// Starts a snapshot of these ranges, which may take `allowance`. Without an allowance, every
    /// range is counted completely and from its start.
    pub fn begin(
        &mut self,
        ranges: impl Iterator<Item = Range<usize>>,
        allowance: Option<Duration>,
    ) {
        let count = |range| {
            let known = self.count(&range);
            let counted = known.and_then(|count| count.counted);
            let counting = known.and_then(|count| count.counting).filter(|_| allowance.is_some());
            RangeCount { range, counted, counting }
        };
        let mut counts: Vec<_> = ranges.map(count).collect();
        counts.sort_by_key(|count| count.range.start);
        self.due = counts.len();
        self.counts = counts;
        self.left = allowance;
    }

    /// Continues until the budget or the snapshot's time is spent, or all ranges are counted.
    /// `piece` counts from the start of the given range on, and returns where to continue.
    pub fn step(
        &mut self,
        budget: &Budget,
        mut piece: impl FnMut(&Range<usize>, &mut B) -> io::Result<usize>,
    ) -> io::Result<Progress> {
        while self.due > 0 && self.left != Some(Duration::ZERO) {
            let begun = Instant::now();
            self.piece(begun, &mut piece)?;
            self.left = self.left.map(|left| left.saturating_sub(begun.elapsed()));
            if budget.spent() {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    /// Counts one piece of the next range.
    fn piece(
        &mut self,
        now: Instant,
        piece: &mut impl FnMut(&Range<usize>, &mut B) -> io::Result<usize>,
    ) -> io::Result<()> {
        let all = self.counts.len();
        let Some(count) = self.counts.get_mut(self.cursor % all.max(1)) else {
            self.due = 0;
            return Ok(());
        };
        let (begun, next, mut figure) =
            count.counting.take().unwrap_or((now, count.range.start, B::default()));
        let next = piece(&(next..count.range.end), &mut figure)?;
        if next < count.range.end {
            count.counting = Some((begun, next, figure));
        } else {
            count.counted = Some((figure, begun));
            self.cursor = (self.cursor + 1) % all;
            self.due -= 1;
        }
        Ok(())
    }

    fn count(&self, range: &Range<usize>) -> Option<&RangeCount<B>> {
        let place = self.counts.partition_point(|count| count.range.start < range.start);
        self.counts.get(place).filter(|count| count.range == *range)
    }

    /// Returns the figure of a range and when its count began; `None` before it was counted.
    pub fn of(&self, range: &Range<usize>) -> Option<(B, Instant)> {
        self.count(range)?.counted
    }

    /// Iterates over the figures of all ranges, with the time when each count began.
    pub fn all(&self) -> impl Iterator<Item = Option<(B, Instant)>> + '_ {
        self.counts.iter().map(|count| count.counted)
    }
}

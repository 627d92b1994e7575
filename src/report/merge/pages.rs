//! Sets of pages in little memory.
//!
//! A set is a list of spans of blocks. While there is room, a block is one page and the set is
//! exact. When the room is full, the block size is doubled and each block has the number of its
//! pages that are in the set. The size of the union of such sets is known within bounds.
#![forbid(unsafe_code)]

use super::sharing::Estimate;
use crate::report::model::sharing::PageSet;

/// The maximum number of spans of a set that is being built.
const MOST: usize = 4096;

/// The maximum of [`Spans::shift`].
const LARGEST: u8 = 40;

/// Neighbouring blocks with the same number of pages in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u64,
    end: u64,
    /// The lower bound of the pages of each block that are in the set.
    low: u64,
    /// The upper bound of these pages.
    high: u64,
}

/// A set of page numbers, to build and to merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans {
    /// A block has `1 << shift` pages.
    shift: u8,
    /// Sorted by number, without overlap.
    spans: Vec<Span>,
    /// Page ranges that are not in `spans` yet.
    added: Vec<(u64, u64)>,
}

impl Spans {
    /// Adds a page, once. This is cheap if it follows the page that was added last.
    pub fn insert(&mut self, page: u64) {
        match self.added.last_mut() {
            Some((_, end)) if *end == page => *end = page.saturating_add(1),
            _ => {
                if self.added.len() >= MOST {
                    self.settle();
                }
                self.added.push((page, page.saturating_add(1)));
            }
        }
    }

    /// Moves the added pages into `spans`. Blocks grow while there are too many spans.
    fn settle(&mut self) {
        if !self.added.is_empty() {
            self.settle_added();
        }
        while self.spans.len() > MOST && self.shift < LARGEST {
            self.coarsen(self.shift.saturating_add(1));
        }
    }

    fn settle_added(&mut self) {
        let mut added = std::mem::take(&mut self.added);
        added.sort_unstable();
        let spans = added.into_iter().map(|(start, end)| Span { start, end, low: 1, high: 1 });
        let mut new =
            Spans { shift: 0, spans: sweep(spans.collect(), Vec::new(), 1), ..Spans::default() };
        new.coarsen(self.shift);
        let blocks = std::mem::take(&mut self.spans);
        // These are different pages of one set, so their numbers add up.
        let mut both = blocks;
        both.extend(new.spans);
        both.sort_by_key(|span| span.start);
        self.spans = sweep(both, Vec::new(), self.block());
    }

    /// The number of pages of a block.
    fn block(&self) -> u64 {
        1 << self.shift.min(LARGEST)
    }

    /// Makes blocks of `1 << shift` pages, if they are smaller now.
    fn coarsen(&mut self, shift: u8) {
        let shift = shift.min(LARGEST);
        let by = shift.saturating_sub(self.shift);
        if by == 0 {
            return;
        }
        let mut parts = Vec::with_capacity(self.spans.len());
        let factor = 1u64 << by;
        for span in &self.spans {
            let Span { start, end, low, high } = *span;
            let mut part = |from: u64, to: u64, blocks: u64| {
                if from < to {
                    let (low, high) = (low.saturating_mul(blocks), high.saturating_mul(blocks));
                    parts.push(Span { start: from, end: to, low, high });
                }
            };
            let (first, last) = (start >> by, end >> by);
            let (before, behind) = (start % factor, end % factor);
            if first == last {
                part(first, first + 1, end - start);
                continue;
            }
            let whole = if before > 0 { first + 1 } else { first };
            if before > 0 {
                part(first, first + 1, factor - before);
            }
            part(whole, last, factor);
            if behind > 0 {
                part(last, last + 1, behind);
            }
        }
        self.shift = shift;
        self.spans = sweep(parts, Vec::new(), self.block());
    }

    /// The union of two sets.
    pub fn union(mut self, mut other: Spans) -> Spans {
        self.settle();
        other.settle();
        let shift = self.shift.max(other.shift);
        self.coarsen(shift);
        other.coarsen(shift);
        let spans = sweep(self.spans, other.spans, 1 << shift);
        let mut union = Spans { shift, spans, added: Vec::new() };
        union.settle();
        union
    }

    /// The size of the set in bytes.
    pub fn estimate(&self, page_size: u64) -> Estimate {
        let (mut low, mut high) = (0u64, 0u64);
        for span in &self.spans {
            let blocks = span.end.saturating_sub(span.start);
            low = low.saturating_add(span.low.saturating_mul(blocks));
            high = high.saturating_add(span.high.saturating_mul(blocks));
        }
        let added = self.added.iter().map(|(start, end)| end.saturating_sub(*start));
        let added = added.fold(0u64, u64::saturating_add);
        let middle = low / 2 + high / 2 + (low % 2 + high % 2) / 2;
        Estimate {
            bytes: middle.saturating_add(added).saturating_mul(page_size),
            error: high.saturating_sub(low).div_ceil(2).saturating_mul(page_size),
        }
    }

    /// Encodes the set in at most `room` bytes.
    pub fn pack(mut self, room: usize) -> PageSet {
        self.settle();
        loop {
            let mut at = 0;
            let mut runs = Vec::with_capacity(self.spans.len());
            for span in &self.spans {
                runs.push((span.start - at, span.end - span.start, span.low));
                at = span.end;
            }
            let bytes: usize = runs.iter().map(|(a, b, c)| width(*a) + width(*b) + width(*c)).sum();
            if bytes <= room || self.shift >= LARGEST {
                return PageSet { shift: self.shift, runs };
            }
            self.coarsen(self.shift + 1);
        }
    }
}

impl PageSet {
    /// Decodes the set, so that it can be merged with others.
    pub fn spans(&self) -> Spans {
        let shift = self.shift.min(LARGEST);
        let mut at = 0u64;
        let mut spans = Vec::with_capacity(self.runs.len());
        for (gap, blocks, pages) in &self.runs {
            let start = at.saturating_add(*gap);
            at = start.saturating_add(*blocks);
            let pages = (*pages).min(1 << shift);
            spans.push(Span { start, end: at, low: pages, high: pages });
        }
        Spans { shift, spans, added: Vec::new() }
    }
}

/// The number of bytes of a number in the encoding of snapshots.
fn width(number: u64) -> usize {
    (64 - number.leading_zeros()).div_ceil(7).max(1) as usize
}

/// Merges two lists of spans, each sorted by start. Where spans of one list overlap, their pages
/// add up. Where spans of both lists overlap, they may have pages in common. No block has more than
/// `block` pages.
fn sweep(one: Vec<Span>, other: Vec<Span>, block: u64) -> Vec<Span> {
    let mut events: Vec<(u64, bool, bool, u64, u64)> =
        Vec::with_capacity(2 * (one.len() + other.len()));
    let lists = [(one, false), (other, true)];
    for (list, which) in lists {
        for span in list.into_iter().filter(|span| span.start < span.end) {
            events.push((span.start, which, true, span.low, span.high));
            events.push((span.end, which, false, span.low, span.high));
        }
    }
    // The sort is stable; on lists that are in order it is a merge.
    events.sort_by_key(|event| event.0);
    let mut spans: Vec<Span> = Vec::with_capacity(events.len() / 2);
    let (mut at, mut now) = (0u64, [(0u64, 0u64); 2]);
    for (place, which, begins, low, high) in events {
        let held = |(low, high): (u64, u64)| (low.min(block), high.min(block));
        let (a, b) = (held(now[0]), held(now[1]));
        let (most, sum) = (a.0.max(b.0), a.1.saturating_add(b.1).min(block));
        if at < place && sum > 0 {
            match spans.last_mut() {
                Some(last) if last.end == at && (last.low, last.high) == (most, sum) => {
                    last.end = place;
                }
                _ => spans.push(Span { start: at, end: place, low: most, high: sum }),
            }
        }
        at = place;
        let current = &mut now[usize::from(which)];
        *current = match begins {
            true => (current.0.saturating_add(low), current.1.saturating_add(high)),
            false => (current.0.saturating_sub(low), current.1.saturating_sub(high)),
        };
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::Random;
    use std::collections::BTreeSet;

    fn spans(pages: impl IntoIterator<Item = u64>) -> Spans {
        let mut spans = Spans::default();
        pages.into_iter().for_each(|page| spans.insert(page));
        spans
    }

    fn pages(spans: &Spans) -> (u64, u64) {
        let estimate = spans.estimate(1);
        (estimate.bytes, estimate.error)
    }

    #[test]
    fn small_sets_are_exact() {
        let one = spans((0..100).chain(5_000..5_010).chain([7, 1 << 62]));
        let other = spans((50..150).chain(5_010..5_020));
        let union = one.pack(1000).spans().union(other.pack(1000).spans());
        assert_eq!(pages(&union), (150 + 20 + 1, 0));
        assert_eq!(pages(&Spans::default().union(Spans::default())), (0, 0));
    }

    /// The union is within its bounds, however small the room and however large the set.
    #[test]
    fn large_sets_are_within_their_bounds() {
        let mut random = Random::new(7);
        for round in 0..60 {
            let mut all = BTreeSet::new();
            let mut union = Spans::default();
            for _ in 0..=random.below(6) {
                let density = 1 + random.below(30);
                let many = (0..random.below(20_000)).filter(|_| random.below(density) == 0);
                let set: Vec<u64> = many.collect();
                let packed = spans(set.iter().copied()).pack(50 + 300 * (round % 10));
                assert!(postcard::to_stdvec(&packed).unwrap().len() < 60 + 300 * (round % 10));
                let own = packed.spans();
                assert_eq!(pages(&own), (set.len() as u64, 0), "a set by itself is exact");
                union = union.union(own);
                all.extend(set);
            }
            let (bytes, error) = pages(&union);
            assert!(bytes.abs_diff(all.len() as u64) <= error, "{bytes} {error} {}", all.len());
        }
    }

    #[test]
    fn whatever_order_pages_come_in() {
        let mut random = Random::new(8);
        let mut set = BTreeSet::new();
        let mut all = Spans::default();
        for _ in 0..20_000 {
            let page = random.below(60_000);
            if set.insert(page) {
                all.insert(page);
            }
        }
        let packed = all.pack(2000);
        assert!(packed.runs.len() <= 1000 && packed.shift > 0);
        assert_eq!(pages(&packed.spans()), (set.len() as u64, 0));
    }

    #[test]
    fn hostile_sets() {
        let set = PageSet { shift: 255, runs: vec![(u64::MAX, u64::MAX, u64::MAX); 3] };
        let fine = PageSet { shift: 0, runs: vec![(1, u64::MAX, u64::MAX), (9, 9, 9)] };
        let union = set.spans().union(fine.spans()).union(spans([3]));
        assert!(union.estimate(4096).bytes > 0);
    }
}

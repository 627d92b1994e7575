//! Computes with sorted, disjoint address ranges.
#![forbid(unsafe_code)]

use std::ops::Range;

/// Sorts ranges, drops empty ones, and joins ranges that touch or overlap.
pub fn normalize(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// Returns the parts of `range` outside all `taken` ranges, which must be normalized.
pub fn subtract(range: &Range<usize>, taken: &[Range<usize>]) -> Vec<Range<usize>> {
    let first = taken.partition_point(|t| t.end <= range.start);
    let mut left = Vec::new();
    let mut at = range.start;
    for t in taken[first..].iter().take_while(|t| t.start < range.end) {
        if at < t.start {
            left.push(at..t.start);
        }
        at = at.max(t.end);
    }
    if at < range.end {
        left.push(at..range.end);
    }
    left
}

/// Returns the total bytes of the ranges.
pub fn bytes(ranges: &[Range<usize>]) -> u64 {
    ranges.iter().map(|range| range.end.saturating_sub(range.start) as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_and_subtracts() {
        let taken = normalize(vec![30..40, 10..20, 15..25, 25..26, 50..50]);
        assert_eq!(taken, [10..26, 30..40]);
        assert_eq!(subtract(&(0..100), &taken), [0..10, 26..30, 40..100]);
        assert_eq!(subtract(&(12..45), &taken), [26..30, 40..45]);
        assert!(subtract(&(12..20), &taken).is_empty());
        assert_eq!(bytes(&taken), 26);
    }
}

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[test]
fn classes() {
    for (size, class) in [
        (0, 0),
        (1, 0),
        (16, 0),
        (17, 1),
        (32, 1),
        (33, 2),
        (1 << 20, 16),
        ((1 << 20) + 1, 17),
        (u64::MAX, 17),
    ] {
        assert_eq!(class_of(size), class, "{size}");
    }
    for class in 0..CLASSES - 1 {
        let limit = class_limit(class).unwrap();
        assert_eq!((class_of(limit), class_of(limit + 1)), (class, class + 1));
    }
    assert_eq!(class_limit(CLASSES - 1), None);
}

#[test]
fn steps_make_classes() {
    let tally = Tally::default();
    let mut expected = [0; CLASSES];
    for size in 1..=2 * SMALL {
        tally.allocated(size, BlockPlace::Unknown);
        expected[class_of(size as u64)] += 1;
    }
    let figures = tally.figures();
    assert_eq!((figures.sizes, figures.allocations), (expected, 2 * SMALL as u64));
}

proptest! {
    /// Compares bytes, their peak and the calls with sums that are kept at each step.
    #[test]
    fn as_counted_at_each_step(
        calls in vec((0..4, 1..2 * SMALL, any::<prop::sample::Index>()), 0..200),
    ) {
        let chunk = |size: usize| BlockPlace::Chunk(size.next_multiple_of(16) as u64);
        let tally = Tally::default();
        tally.begin(500, 3, 0, (0, 0));
        let mut blocks = Vec::new();
        let mut expected = VmFigures { peak: 500, allocations: 3, ..VmFigures::default() };
        for (call, size, which) in calls {
            match call {
                0 if size <= SMALL => {
                    tally.ask(size);
                    tally.given(size.next_multiple_of(16));
                    expected.allocations += 1;
                    blocks.push(size);
                }
                0 => {
                    tally.allocated(size, chunk(size));
                    expected.allocations += 1;
                    blocks.push(size);
                }
                1 if size <= SMALL => {
                    tally.ask(size);
                    tally.refused();
                    expected.failures += 1;
                }
                2 if !blocks.is_empty() => {
                    let size = blocks.swap_remove(which.index(blocks.len()));
                    tally.freed(size, chunk(size));
                    expected.frees += 1;
                }
                3 if !blocks.is_empty() => {
                    let at = which.index(blocks.len());
                    let block = &mut blocks[at];
                    tally.resized((*block, chunk(*block)), (size, chunk(size)));
                    *block = size;
                    expected.resizes += 1;
                }
                _ => {}
            }
            expected.live = 500 + blocks.iter().sum::<usize>() as u64;
            expected.peak = expected.peak.max(expected.live);
        }
        expected.live = 500 + blocks.iter().sum::<usize>() as u64;
        expected.chunks = blocks.iter().map(|size| size.next_multiple_of(16) as u64).sum();
        let figures = tally.figures();
        expected.sizes = figures.sizes;
        let sized = figures.sizes.iter().sum::<u64>();
        prop_assert_eq!(sized, expected.allocations - 3 + expected.resizes);
        prop_assert_eq!(tally.live(), expected.live);
        prop_assert_eq!(figures, expected);
    }
}

/// The counters that a small block changes are in one cache line, behind three words of the VM.
#[test]
fn in_a_line_of_the_cache() {
    assert!(3 * 8 + std::mem::offset_of!(Tally, resizes) <= 64);
}

#[test]
fn the_life_of_a_vm() {
    let tally = Tally::default();
    tally.begin(1000, 10, 1100, (0, 0));
    tally.ask(100);
    tally.given(112);
    tally.allocated(200_000, BlockPlace::Direct(204_800));
    tally.resized((100, BlockPlace::Chunk(112)), (300, BlockPlace::Chunk(312)));
    tally.ask(50);
    tally.refused();
    tally.freed(200_000, BlockPlace::Direct(204_800));
    let mut sizes = [0; CLASSES];
    (sizes[3], sizes[5], sizes[14]) = (1, 1, 1);
    let figures = VmFigures {
        live: 1300,
        peak: 201_300,
        allocations: 12,
        resizes: 1,
        frees: 1,
        failures: 1,
        chunks: 1412,
        direct: 0,
        directs: 0,
        sizes,
    };
    assert_eq!(tally.figures(), figures);
    let ended = EndedVms::new();
    ended.add(&figures.clone().ended());
    ended.add(&VmFigures { peak: 7, allocations: 1, frees: 1, ..VmFigures::default() });
    let mut sum = VmFigures { live: 5, peak: 6, ..VmFigures::default() };
    sum.add(&ended.figures());
    let expected = VmFigures { live: 5, allocations: 13, frees: 13, chunks: 0, ..figures };
    assert_eq!(sum, expected);

    tally.begin(7, 1, 16, (4096, 1));
    let begun = VmFigures {
        live: 7,
        peak: 7,
        allocations: 1,
        chunks: 16,
        direct: 4096,
        directs: 1,
        ..VmFigures::default()
    };
    assert_eq!(tally.figures(), begun);
}

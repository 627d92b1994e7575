use super::*;

const POOL: usize = 0x7f00_0000_0000;

fn counts(allocations: u64, frees: u64, failures: u64, bytes_requested: u64) -> SlabCounts {
    SlabCounts { allocations, frees, failures, bytes_requested }
}

#[test]
fn counts_by_pool() {
    let table = SlabTable::new();
    let pool = |i: usize| POOL + i * 0x10_0000;
    for i in 0..100 {
        for size in 0..i as u64 {
            table.allocated(pool(i), size, true, None);
        }
        table.allocated(pool(i), 1 << 40, false, None);
        table.freed(pool(i));
    }
    for i in 0..100 {
        let n = i as u64;
        assert_eq!(table.counts(pool(i)), Some(counts(n, 1, 1, n * n.saturating_sub(1) / 2)));
    }
    assert_eq!(table.counts(pool(100)), Some(SlabCounts::default()), "it did nothing there");
    assert_eq!(table.others(|_| true), SlabCounts::default());
    assert_eq!(table.others(|p| p != pool(7)), counts(7, 1, 1, 21));
}

#[test]
fn more_pools_than_places() {
    let table = SlabTable::new();
    let pools: Vec<usize> = (1..=3 * POOLS).map(|i| POOL + i * 4096).collect();
    for pool in &pools {
        table.allocated(*pool, 10, true, None);
        table.allocated(*pool, 10, false, None);
        table.freed(*pool);
    }
    let counted: Vec<_> = pools.iter().filter_map(|pool| table.counts(*pool)).collect();
    assert!(counted.len() > POOLS / 2 && counted.len() <= POOLS, "{}", counted.len());
    assert!(counted.iter().all(|c| *c == counts(1, 1, 1, 10)));
    let rest = (pools.len() - counted.len()) as u64;
    let known = |pool: usize| table.counts(pool).is_some();
    assert_eq!(table.others(known), counts(rest, rest, rest, 10 * rest));
    table.freed(0);
    table.freed(RETIRED);
    assert_eq!(table.others(known), counts(rest, rest + 2, rest, 10 * rest));
}

#[test]
fn all_places_ever_taken_are_known() {
    let (table, child) = (SlabTable::new(), SlabTable::new());
    (1..=300).for_each(|i| table.begin(POOL + i * 0x10_0000, i as u64));
    let sorted = |table: &SlabTable| {
        let mut pools: Vec<_> = table.taken().map(|entry| entry.pool.load(Relaxed)).collect();
        pools.sort_unstable();
        pools
    };
    let all: Vec<_> = (1..=300).map(|i| POOL + i * 0x10_0000).collect();
    assert_eq!(sorted(&table), all);
    child.inherit(Some(&table));
    assert_eq!(sorted(&child), all);
    child.inherit(None);
    assert_eq!(sorted(&child), [0; 300], "their places are empty now");
}

#[test]
fn pools_come_and_go() {
    let table = SlabTable::new();
    table.begin(POOL, 1);
    table.allocated(POOL, 5000, true, Some(&table));
    table.allocated(POOL, 8, true, None);
    table.allocated(POOL, 9000, false, Some(&table));
    assert_eq!(table.counts(POOL), Some(counts(2, 0, 1, 5008)));
    assert_eq!(table.page_counts(POOL, 1), Some(PageCounts { reqs: 2, fails: 1 }));
    assert_eq!(table.page_counts(POOL, 2), None, "another mapping at the address");
    table.end(POOL);
    assert_eq!(table.page_counts(POOL, 1), None);
    assert_eq!(table.counts(POOL), Some(SlabCounts::default()));
    table.begin(POOL, 2);
    assert_eq!(table.page_counts(POOL, 2), Some(PageCounts::default()));
    for i in 0..100_000 {
        table.begin(POOL + i * 4096, i as u64 + 10);
        table.end(POOL + i * 4096);
    }
    table.begin(POOL, 3);
    table.allocated(POOL, 1, true, None);
    assert_eq!(table.counts(POOL), Some(counts(1, 0, 0, 1)), "places are taken again");
}

#[test]
fn a_child_counts_for_itself() {
    let (masters, child, sibling) = (SlabTable::new(), SlabTable::new(), SlabTable::new());
    masters.begin(POOL, 1);
    masters.begin(POOL + 4096, 2);
    masters.allocated(POOL, 100, true, None);
    for table in [&child, &sibling] {
        table.freed(POOL + 8192);
        table.freed(0);
        table.inherit(Some(&masters));
        assert_eq!(table.others(|_| false), SlabCounts::default());
    }
    child.allocated(POOL, 4096, true, Some(&masters));
    sibling.allocated(POOL, 4096, false, Some(&masters));
    sibling.allocated(POOL + 8192, 4096, true, Some(&masters));
    assert_eq!(child.counts(POOL), Some(counts(1, 0, 0, 4096)));
    assert_eq!(sibling.counts(POOL), Some(counts(0, 0, 1, 0)));
    assert_eq!(masters.counts(POOL), Some(counts(1, 0, 0, 100)));
    assert_eq!(masters.page_counts(POOL, 1), Some(PageCounts { reqs: 2, fails: 1 }));
    // The master continues as its own child (daemon) and takes over that table's counts.
    let daemon = SlabTable::new();
    daemon.inherit(Some(&masters));
    daemon.allocated(POOL, 50, true, None);
    daemon.freed(POOL);
    daemon.allocated(POOL + 12288, 10, false, None);
    let sum = SlabTable::new();
    sum.begin(POOL, 1);
    sum.allocated(POOL, 100, true, None);
    sum.absorb(&daemon);
    assert_eq!(sum.counts(POOL), Some(counts(2, 1, 0, 150)));
    assert_eq!(sum.counts(POOL + 12288), Some(counts(0, 0, 1, 0)));
    assert_eq!(sum.page_counts(POOL, 1), Some(PageCounts::default()));
    // The pool from before the reload is gone in the master, but not in the child.
    masters.end(POOL);
    masters.begin(POOL, 3);
    child.allocated(POOL, 4096, false, Some(&masters));
    assert_eq!(child.counts(POOL), Some(counts(1, 0, 1, 4096)));
    assert_eq!(masters.page_counts(POOL, 3), Some(PageCounts::default()));
    child.inherit(None);
    assert_eq!(child.others(|_| false), SlabCounts::default());
}

#[test]
fn threads_in_different_pools() {
    let table = SlabTable::new();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let table = &table;
            scope.spawn(move || {
                for _ in 0..10_000 {
                    table.allocated(POOL + i * 4096, 1, true, None);
                    table.freed(0);
                }
            });
        }
    });
    for i in 0..8 {
        assert_eq!(table.counts(POOL + i * 4096), Some(counts(10_000, 0, 0, 10_000)));
    }
    assert_eq!(table.others(|_| true), counts(0, 80_000, 0, 0));
}

#[test]
fn a_table_absorbs_another_of_the_same_process() {
    let (masters, own) = (SlabTable::new(), SlabTable::new());
    for table in [&masters, &own] {
        table.begin(POOL, 1);
        table.allocated(POOL, 100, true, None);
        table.freed(POOL);
    }
    own.allocated(POOL + 4096, 7, false, None);
    own.other.allocations.store(3, Relaxed);
    for _ in 0..2 {
        masters.absorb(&own);
        assert_eq!(masters.counts(POOL), Some(counts(2, 2, 0, 200)));
        assert_eq!(masters.counts(POOL + 4096), Some(counts(0, 0, 1, 0)));
        assert_eq!(masters.others(|_| true), counts(3, 0, 0, 0));
        assert_eq!(own.counts(POOL), Some(SlabCounts::default()), "counted once");
    }
}

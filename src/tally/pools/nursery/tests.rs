use super::*;

impl Nursery {
    /// Does what the hook's code does when a young pool with up to three blocks ends.
    pub(in crate::tally::pools) fn end_young(&self, pool: usize, blocks: usize) -> bool {
        let place = place_of(pool);
        if self.pools[place].load(Relaxed) != pool {
            return false;
        }
        self.pools[place].store(0, Relaxed);
        let kind = self.kind_at(place).unwrap();
        self.ended[blocks - 1][kind].fetch_add(1, Relaxed);
        true
    }
}

fn created(pool: usize, mark: usize, size: usize) -> Created {
    Created { pool, mark, size, at: pool + 1 }
}

/// Two pools that have the same place.
fn rivals() -> (usize, usize) {
    let second = (32..).step_by(16).find(|other| place_of(*other) == place_of(16)).unwrap();
    (16, second)
}

fn put(nursery: &Nursery, created: &Created, creator: usize) -> Option<Leaving> {
    nursery.put(created, creator, nursery.kind(created, creator).unwrap())
}

#[test]
fn the_older_one_leaves() {
    let nursery = Nursery::new();
    let (first, second) = rivals();
    assert_eq!(put(&nursery, &created(first, 0x101, 256), 7), None);
    let left = Some(Leaving { pool: first, creator: 7, at: first + 1 });
    assert_eq!(put(&nursery, &created(second, 0x102, 256), 8), left);
    assert_eq!((nursery.take(first), nursery.leave_all().count()), (None, 1));
    assert_eq!((nursery.take(second), nursery.leave_all().count()), (None, 0));
}

#[test]
fn a_null_pool_has_no_place() {
    let nursery = Nursery::new();
    assert_eq!(place_of(0), 0);
    assert_eq!(nursery.take(0), None);
    let at_first = (16..).step_by(16).find(|pool| place_of(*pool) == 0).unwrap();
    let itself = Some(Leaving { pool: at_first, creator: 7, at: at_first + 1 });
    assert_eq!(put(&nursery, &created(at_first, 0x101, 256), 7), itself);
    assert_eq!(nursery.pools[0].load(Relaxed), TAKEN, "from the first kind on");
    assert_eq!(
        (nursery.take(at_first), nursery.take(0), nursery.leave_all().count()),
        (None, None, 0)
    );
    assert_eq!(nursery.pools[0].load(Relaxed), TAKEN);
}

#[test]
fn kinds() {
    let nursery = Nursery::new();
    let kind = |mark, size| nursery.kind(&created(16, mark, size), 7);
    assert_eq!(kind(0, 256), None);
    assert_eq!([kind(0x101, 256), kind(0x102, 256)], [Some(1), Some(2)]);
    assert_eq!([kind(0x101, 256), kind(0x101, 512), kind(0x201, 256)], [Some(1), None, None]);
    for (pool, blocks) in [(16, 1), (32, 2), (48, 2), (64, 3)] {
        put(&nursery, &created(pool, 0x101, 256), 7);
        assert!(nursery.end_young(pool, blocks));
    }
    let ended =
        [(256, 1), (512, 2), (768, 1)].map(|(size, count)| EndedPools { creator: 7, size, count });
    assert_eq!(nursery.end_all().collect::<Vec<_>>(), ended);
    assert_eq!(nursery.end_all().count(), 0);
    assert_eq!(kind(0x201, 512), Some(1), "there is room again");
}

/// Pools with large allocations are counted by kind as long as their sizes are alike.
#[test]
fn sizes_alike() {
    let nursery = Nursery::new();
    let end = |mark, size| {
        put(&nursery, &created(16, mark, 256), mark);
        nursery.end(16, size).unwrap()
    };
    assert_eq!(nursery.end(16, 5000), None, "it is not here");
    let none = |creator| EndedPools { creator, size: 0, count: 0 };
    assert_eq!([end(1, 5000), end(1, 4097), end(1, 8192), end(1, 6000)], [none(1); 4]);
    assert_eq!([end(2, 70_000), end(2, 66_000)], [none(2); 2]);
    assert_eq!(nursery.end(16, 5000), None, "it is not here any more");
    assert_eq!(end(1, 8193), EndedPools { creator: 1, size: 8192, count: 4 });
    assert_eq!(end(1, 4096), EndedPools { creator: 1, size: 8193, count: 1 });
    put(&nursery, &created(16, 1, 256), 1);
    assert!(nursery.end_young(16, 2));
    let ended = [(1, 512, 1), (1, 4096, 1), (2, 70_000, 2)]
        .map(|(creator, size, count)| EndedPools { creator, size, count });
    assert_eq!(nursery.end_all().collect::<Vec<_>>(), ended);
    assert_eq!(nursery.end_all().count(), 0);
    assert_eq!(end(1, 5000), none(1), "nothing is left of those before");
    assert_eq!(nursery.end_all().map(|ended| ended.size).collect::<Vec<_>>(), [5000]);
}

/// Consecutive pools, as malloc allocates them, mostly get different places.
#[test]
fn places_are_spread() {
    let small = (16..=8448).step_by(16).map(|distance| (distance, 120));
    // 256, 512, 1024 and so on with the bytes that malloc adds, and whole pages.
    let usual = [272, 528, 1040, 2064, 4112, 8208, 16400, 4096, 8192, 65536].map(|d| (d, 180));
    for (distance, least) in small.chain(usual) {
        let mut places: Vec<usize> =
            (0..200).map(|i| place_of(0x5555_5678_9010 + i * distance)).collect();
        places.sort_unstable();
        places.dedup();
        assert!(places.len() >= least, "{distance}: {}", places.len());
    }
}

use std::collections::HashMap;

use super::creators::{least_size, CREATORS};
use super::*;
use crate::report::sample::Random;

const EXACT: Origin = Origin { function: 0x1000, calls: 0 };
const UNWOUND: Origin = Origin { function: 0x1000, calls: 1 };

fn insert(live: &mut Live, address: usize, creator: usize, created: u32) -> bool {
    if live.needs_room() {
        live.make_room();
    }
    live.insert(address, creator, created)
}

fn pools() -> PoolTally {
    PoolTally::new(Box::leak(Box::default()))
}

/// Creates a pool as the hook does. The mark is arbitrary, but different for each creator.
fn created(pools: &mut PoolTally, pool: usize, creator: usize) -> Look {
    pools.created(&Created { pool, mark: 1 + creator, size: 256, at: 0 }, creator)
}

fn all(live: &Live) -> Vec<Pool> {
    let mut found = Vec::new();
    let mut place = 0;
    while let Some((pool, next)) = live.next(place) {
        found.push(pool);
        place = next;
    }
    found
}

/// Random pools come and go in waves; a map that does the same has the expected ones.
#[test]
fn live_pools_are_those_of_a_map() {
    let mut random = Random::new(3);
    let (mut live, mut map) = (Live::new(), HashMap::new());
    let mut most = 0;
    for round in 0..400_000u32 {
        let grows = (round / 50_000) % 2 == 0;
        // Addresses as malloc returns them: close together and used again.
        let address = 0x5555_5555_0000 + random.below(40_000) as usize * 4112 / 16 * 16;
        if random.below(10) < if grows { 8 } else { 2 } {
            map.entry(address).or_insert_with(|| {
                let creator = random.below(CREATORS as u64) as usize;
                assert!(insert(&mut live, address, creator, round));
                Pool { address, creator, created: round }
            });
        } else {
            assert_eq!(live.remove(address), map.remove(&address).map(|pool| pool.creator));
        }
        if round % 64 == 0 {
            assert_eq!(live.find(address), map.get(&address).copied());
            assert_eq!(live.count(), map.len());
        }
        most = most.max(map.len());
    }
    assert!(most > 10_000, "{most}");
    let mut found = all(&live);
    found.sort_by_key(|pool| pool.address);
    let mut expected: Vec<Pool> = map.into_values().collect();
    expected.sort_by_key(|pool| pool.address);
    assert_eq!(found, expected);
}

#[test]
fn a_walk_sees_what_stays_exactly_once() {
    let mut live = Live::new();
    let address = |i: usize| (i + 1) * 16;
    for i in 0..1000 {
        assert!(insert(&mut live, address(i), 0, 0));
    }
    let mut seen = HashMap::new();
    let mut place = 0;
    let mut fresh = 1000;
    while let Some((pool, next)) = live.next(place) {
        *seen.entry(pool.address).or_insert(0) += 1;
        place = next;
        // Every odd pool is removed and two new ones are added: the tables grow meanwhile.
        live.remove(address(2 * seen.len() + 1));
        for _ in 0..if seen.len() < 800 { 2 } else { 0 } {
            assert!(insert(&mut live, address(fresh), 0, 0));
            fresh += 1;
        }
    }
    assert!(seen.values().all(|times| *times == 1));
    assert!((0..1000).step_by(2).all(|i| seen.contains_key(&address(i))));
}

#[test]
fn entries_are_small() {
    let mut live = Live::new();
    for i in 1..=10_000 {
        assert!(insert(&mut live, i * 16, CREATORS - 1, u32::MAX));
    }
    assert!(live.bytes() < 16 * 10_000 + 4 * 8192 + 8192, "{}", live.bytes());
    let top = Pool { address: 0x00ff_ffff_ffff_fff0, creator: CREATORS - 1, created: 7 };
    assert!(insert(&mut live, top.address, top.creator, top.created));
    assert_eq!(live.find(top.address), Some(top));
}

#[test]
fn what_is_watched_is_noticed() {
    let mut live = Live::new();
    for address in [16, 32] {
        insert(&mut live, address, 0, 0);
    }
    assert_eq!(live.watched(), None);
    live.watch(16);
    live.remove(32);
    assert_eq!(live.watched(), Some(16));
    live.remove(16);
    assert_eq!(live.watched(), None);
}

#[test]
fn counts() {
    let mut pools = pools();
    assert_eq!(pools.creator(7), None);
    let a = pools.add_creator(7, EXACT, 256).unwrap();
    let b = pools.add_creator(8, EXACT, 512).unwrap();
    assert_eq!((pools.creator(7), pools.creator(8), pools.creator(9)), (Some(a), Some(b), None));
    for (i, creator) in [a, a, b].into_iter().enumerate() {
        assert_eq!(created(&mut pools, 16 * (i + 1), creator), Look::No);
    }
    pools.destroyed(16, 300);
    pools.destroyed(16, 300);
    pools.destroyed(1600, 300);
    pools.reset(32, || 9000);
    pools.reset(1600, || 9000);
    pools.adopt(48, a, 0);
    pools.settle();
    let [first, second] = pools.creators() else { panic!("two creators") };
    assert_eq!((first.created(), first.destroyed, first.live, first.reset), (2, 1, 1, 1));
    assert_eq!((second.created(), second.destroyed, second.live, second.reset), (1, 0, 1, 0));
    assert_eq!((first.peak, second.peak), (9000, 0));
    assert_eq!(first.sizes.iter().sum::<u64>(), 1);
    assert_eq!(first.sizes[9], 1);
    pools.is_of_a_cycle(32, 3);
    pools.is_of_a_cycle(1600, 4);
    let [second, third] = [32, 48].map(|pool| pools.live().find(pool).unwrap());
    assert_eq!((pools.generation(second), pools.generation(third)), (Some(3), None));
    assert_eq!(pools.creators().iter().map(|c| c.of_cycles).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn an_origin_is_looked_at_at_each_doubling() {
    let mut pools = pools();
    let creator = pools.add_creator(7, UNWOUND, 256).unwrap();
    let mut looks = Vec::new();
    for i in 1..=1000 {
        if created(&mut pools, 16 * i, creator) == Look::Again {
            looks.push(i);
            pools.looked(creator, UNWOUND);
        }
    }
    assert_eq!(looks, [2, 4, 8, 16, 32, 64, 128, 256, 512]);
    assert_eq!(pools.creators()[creator].origin, UNWOUND);
    pools.looked(creator, Origin { function: 0x2000, calls: 1 });
    pools.looked(creator, UNWOUND);
    assert_eq!(pools.creators()[creator].origin, Origin::default());
    assert!((1001..5000).all(|i| created(&mut pools, 16 * i, creator) == Look::No));
}

#[test]
fn an_origin_is_looked_at_when_settled() {
    let mut pools = pools();
    let creator = pools.add_creator(7, UNWOUND, 256).unwrap();
    let mut looks = Vec::new();
    for i in 1..=7000 {
        let look = created(&mut pools, 48, creator) == Look::Again;
        if !pools.nursery.end_young(48, 1) {
            pools.destroyed(48, 256);
        }
        if look {
            looks.push(i);
        }
        if [3000, 3001, 5000, 6500].contains(&i) {
            pools.settle();
        }
    }
    let doublings = (1..=10).map(|bits| 1 << bits);
    assert_eq!(looks, doublings.chain([3001, 6501]).collect::<Vec<_>>());
}

#[test]
fn creators_beyond_the_last() {
    let mut pools = pools();
    for address in 0..CREATORS {
        assert_eq!(pools.add_creator(address * 5, EXACT, 1), Some(address));
    }
    assert_eq!(pools.add_creator(usize::MAX, EXACT, 1), None);
    assert_eq!(pools.creator(usize::MAX), None);
    assert!((0..CREATORS).all(|address| pools.creator(address * 5) == Some(address)));
    assert_eq!(created(&mut pools, 16, CREATORS), Look::No);
    assert_eq!(pools.unrecorded(), 1);
    assert_eq!(pools.live().count(), 0);
}

#[test]
fn size_classes() {
    for (size, class) in [(0, 0), (1, 0), (2, 1), (3, 2), (4096, 12), (4097, 13), (u64::MAX, 39)] {
        assert_eq!(size_class(size), class, "{size}");
    }
    for class in 1..SIZES {
        let least = least_size(class);
        assert_eq!([least, least - 1].map(size_class), [class, class - 1]);
    }
    assert_eq!(least_size(0), 0);
}

/// Random calls of a process, compared with a map of its pools: many and few pools, many and few
/// kinds.
#[test]
fn pools_are_those_of_a_map() {
    let mut random = Random::new(5);
    for (addresses, creators, sizes) in [(4, 1, 1), (60, 3, 2), (5000, 40, 1), (900, 3, 900)] {
        let mut pools = pools();
        for creator in 0..creators {
            pools.add_creator(creator, if creator % 2 == 0 { EXACT } else { UNWOUND }, 1);
        }
        let mut map = HashMap::new();
        let mut counts = vec![[0u64; 4]; creators];
        let mut ended = vec![[0u64; SIZES]; creators];
        for now in 0..30_000usize {
            let address = 0x5555_0000_0000 + random.below(addresses) as usize * 4112;
            let (creator, young) = (random.below(creators as u64) as usize, random.below(2) == 0);
            let what = random.below(1000);
            match (what, map.get(&address)) {
                (0..500, None) => {
                    let size = 256 << random.below(sizes).min(12);
                    let mark = 0x1234_5600 + creator * 77;
                    let at = now << 5;
                    pools.created(&Created { pool: address, mark, size, at }, creator);
                    map.insert(address, (creator, now as u32, size));
                    counts[creator][0] += 1;
                }
                (..990, Some(&(creator, _, size))) => {
                    let blocks = 1 + random.below(3) as usize;
                    let large = [0, 0, 5000, 70_000][random.below(4) as usize];
                    let held = (size * blocks) as u64 + large;
                    // As the hook does when it can.
                    if !(large == 0 && young && pools.nursery.end_young(address, blocks)) {
                        pools.destroyed(address, held);
                    }
                    map.remove(&address);
                    counts[creator][1] += 1;
                    counts[creator][3] = counts[creator][3].max(held);
                    ended[creator][size_class(held)] += 1;
                }
                (..995, Some(&(creator, ..))) => {
                    pools.reset(address, || 77_000);
                    counts[creator][2] += 1;
                    counts[creator][3] = counts[creator][3].max(77_000);
                }
                (..997, found) => {
                    let expected =
                        found.map(|&(creator, created, _)| Pool { address, creator, created });
                    assert_eq!(pools.find(address), expected);
                }
                (999, _) => {
                    pools.settle();
                    let of = |c: &CreatorTally| [c.created(), c.destroyed, c.reset, c.peak];
                    assert_eq!(pools.creators().iter().map(of).collect::<Vec<_>>(), counts);
                    assert!(pools.creators().iter().map(|c| c.sizes).eq(ended.iter().copied()));
                    let mut found = all(pools.live());
                    found.sort_by_key(|pool| pool.address);
                    let pool =
                        |(address, (creator, created, _)): (&usize, &(usize, u32, usize))| Pool {
                            address: *address,
                            creator: *creator,
                            created: *created,
                        };
                    let mut expected: Vec<Pool> = map.iter().map(pool).collect();
                    expected.sort_by_key(|pool| pool.address);
                    assert_eq!(found, expected);
                }
                _ => {}
            }
        }
        assert_eq!(pools.unrecorded(), 0);
        pools.forget();
        pools.settle();
        assert_eq!((pools.live().count(), pools.creators().len()), (0, 0));
    }
}

/// The memory for pools with all parts in use.
#[test]
fn ten_thousand_pools_take_little() {
    let mut pools = pools();
    for creator in 0..20 {
        pools.add_creator(creator, EXACT, 256);
    }
    for i in 1..=10_000 {
        created(&mut pools, 0x5555_0000_0000 + i * 4112, i % 20);
    }
    pools.settle();
    assert_eq!(pools.live().count(), 10_000);
    let bytes = pools.live().bytes() + pools.creators.bytes() + size_of::<Nursery>();
    assert!(bytes <= 242 * 1024, "{bytes}");
}

mod nginx;

use std::collections::HashMap;

use nginx::Nginx;

use super::*;
use crate::abi::pool::held;
use crate::report::sample::Random;
use crate::sys::testing::alone;
use crate::tally::pools::{size_class, Pool, SIZES};

fn name(test: &str) -> String {
    format!("hook::pool::tests::{test}")
}

fn errno() -> Option<i32> {
    std::io::Error::last_os_error().raw_os_error()
}

#[test]
fn pools_are_counted_by_creator() {
    alone(&name("pools_are_counted_by_creator"), || {
        let nginx = Nginx::new("");
        let older = nginx.make(c"exported");
        assert_eq!(install(), Ok(()));
        assert!(engine::are_in(&TARGETS));
        assert_eq!(with(|pools| pools.creators().len()), Ok(0), "the trial left nothing");
        nginx.with(c"ngx_destroy_pool", older);

        let made: Vec<usize> = (0..1000).map(|_| nginx.make(c"exported")).collect();
        assert_eq!(errno(), Some(77));
        for pool in &made[..400] {
            nginx.with(c"ngx_destroy_pool", *pool);
        }
        nginx.with(c"ngx_reset_pool", made[500]);
        with(|pools| {
            pools.settle();
            let [creator] = pools.creators() else { panic!("{:?}", pools.creators()) };
            assert_eq!((creator.created(), creator.destroyed, creator.reset), (1000, 400, 1));
            assert_eq!((creator.first_size, creator.peak, creator.sizes[8]), (256, 256, 400));
            assert_eq!(creator.origin.function, nginx.0.symbol(c"exported") as usize);
            assert!(creator.origin.is_exact());
            assert_eq!(pools.live().count(), 600);
            assert_eq!(pools.live().find(made[500]).unwrap().created, 64000 / 32);
        })
        .unwrap();
        assert_eq!(uninstall(), Ok(()));
        assert!(!engine::are_in(&TARGETS));
        let off = Err("the hooks are not in place");
        assert_eq!(with(|pools| pools.live().count()), off);
        // Nothing is recorded whose end would not be seen.
        cycle(made[999], 1, c"exported");
        assert_eq!(install(), Ok(()));
        assert_eq!(with(|pools| (pools.live().count(), pools.creators().len())), Ok((0, 0)));
    });
}

/// Pools of two creators with one to five blocks and up to seven large allocations, one of which
/// may be freed: the entry points must count the most frequent cases exactly as the common code
/// counts all cases.
#[test]
fn pools_are_those_of_a_map() {
    alone(&name("pools_are_those_of_a_map"), || {
        let nginx = Nginx::new("");
        assert_eq!(install(), Ok(()));
        let mut random = Random::new(7);
        let mut map = HashMap::new();
        let (mut ended, mut peaks) = ([[0; SIZES]; 2], [0; 2]);
        for round in 0..200_000u32 {
            let grows = (round / 20_000) % 2 == 0;
            let kind = random.below(2) as usize;
            let size = [256, 512][kind];
            if random.below(10) < if grows { 6 } else { 4 } {
                let pool = nginx.make([c"exported", c"also_exported"][kind]);
                let blocks = [1, 1, 2, 2, 3, 4, 5][random.below(7) as usize];
                (1..blocks).for_each(|_| nginx.with(c"grow", pool));
                // In a run of rounds the pools are alike.
                let (large, much) = [(0, 0), (1, 0), (2, 0), (0, 1), (4, 3)]
                    [((u64::from(round) >> 8) + random.below(2)) as usize % 5];
                (0..large).for_each(|_| nginx.with(c"enlarge", pool));
                (0..much).for_each(|_| nginx.with(c"enlarge_much", pool));
                let less = if large + much != 0 { random.below(2) } else { 0 };
                // SAFETY: the pool is live.
                let before = unsafe { held(pool) }.size();
                (0..less).for_each(|_| {
                    peaks[kind] = before.max(peaks[kind]);
                    nginx.with(c"give_back", pool);
                });
                // SAFETY: the pool is live.
                let held = unsafe { held(pool) };
                assert_eq!((held.bytes, held.large_count), (size * blocks, large + much - less));
                // SAFETY: the pool is live.
                assert_eq!(held.size(), unsafe { super::size(pool) });
                map.insert(pool, (kind, held.size()));
            } else if let Some(&pool) = map.keys().nth(random.below(3) as usize) {
                let (kind, size) = map.remove(&pool).unwrap_or_default();
                nginx.with(c"ngx_destroy_pool", pool);
                ended[kind][size_class(size)] += 1;
                peaks[kind] = size.max(peaks[kind]);
            }
            if round % 10_000 == 0 {
                with(|pools| {
                    pools.settle();
                    let live =
                        |of: usize| map.values().filter(|(kind, _)| *kind == of).count() as u64;
                    for counts in pools.creators() {
                        let kind = usize::from(counts.first_size == 512);
                        assert_eq!((counts.live, counts.sizes), (live(kind), ended[kind]));
                        assert_eq!(counts.peak, peaks[kind]);
                    }
                    assert_eq!(pools.live().count(), map.len());
                    assert!(map.keys().all(|pool| pools.find(*pool).is_some()));
                })
                .unwrap();
            }
        }
        assert!(ended.iter().flatten().sum::<u64>() > 50_000);
        assert!(ended.iter().all(|sizes| sizes.iter().filter(|count| **count > 500).count() > 6));
        assert_eq!(with(|pools| pools.unrecorded()), Ok(0));
    });
}

/// Pools of two creators grow, free, grow again, are reset and end. At each moment the largest size
/// that a pool had before it shrank is known.
#[test]
fn what_gives_back_is_seen_before() {
    alone(&name("what_gives_back_is_seen_before"), || {
        let nginx = Nginx::new("");
        assert_eq!(install(), Ok(()));
        assert!(engine::are_in(&GIVING_BACK));
        assert_eq!(peaks_refused(), None);
        let makers = [c"exported", c"also_exported"];
        let mut random = Random::new(11);
        let (mut map, mut peaks) = (Vec::new(), [0; 2]);
        let mut beaten = 0;
        for round in 0..60_000u32 {
            let few = if (round / 5_000) % 2 == 0 { 3 } else { 40 };
            let which = random.below(few) as usize;
            let Some((pool, kind)) = map.get(which).copied() else {
                let kind = random.below(2) as usize;
                map.push((nginx.make(makers[kind]), kind));
                continue;
            };
            // SAFETY: the pool is live, here and below.
            let size = unsafe { held(pool) }.size();
            let mut see = || {
                beaten += u32::from(size > peaks[kind]);
                peaks[kind] = size.max(peaks[kind]);
            };
            match random.below(if few == 3 { 16 } else { 160 }) {
                0 => {
                    see();
                    nginx.with(c"ngx_destroy_pool", pool);
                    map.swap_remove(which);
                }
                1 => {
                    see();
                    nginx.with(c"ngx_reset_pool", pool);
                }
                2 => {
                    nginx.with(c"grow", pool);
                }
                n if n % 2 == 0 => {
                    // SAFETY: the pool is live.
                    let large = unsafe { crate::abi::pool::large(header(pool).large) };
                    let given = large.map(|l| l.address).nth(random.below(30) as usize);
                    if given.is_some() {
                        see();
                    }
                    let said = nginx.give_back(pool, given.unwrap_or(pool));
                    assert_eq!((said, errno()), (given.map_or(-5, |_| 0), Some(77)));
                }
                n => nginx.with(if n < 12 { c"enlarge" } else { c"enlarge_much" }, pool),
            }
            with(|pools| {
                // Rarely, because figures move young pools out of the nursery.
                if random.below(100) == 0 {
                    pools.settle();
                    for creator in pools.creators() {
                        let kind = usize::from(creator.first_size == 512);
                        assert_eq!(creator.peak, peaks[kind], "{round}");
                    }
                }
            })
            .unwrap();
        }
        assert!(beaten > 50, "{beaten}");
    });
}

/// If `ngx_pfree` cannot be hooked, pools are still counted, and the reason for missing peaks is
/// reported.
#[test]
fn without_giving_back() {
    for (pfree, filled, refusal) in [
        ("another", 5, Refusal::Unresolved { symbol: "ngx_pfree".into() }),
        ("ngx_pfree", 100, Refusal::Layout),
    ] {
        alone(&name("without_giving_back"), || {
            let nginx = Nginx::with_pfree("", pfree, filled);
            assert_eq!(install(), Ok(()));
            assert_eq!(peaks_refused(), Some(refusal.clone()));
            nginx.with(c"ngx_destroy_pool", nginx.make(c"exported"));
            assert!(with(|_| ()).is_ok());
        });
    }
}

/// Pools begin in the nursery, and end there if no figures are read.
#[test]
fn the_nursery_is_used() {
    alone(&name("the_nursery_is_used"), || {
        let nginx = Nginx::new("");
        assert_eq!(install(), Ok(()));
        nginx.with(c"fail", 1);
        assert_eq!(nginx.make(c"exported"), 0);
        assert_eq!(with(|pools| pools.creators().len()), Ok(0), "no pool, no creator");
        nginx.with(c"fail", 0);
        let first = nginx.make(c"exported");
        nginx.with(c"fail", 1);
        assert_eq!(nginx.make(c"exported"), 0);
        nginx.with(c"fail", 0);
        let second = nginx.make(c"exported");
        let young = with(|pools| pools.live().count());
        assert_eq!(young, Ok(0), "the two are in the nursery");
        let found = with(|pools| [first, second].map(|pool| pools.find(pool).unwrap()));
        let pool = |address| Pool { address, creator: 0, created: 64000 / 32 };
        assert_eq!(found, Ok([first, second].map(pool)));
        let third = nginx.make(c"exported");
        nginx.with(c"ngx_destroy_pool", third);
        let counted = with(|pools| pools.creators()[0].destroyed);
        assert_eq!(counted, Ok(0), "by kind: it appears once all is settled");
        nginx.with(c"ngx_destroy_pool", first);
        nginx.with(c"ngx_destroy_pool", second);
        with(|pools| {
            pools.settle();
            assert_eq!((pools.creators()[0].created(), pools.creators()[0].live), (3, 0));
        })
        .unwrap();
    });
}

#[test]
fn static_creators_are_told_by_their_caller() {
    alone(&name("static_creators_are_told_by_their_caller"), || {
        let nginx = Nginx::new("");
        assert_eq!(install(), Ok(()));
        let origin = || with(|pools| pools.creators()[0].origin).unwrap();
        let first = nginx.0.symbol(c"first") as usize;
        for _ in 0..9 {
            nginx.make(c"first");
            assert_eq!(origin(), Origin { function: first, calls: 1 });
        }
        // With a second caller the origin becomes unknown, after the sixteenth pool at the latest.
        for _ in 0..7 {
            nginx.make(c"second");
        }
        assert_eq!(origin(), Origin::default());
        assert_eq!(with(|pools| pools.creators().len()), Ok(1));
    });
}

#[test]
fn cycles() {
    alone(&name("cycles"), || {
        let nginx = Nginx::new("");
        let older = nginx.make(c"exported");
        assert_eq!(install(), Ok(()));
        let newer = nginx.make(c"exported");
        cycle(older, 1, c"exported");
        cycle(newer, 2, c"exported");
        cycle(older, 1, c"no_such_function");
        with(|pools| {
            pools.settle();
            let live =
                |creator: &crate::tally::pools::CreatorTally| (creator.live, creator.of_cycles);
            assert_eq!(pools.creators().iter().map(live).collect::<Vec<_>>(), [(1, true); 2]);
        })
        .unwrap();
    });
}

#[test]
fn another_layout_is_refused() {
    alone(&name("another_layout_is_refused"), || {
        let nginx = Nginx::new("long more;");
        assert_eq!(install(), Err(Refusal::Layout));
        cycle(nginx.make(c"exported"), 1, c"exported");
        assert_eq!(with(|_| ()), Err("the hooks are not in place"));
        assert!(!engine::are_in(&TARGETS));
        nginx.with(c"ngx_destroy_pool", nginx.make(c"exported"));
    });
}

#[test]
fn other_threads_end_the_tally() {
    alone(&name("other_threads_end_the_tally"), || {
        let nginx = Nginx::new("");
        assert_eq!(install(), Ok(()));
        for (grown, enlarged) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0)] {
            let pool = nginx.make(c"exported");
            (0..grown).for_each(|_| nginx.with(c"grow", pool));
            (0..enlarged).for_each(|_| nginx.with(c"enlarge", pool));
            assert!(with(|_| ()).is_ok());
            nginx.with(c"elsewhere", pool);
            assert_eq!(with(|_| ()), Err("other threads of this process use pools too"));
            ELSEWHERE.store(false, Relaxed);
        }
        nginx.with(c"elsewhere", nginx.make(c"exported"));
        let pool = nginx.make(c"exported");
        nginx.with(c"ngx_destroy_pool", pool);
    });
}

#[test]
fn without_nginx() {
    alone(&name("without_nginx"), || {
        assert_eq!(install(), Err(Refusal::Unresolved { symbol: "ngx_current_msec".into() }));
        assert!(!engine::are_in(&TARGETS));
        assert_eq!(uninstall(), Ok(()));
    });
}

use super::*;
use crate::abi::slab::tests::{Pool, LAYOUT};
use crate::probe::shared::tests::{fill, shared, touch};

const PAGE: usize = 4096;

/// A zone that contains this pool.
fn zone(mut pool: Pool, size: usize) -> ZoneMapping {
    let start = shared(size.div_ceil(PAGE), libc::PROT_READ | libc::PROT_WRITE);
    pool.at = start;
    fill(&(start..start + size), &pool.bytes());
    mapping(start..start + size)
}

fn mapping(range: Range<usize>) -> ZoneMapping {
    let owner = Ok("ngx_http_limit_req_module".to_owned());
    ZoneMapping { name: "one".to_owned(), owner, range, is_zone: true, seen: None }
}

fn read(mappings: Vec<ZoneMapping>) -> Vec<SharedZone> {
    let mut reading = ZonesReading::begin(mappings, LAYOUT, Remembered::default());
    let mut steps = 0;
    while reading.step(&Budget::new(std::time::Duration::ZERO)) == Progress::More {
        steps += 1;
        assert!(steps < 10_000);
    }
    reading.finish().0.into_iter().map(|(_, zone)| zone).collect()
}

#[test]
fn a_pool_with_holes() {
    let size = 1 << 20;
    let mut pool = Pool::new(size);
    pool.alloc(1, true).unwrap();
    pool.alloc(200, false).unwrap();
    // A page has 64 slots of 64 bytes; 60 of them are free.
    pool.stats[3] = [64, 4, 10, 2];
    let read = read(vec![zone(pool, size)]);
    let zone = &read[0];
    assert_eq!(zone.owner.as_deref(), Some("ngx_http_limit_req_module"));
    assert_eq!((zone.size, zone.page_size), (1 << 20, 4096));
    let pages = zone.pages.unwrap();
    assert_eq!((pages.total, pages.used, pages.free), (254, 201, 53));
    assert_eq!((pages.largest_free_run, pages.free_runs), (Some(53), Some(1)));
    assert_eq!(zone.largest_allocation, Some(53 * 4096));
    let in_use = 201 * 4096 - 60 * 64;
    assert_eq!(zone.in_use, Some(in_use));
    assert_eq!(zone.fill_percent, Some(in_use * 100 / (254 * 4096)));
    let slots = zone.slots.as_ref().unwrap();
    assert_eq!(slots.get("64"), Some(&SlotClass { used: 4, free: 60, reqs: 10, fails: 2 }));
    assert_eq!(slots.0.len(), 9);
    // The header and the descriptors were written, but no page.
    assert_eq!(zone.resident, Some(2 * 4096));
    assert_eq!((zone.failures, pages.reqs, pages.fails), (None, None, None));
    assert_eq!(zone.failures_at_least, Some(2), "what nginx counts itself");
    assert_eq!(zone.notes.len(), 1, "{:?}", zone.notes);
}

#[test]
fn full() {
    let size = 1 << 16;
    let mut pool = Pool::new(size);
    while pool.alloc(1, true).is_some() {}
    pool.stats[5] = [160, 159, 1000, 0];
    let filled = read(vec![zone(pool, size)]);
    assert_eq!(filled[0].largest_allocation, Some(256), "there is a slot");
    let mut pool = Pool::new(size);
    while pool.alloc(1, true).is_some() {}
    let filled = read(vec![zone(pool, size)]);
    assert_eq!(filled[0].largest_allocation, Some(0));
    assert_eq!(filled[0].fill_percent, Some(100));
}

#[test]
fn what_is_no_pool_is_told() {
    let range = |start: usize, pages: usize| start..start + pages * PAGE;
    let garbage = range(shared(16, libc::PROT_READ | libc::PROT_WRITE), 16);
    touch(&garbage, 3);
    let counters = ZoneMapping {
        owner: Err("nobody's".to_owned()),
        is_zone: false,
        range: garbage.start..garbage.start + 1280,
        ..mapping(garbage.clone())
    };
    let unreadable = range(shared(16, libc::PROT_NONE), 16);
    let unmapped = range(PAGE, 16);
    let zones =
        read([garbage, unreadable, unmapped].map(mapping).into_iter().chain([counters]).collect());
    let expected = [
        (Some(3 * 4096), "does not look like a slab pool (min_shift)"),
        (Some(0), "it cannot be read"),
        (None, "it cannot be read"),
        (Some(4096), "no zone of the configuration"),
    ];
    assert_eq!(zones.len(), 4);
    for (zone, (resident, why)) in zones.iter().zip(expected) {
        assert_eq!(zone.resident, resident, "{zone:?}");
        assert!(zone.pages.is_none() && zone.slots.is_none() && zone.largest_allocation.is_none());
        assert!(zone.notes.iter().any(|note| note.reason.contains(why)), "{zone:?}");
    }
    assert_eq!((zones[3].size, zones[3].owner.as_deref()), (1280, None));
    assert_eq!(zones[3].notes[0], Note::of(&["owner"], "nobody's"));
    assert_eq!(zones[3].notes[1].reason, NO_POOL);
}

#![forbid(unsafe_code)]

use super::*;
use crate::report::sample::Random;

fn system(size: u64, anon: u64, file: u64, shmem: u64) -> System {
    System {
        virtual_: Some(size),
        resident: anon.checked_add(file).and_then(|sum| sum.checked_add(shmem)),
        resident_anon: Some(anon),
        resident_file: Some(file),
        resident_shmem: Some(shmem),
        ..System::default()
    }
}

fn part(category: Category, reserved: u64, anon: u64, file: u64, shmem: u64) -> CategoryPart {
    CategoryPart { category, reserved, anon, file, shmem }
}

fn entry(breakdown: &Breakdown, category: Category) -> (u64, u64) {
    let region = breakdown.get(category).unwrap();
    (region.reserved.unwrap(), region.resident.unwrap())
}

#[test]
fn remainders_close_the_sum() {
    let parts = [
        part(Category::Stacks, 80, 8, 0, 0),
        part(Category::Text, 300, 4, 200, 0),
        part(Category::GlibcHeap, 100, 90, 0, 0),
        part(Category::NginxShm, 64, 0, 0, 16),
    ];
    let (breakdown, notes) = close(&system(1000, 150, 240, 20), &parts, 120);
    let breakdown = breakdown.unwrap();
    let order: Vec<_> = breakdown.0.iter().map(|(c, _)| *c).collect();
    assert_eq!(
        order,
        [
            Category::GlibcHeap,
            Category::NginxShm,
            Category::Text,
            Category::Stacks,
            Category::FileOther,
            Category::AnonOther
        ]
    );
    assert_eq!(entry(&breakdown, Category::Text), (300, 204));
    assert_eq!(entry(&breakdown, Category::NginxShm), (64, 16));
    assert_eq!(entry(&breakdown, Category::FileOther), (120, 240 + 20 - 200 - 16));
    assert_eq!(
        entry(&breakdown, Category::AnonOther),
        (1000 - 120 - 80 - 300 - 100 - 64, 150 - 8 - 4 - 90)
    );
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn excess_comes_from_the_largest() {
    let parts = [
        part(Category::GlibcHeap, 100, 90, 0, 0),
        part(Category::Data, 700, 40, 10, 0),
        part(Category::Text, 200, 0, 60, 0),
    ];
    let (breakdown, notes) = close(&system(900, 120, 50, 5), &parts, 50);
    let breakdown = breakdown.unwrap();
    assert_eq!(entry(&breakdown, Category::GlibcHeap), (100, 80));
    assert_eq!(entry(&breakdown, Category::Text), (200, 45));
    assert_eq!(entry(&breakdown, Category::Data), (550, 50));
    assert_eq!(entry(&breakdown, Category::FileOther), (50, 0));
    assert_eq!(entry(&breakdown, Category::AnonOther), (0, 0));
    assert_eq!(notes.len(), 3);
    assert!(notes[0].reason.starts_with("10 more bytes of private pages"), "{}", notes[0]);
    assert!(notes[0].reason.ends_with("subtracted from glibc_heap"), "{}", notes[0]);
    assert!(notes[1].reason.starts_with("15 more bytes of file and shared pages"), "{}", notes[1]);
    assert!(notes[1].reason.ends_with("subtracted from text"), "{}", notes[1]);
    assert!(notes[2].reason.starts_with("150 more bytes of mappings"), "{}", notes[2]);
    assert!(notes[2].reason.ends_with("subtracted from data"), "{}", notes[2]);
}

#[test]
fn excess_larger_than_the_largest() {
    let parts = [part(Category::GlibcHeap, 0, 50, 0, 0), part(Category::Data, 0, 60, 0, 0)];
    let (breakdown, notes) = close(&system(0, 10, 0, 0), &parts, 0);
    let breakdown = breakdown.unwrap();
    assert_eq!(entry(&breakdown, Category::Data), (0, 0));
    assert_eq!(entry(&breakdown, Category::GlibcHeap), (0, 10));
    assert!(notes[0].reason.ends_with("subtracted from data, glibc_heap"), "{}", notes[0]);
}

#[test]
fn unknown_totals_leave_no_breakdown() {
    type Forget = fn(&mut System);
    let forget: [(Forget, &str); 4] = [
        (|s| s.virtual_ = None, "VmSize"),
        (|s| s.resident_anon = None, "RssAnon"),
        (|s| s.resident_file = None, "RssFile"),
        (|s| s.resident_shmem = None, "RssShmem"),
    ];
    for (forget, name) in forget {
        let mut system = system(1, 1, 1, 1);
        forget(&mut system);
        let (breakdown, notes) = close(&system, &[], 0);
        assert_eq!(breakdown, None);
        let note = format!("no breakdown: the kernel's {name} could not be read");
        assert_eq!(notes, [Note::new(note)]);
    }
    let (breakdown, notes) = close(&system(1, u64::MAX, 1, 0), &[], 0);
    assert_eq!((breakdown, notes.len()), (None, 1));
}

#[test]
fn a_disagreeing_vmrss_is_settled() {
    let mut system = system(100, 10, 20, 3);
    assert_eq!(settle(&mut system), None);
    system.resident = Some(30);
    let (_, notes) = close(&system, &[], 0);
    let note = settle(&mut system).unwrap();
    assert!(note.reason.starts_with("VmRSS was 30, "), "{note}");
    assert_eq!(notes, [note]);
    assert_eq!(system.resident, Some(33));
    assert_eq!(close(&system, &[], 0).1, Vec::<Note>::new());
    system.resident_file = None;
    assert_eq!(settle(&mut system), None);
    assert_eq!(system.resident, Some(33));
}

/// For any figures the sums close, nothing is lost without a note, and parts stay in order.
#[test]
fn any_figures_close() {
    let mut random = Random::new(1);
    for _ in 0..20_000 {
        let top = random.bits() >> 2;
        let mut figure = |limit: u64| random.below(limit.saturating_add(1));
        let size = figure(top);
        let mut system = system(size, figure(top), figure(top), figure(top));
        let mut parts = Vec::new();
        for _ in 0..figure(8) {
            let category = Category::ALL[figure(10) as usize];
            // Some rounds fit, some exceed, some are absurd.
            let top = [top / 16, top, u64::MAX][figure(2) as usize];
            parts.push(part(category, figure(top), figure(top), figure(top), figure(top)));
        }
        let file_other = figure(size);
        settle(&mut system);
        let (breakdown, notes) = close(&system, &parts, file_other);
        let breakdown = breakdown.unwrap();
        let sum = |f: fn(&Region) -> Option<u64>| {
            breakdown.0.iter().map(|(_, r)| u128::from(f(r).unwrap())).sum::<u128>()
        };
        assert_eq!(sum(|r| r.resident), u128::from(system.resident.unwrap()));
        assert_eq!(sum(|r| r.reserved), u128::from(system.virtual_.unwrap()));
        assert!(breakdown.0.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for category in Category::ALL {
            let other = matches!(category, Category::FileOther | Category::AnonOther);
            let counted = parts.iter().filter(|p| p.category == category && !other);
            let there = counted.clone().next().is_some() || other;
            assert_eq!(breakdown.get(category).is_some(), there);
            if notes.is_empty() && there && !other {
                let anon_and_file: u64 = counted.map(|p| p.anon + p.file + p.shmem).sum();
                assert_eq!(entry(&breakdown, category).1, anon_and_file);
            }
        }
    }
}

//! Closing the sum of one process.
//!
//! The kernel's totals and the pages of each address range are read one after the other, while the
//! process lives on. What the ranges do not explain is the remainder; where they explain too much,
//! the excess is taken back from the largest of them and a note says so. Either way the entries add
//! up exactly.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::model::{Breakdown, Category, Region, System};

/// What was counted in the address ranges of one category.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The category. The remainders, [`Category::FileOther`] and [`Category::AnonOther`], are
    /// computed: parts that name them are ignored.
    pub category: Category,
    /// Virtual bytes.
    pub reserved: u64,
    /// Bytes of private pages in RAM, as in `RssAnon`.
    pub anon: u64,
    /// Bytes of file pages in RAM, as in `RssFile`.
    pub file: u64,
    /// Bytes of shared memory in RAM, as in `RssShmem`.
    pub shmem: u64,
}

/// Makes `resident` the sum of `resident_anon`, `resident_file` and `resident_shmem`, which is what
/// [`close`] adds up to. A note tells when the kernel had it otherwise.
pub fn settle(system: &mut System) -> Option<String> {
    let sum = sum_of_classes(system)?;
    let note = disagreement(system, sum);
    system.resident = Some(sum);
    note
}

/// The breakdown of a process, its entries in the order of [`Category`]: those of `parts`, and the
/// two remainders.
///
/// `resident` of all entries adds up to `RssAnon` + `RssFile` + `RssShmem`, to which [`settle`] sets
/// [`System::resident`], and `reserved` adds up to [`System::virtual_`]. `file_other_reserved` are
/// the virtual bytes of file mappings and foreign shared mappings that belong to no part. The notes
/// say what had to be corrected, or why there is no breakdown.
pub fn close(
    system: &System,
    parts: &[Part],
    file_other_reserved: u64,
) -> (Option<Breakdown>, Vec<String>) {
    let (Some(size), Some(anon), Some(file), Some(shmem), Some(resident)) = (
        system.virtual_,
        system.resident_anon,
        system.resident_file,
        system.resident_shmem,
        sum_of_classes(system),
    ) else {
        return (None, vec![missing(system)]);
    };
    let mut notes = Vec::from_iter(disagreement(system, resident));

    let mut held = merge(parts);
    held.entry(Category::FileOther).or_default().reserved = u128::from(file_other_reserved);
    held.entry(Category::AnonOther).or_default();

    let anon_rest = fit(
        &mut held,
        |h| &mut h.anon,
        anon.into(),
        |excess, from| {
            notes.push(format!(
            "{excess} bytes more of private pages were counted than RssAnon has, because pages \
             changed between the readings or the zero page was counted; taken from {from}"
        ));
        },
    );
    let file_rest = fit(
        &mut held,
        |h| &mut h.file,
        u128::from(file) + u128::from(shmem),
        |excess, from| {
            notes.push(format!(
            "{excess} bytes more of file and shared pages were counted than RssFile and RssShmem \
             have, because pages changed between the readings; taken from {from}"
        ));
        },
    );
    let size_rest = fit(
        &mut held,
        |h| &mut h.reserved,
        size.into(),
        |excess, from| {
            notes.push(format!(
                "{excess} bytes more of mappings were counted than VmSize has, because mappings \
             changed between the readings; taken from {from}"
            ));
        },
    );
    held.entry(Category::FileOther).or_default().file = file_rest;
    let anon_other = held.entry(Category::AnonOther).or_default();
    anon_other.anon = anon_rest;
    anon_other.reserved = size_rest;

    let entries = held
        .into_iter()
        .map(|(category, held)| (category, held.region()))
        .collect();
    (Some(Breakdown(entries)), notes)
}

/// What one category holds. Sums of parts need more than 64 bits until they are fitted.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    reserved: u128,
    anon: u128,
    /// File pages and shared memory.
    file: u128,
}

impl Held {
    /// The entry. Fitted figures are no larger than the kernel's, so nothing is cut off here.
    fn region(self) -> Region {
        let narrow = |bytes: u128| Some(u64::try_from(bytes).unwrap_or(u64::MAX));
        Region {
            reserved: narrow(self.reserved),
            resident: narrow(self.anon.saturating_add(self.file)),
        }
    }
}

/// The parts by category.
fn merge(parts: &[Part]) -> BTreeMap<Category, Held> {
    let mut held = BTreeMap::<Category, Held>::new();
    for part in parts {
        if matches!(part.category, Category::FileOther | Category::AnonOther) {
            continue;
        }
        let entry = held.entry(part.category).or_default();
        entry.reserved = entry.reserved.saturating_add(part.reserved.into());
        entry.anon = entry.anon.saturating_add(part.anon.into());
        entry.file = entry
            .file
            .saturating_add(u128::from(part.file).saturating_add(part.shmem.into()));
    }
    held
}

/// Fits one figure of all entries into `limit`, from the largest on, and gives what is left of the
/// limit. `tell` learns how much was taken and from which entries.
fn fit(
    held: &mut BTreeMap<Category, Held>,
    figure: fn(&mut Held) -> &mut u128,
    limit: u128,
    tell: impl FnOnce(u128, String),
) -> u128 {
    let mut figures: Vec<_> = held.iter_mut().map(|(c, h)| (*c, figure(h))).collect();
    let sum = figures
        .iter()
        .fold(0u128, |sum, (_, bytes)| sum.saturating_add(**bytes));
    let excess = sum.saturating_sub(limit);
    if excess == 0 {
        return limit.saturating_sub(sum);
    }
    // Largest first; among equals the order of the categories stays.
    figures.sort_by(|(_, a), (_, b)| b.cmp(a));
    let mut left = excess;
    let mut from = Vec::new();
    for (category, bytes) in figures {
        let taken = left.min(*bytes);
        if taken == 0 {
            break;
        }
        *bytes = bytes.saturating_sub(taken);
        left = left.saturating_sub(taken);
        from.push(category.name());
    }
    tell(excess, from.join(", "));
    0
}

/// `RssAnon` + `RssFile` + `RssShmem`.
fn sum_of_classes(system: &System) -> Option<u64> {
    system
        .resident_anon?
        .checked_add(system.resident_file?)?
        .checked_add(system.resident_shmem?)
}

/// The note for a `VmRSS` that is not the sum of its parts.
fn disagreement(system: &System, sum: u64) -> Option<String> {
    let resident = system.resident.filter(|resident| *resident != sum)?;
    Some(format!(
        "VmRSS was {resident} where RssAnon, RssFile and RssShmem add up to {sum}: their sum is used"
    ))
}

/// The note for a breakdown that cannot be made.
fn missing(system: &System) -> String {
    let figures = [
        ("VmSize", system.virtual_),
        ("RssAnon", system.resident_anon),
        ("RssFile", system.resident_file),
        ("RssShmem", system.resident_shmem),
    ];
    let names: Vec<_> = figures
        .iter()
        .filter(|(_, f)| f.is_none())
        .map(|(n, _)| *n)
        .collect();
    if names.is_empty() {
        return "no breakdown: RssAnon, RssFile and RssShmem do not add up".to_owned();
    }
    format!(
        "no breakdown: the kernel's {} could not be read",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::Random;

    fn system(size: u64, anon: u64, file: u64, shmem: u64) -> System {
        System {
            virtual_: Some(size),
            resident: anon
                .checked_add(file)
                .and_then(|sum| sum.checked_add(shmem)),
            resident_anon: Some(anon),
            resident_file: Some(file),
            resident_shmem: Some(shmem),
            ..System::default()
        }
    }

    fn part(category: Category, reserved: u64, anon: u64, file: u64, shmem: u64) -> Part {
        Part {
            category,
            reserved,
            anon,
            file,
            shmem,
        }
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
        assert_eq!(
            entry(&breakdown, Category::FileOther),
            (120, 240 + 20 - 200 - 16)
        );
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
        assert!(
            notes[0].starts_with("10 bytes more of private pages"),
            "{}",
            notes[0]
        );
        assert!(notes[0].ends_with("taken from glibc_heap"), "{}", notes[0]);
        assert!(
            notes[1].starts_with("15 bytes more of file and shared pages"),
            "{}",
            notes[1]
        );
        assert!(notes[1].ends_with("taken from text"), "{}", notes[1]);
        assert!(
            notes[2].starts_with("150 bytes more of mappings"),
            "{}",
            notes[2]
        );
        assert!(notes[2].ends_with("taken from data"), "{}", notes[2]);
    }

    #[test]
    fn excess_larger_than_the_largest() {
        let parts = [
            part(Category::GlibcHeap, 0, 50, 0, 0),
            part(Category::Data, 0, 60, 0, 0),
        ];
        let (breakdown, notes) = close(&system(0, 10, 0, 0), &parts, 0);
        let breakdown = breakdown.unwrap();
        assert_eq!(entry(&breakdown, Category::Data), (0, 0));
        assert_eq!(entry(&breakdown, Category::GlibcHeap), (0, 10));
        assert!(
            notes[0].ends_with("taken from data, glibc_heap"),
            "{}",
            notes[0]
        );
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
            assert_eq!(
                notes,
                [format!(
                    "no breakdown: the kernel's {name} could not be read"
                )]
            );
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
        assert_eq!(notes, [note.as_str()]);
        assert!(note.starts_with("VmRSS was 30 "), "{note}");
        assert_eq!(system.resident, Some(33));
        assert_eq!(close(&system, &[], 0).1, Vec::<String>::new());
        system.resident_file = None;
        assert_eq!(settle(&mut system), None);
        assert_eq!(system.resident, Some(33));
    }

    /// Whatever is counted: the sums close, nothing is lost without a note, parts stay in place.
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
                parts.push(part(
                    category,
                    figure(top),
                    figure(top),
                    figure(top),
                    figure(top),
                ));
            }
            let file_other = figure(size);
            settle(&mut system);
            let (breakdown, notes) = close(&system, &parts, file_other);
            let breakdown = breakdown.unwrap();
            let sum = |f: fn(&Region) -> Option<u64>| {
                breakdown
                    .0
                    .iter()
                    .map(|(_, r)| u128::from(f(r).unwrap()))
                    .sum::<u128>()
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
}

//! Makes the entries of a process's breakdown add up to the kernel's totals.
//!
//! The kernel's totals and the pages of each address range are read one after the other, while the
//! process goes on. Pages that no range explains are the remainder. If the ranges have more pages
//! than the totals, the excess is subtracted from the largest entries and a note says so. Either
//! way the entries add up exactly.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::model::{Breakdown, Category, Note, Region, System};

/// The bytes counted in the address ranges of one category.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CategoryPart {
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

/// Sets `resident` to the sum of `resident_anon`, `resident_file` and `resident_shmem`, to which
/// the entries of [`close`] add up. Returns a note if the kernel's own figure differed.
pub fn settle(system: &mut System) -> Option<Note> {
    let sum = sum_of_classes(system)?;
    let note = disagreement(system, sum);
    system.resident = Some(sum);
    note
}

/// Makes the breakdown of a process: the entries of `parts` and the two remainders, in the order of
/// [`Category`].
///
/// `resident` of all entries adds up to `RssAnon` + `RssFile` + `RssShmem`, to which [`settle`]
/// sets [`System::resident`], and `reserved` adds up to [`System::virtual_`]. `file_other_reserved`
/// is the number of virtual bytes of file mappings and foreign shared mappings that belong to no
/// part. The notes name the corrections, or the reason why there is no breakdown.
pub fn close(
    system: &System,
    parts: &[CategoryPart],
    file_other_reserved: u64,
) -> (Option<Breakdown>, Vec<Note>) {
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
            notes.push(Note::new(format!(
            "{excess} more bytes of private pages were counted than RssAnon has, because pages \
             changed between the readings or the zero page was counted; subtracted from {from}"
        )));
        },
    );
    let file_rest = fit(
        &mut held,
        |h| &mut h.file,
        u128::from(file) + u128::from(shmem),
        |excess, from| {
            notes.push(Note::new(format!(
            "{excess} more bytes of file and shared pages were counted than RssFile and RssShmem \
             have, because pages changed between the readings; subtracted from {from}"
        )));
        },
    );
    let size_rest = fit(
        &mut held,
        |h| &mut h.reserved,
        size.into(),
        |excess, from| {
            notes.push(Note::new(format!(
                "{excess} more bytes of mappings were counted than VmSize has, because mappings \
             changed between the readings; subtracted from {from}"
            )));
        },
    );
    held.entry(Category::FileOther).or_default().file = file_rest;
    let anon_other = held.entry(Category::AnonOther).or_default();
    anon_other.anon = anon_rest;
    anon_other.reserved = size_rest;

    let entries = held.into_iter().map(|(category, held)| (category, held.region())).collect();
    (Some(Breakdown(entries)), notes)
}

/// The bytes of one category. Sums of parts may need more than 64 bits until they are fitted.
#[derive(Debug, Clone, Copy, Default)]
struct CategoryBytes {
    reserved: u128,
    anon: u128,
    /// File pages and shared memory.
    file: u128,
}

impl CategoryBytes {
    /// The entry of the breakdown. Fitted figures do not exceed the kernel's, so none is cut off
    /// here.
    fn region(self) -> Region {
        let narrow = |bytes: u128| Some(u64::try_from(bytes).unwrap_or(u64::MAX));
        Region {
            reserved: narrow(self.reserved),
            resident: narrow(self.anon.saturating_add(self.file)),
        }
    }
}

/// Sums the parts by category.
fn merge(parts: &[CategoryPart]) -> BTreeMap<Category, CategoryBytes> {
    let mut held = BTreeMap::<Category, CategoryBytes>::new();
    for part in parts {
        if matches!(part.category, Category::FileOther | Category::AnonOther) {
            continue;
        }
        let entry = held.entry(part.category).or_default();
        entry.reserved = entry.reserved.saturating_add(part.reserved.into());
        entry.anon = entry.anon.saturating_add(part.anon.into());
        entry.file =
            entry.file.saturating_add(u128::from(part.file).saturating_add(part.shmem.into()));
    }
    held
}

/// Reduces one figure of the entries, the largest first, until its sum fits into `limit`. Returns
/// the unused rest of the limit. `report` gets the bytes that were subtracted and the names of the
/// entries.
fn fit(
    held: &mut BTreeMap<Category, CategoryBytes>,
    figure: fn(&mut CategoryBytes) -> &mut u128,
    limit: u128,
    report: impl FnOnce(u128, String),
) -> u128 {
    let mut figures: Vec<_> = held.iter_mut().map(|(c, h)| (*c, figure(h))).collect();
    let sum = figures.iter().fold(0u128, |sum, (_, bytes)| sum.saturating_add(**bytes));
    let excess = sum.saturating_sub(limit);
    if excess == 0 {
        return limit.saturating_sub(sum);
    }
    // Largest first. The sort is stable: equal entries stay in the order of their categories.
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
    report(excess, from.join(", "));
    0
}

/// `RssAnon` + `RssFile` + `RssShmem`.
fn sum_of_classes(system: &System) -> Option<u64> {
    system.resident_anon?.checked_add(system.resident_file?)?.checked_add(system.resident_shmem?)
}

/// The note for a `VmRSS` that differs from the sum of its parts.
fn disagreement(system: &System, sum: u64) -> Option<Note> {
    let resident = system.resident.filter(|resident| *resident != sum)?;
    Some(Note::new(format!(
        "VmRSS was {resident}, but RssAnon, RssFile and RssShmem add up to {sum}: the sum is used"
    )))
}

/// The note with the reason why there is no breakdown.
fn missing(system: &System) -> Note {
    let figures = [
        ("VmSize", system.virtual_),
        ("RssAnon", system.resident_anon),
        ("RssFile", system.resident_file),
        ("RssShmem", system.resident_shmem),
    ];
    let names: Vec<_> = figures.iter().filter(|(_, f)| f.is_none()).map(|(n, _)| *n).collect();
    if names.is_empty() {
        return Note::new("no breakdown: RssAnon, RssFile and RssShmem do not add up");
    }
    Note::new(format!("no breakdown: the kernel's {} could not be read", names.join(", ")))
}

#[cfg(test)]
mod tests;

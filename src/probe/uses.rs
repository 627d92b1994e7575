//! Reports how this process uses each zone that it has mapped, limited to the room in its slot.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use super::touched::Touched;
use super::zones::ZoneMapping;
use crate::hook::slab;
use crate::report::model::zones::{SharedZone, ZoneUse, ZoneUses};
use crate::report::model::{Named, Note};
use crate::tally::zones::SlabCounts;

/// The most bytes of a slot for the uses of zones, and the same again for zones from before a
/// reload.
const ROOM: usize = 10 * 1024;
/// The maximum size of one use in bytes, without its name: eight figures.
const USE: usize = 80;
/// The maximum size of a zone with all its figures, in bytes, without its names and notes.
const FULL: usize = 14 * 40 + 170;

/// Returns how this process uses the zones. Adds the reasons for missing figures to `notes`.
pub fn uses(zones: &[ZoneMapping], touched: &Touched, notes: &mut Vec<Note>) -> ZoneUses {
    let of = |zone: &ZoneMapping| {
        let mut uses = zone.uses();
        if let Some((bytes, age)) = touched.of(&zone.pages()) {
            uses.touched = Some(bytes);
            uses.touched_ms_ago = Some(age);
        }
        (zone.name.clone(), uses)
    };
    let uses: Vec<_> = zones.iter().map(of).collect();
    let uncounted = uses.iter().filter(|(_, uses)| uses.touched.is_none()).count();
    if uncounted > 0 {
        notes.push(Note::of(
            &["zones", "touched"],
            format!("{uncounted} not counted yet, refresh=zones counts all at once"),
        ));
    }
    if uses.iter().any(|(_, uses)| uses.allocations.is_none()) {
        notes.push(not_counted());
    }
    let known: HashSet<usize> = zones.iter().map(|zone| zone.range.start).collect();
    let others = slab::others(|pool| known.contains(&pool));
    if others != SlabCounts::default() {
        notes.push(Note::of(
            &["zones"],
            format!(
                "{} allocations ({} bytes), {} frees and {} failures in slab pools of none of \
                 these zones",
                others.allocations, others.bytes_requested, others.frees, others.failures
            ),
        ));
    }
    fit(uses, notes)
}

/// Makes the note for zones whose use by a process is unknown.
pub fn not_counted() -> Note {
    Note::of(
        &["zones", "allocations", "frees", "failures", "bytes_requested"],
        "not counted without the slab hook, in mappings that are older than it, and in more zones \
         than it distinguishes",
    )
}

/// Drops uses that do not fit; the zones that this process used are kept first.
fn fit(mut uses: Vec<(String, ZoneUse)>, notes: &mut Vec<Note>) -> ZoneUses {
    let all = uses.len();
    let bytes = |(name, _): &(String, ZoneUse)| name.len() + USE;
    if uses.iter().map(bytes).sum::<usize>() > ROOM {
        uses.sort_by_key(|(_, uses)| {
            let calls = [uses.allocations, uses.failures, uses.frees];
            calls.iter().all(|calls| calls.unwrap_or(0) == 0)
        });
        keep(&mut uses, bytes);
        notes.push(Note::of(
            &["zones"],
            format!(
                "{} of {all} are here, those that the process used first: there is no room for more",
                uses.len()
            ),
        ));
    }
    Named(uses)
}

/// Drops zones from before a reload that do not fit.
pub fn fit_full(zones: &mut Vec<(String, SharedZone)>) {
    keep(zones, |(name, zone)| {
        let notes: usize = zone.notes.iter().map(Note::most_bytes).sum();
        let owner = zone.owner.as_ref().map_or(0, String::len);
        name.len() + owner + notes + FULL
    });
}

/// Keeps the first elements, as many as fit.
fn keep<T>(things: &mut Vec<T>, bytes: impl Fn(&T) -> usize) {
    let mut taken = 0usize;
    let fits = |thing: &T| {
        taken = taken.saturating_add(bytes(thing));
        taken <= ROOM
    };
    let count = things.iter().map(fits).take_while(|fits| *fits).count();
    things.truncate(count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn uses_of(count: usize, name: usize) -> Vec<(String, ZoneUse)> {
        let figure = Some(u64::MAX);
        (0..count)
            .map(|i| {
                let used = i % 10 == 0;
                let uses = ZoneUse {
                    generation: figure,
                    mapped: u64::MAX,
                    touched: figure,
                    touched_ms_ago: figure,
                    allocations: if used { figure } else { Some(0) },
                    frees: Some(0),
                    failures: Some(0),
                    bytes_requested: figure,
                };
                (format!("{i:0name$}"), uses)
            })
            .collect()
    }

    #[test]
    fn fits() {
        let mut notes = Vec::new();
        assert_eq!(fit(uses_of(50, 20), &mut notes).0, uses_of(50, 20));
        assert!(notes.is_empty());
        for (count, name) in [(1000, 10), (200, 300), (3, 4096), (1, 20_000)] {
            let mut notes = Vec::new();
            let fitted = fit(uses_of(count, name), &mut notes);
            assert!(postcard::to_stdvec(&fitted).unwrap().len() <= ROOM + 3);
            assert_eq!(notes.len(), 1);
            assert!(fitted.0.len() < count);
            let used = fitted.0.iter().take_while(|(_, uses)| uses.allocations != Some(0)).count();
            assert_eq!(used, count.div_ceil(10).min(fitted.0.len()), "the used ones first");
        }
        let mut random = sample::Random::new(11);
        for _ in 0..300 {
            let mut zones: Vec<_> =
                (0..random.below(60)).map(|_| (random.text(), random.shared_zone())).collect();
            let all = zones.len();
            fit_full(&mut zones);
            assert!(postcard::to_stdvec(&zones).unwrap().len() <= ROOM + 3);
            assert!(all < 5 || !zones.is_empty());
        }
    }
}

//! Merges the zones that the processes report into one list.
#![forbid(unsafe_code)]

use std::collections::hash_map::{Entry, HashMap};

use crate::report::model::zones::{SharedZone, SharedZones, ZoneUse, ZoneVersions};
use crate::report::model::{Named, Note, Process};

/// The zones that one process reported in full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// The generation of the process.
    pub generation: Option<u64>,
    /// The zones it has mapped.
    pub zones: Vec<(String, SharedZone)>,
}

/// The zones of the server, each mapping once: those that some process reported in full, and those
/// that `processes` only name.
pub fn merge(reported: Vec<Reported>, processes: &[Process]) -> SharedZones {
    let newest = processes.iter().filter_map(|process| process.generation).max();
    let mut all: Vec<(String, SharedZone)> = Vec::new();
    let mut places = HashMap::new();
    let mut add = |name: &str, zone: SharedZone| match places.entry((
        name.to_owned(),
        zone.generation,
        zone.size,
    )) {
        Entry::Occupied(place) => {
            if let Some((_, other)) = all.get_mut::<usize>(*place.get()) {
                other.current |= zone.current;
            }
        }
        Entry::Vacant(place) => {
            place.insert(all.len());
            all.push((name.to_owned(), zone));
        }
    };
    for Reported { generation, zones } in reported {
        for (name, zone) in zones {
            add(
                &name,
                SharedZone { current: generation.is_some() && generation == newest, ..zone },
            );
        }
    }
    for process in processes {
        for (name, uses) in process.zones.iter().flat_map(|zones| &zones.0) {
            let current = process.generation.is_some() && process.generation == newest;
            let generation = uses.generation;
            let notes = vec![Note::of(Note::ALL, UNREPORTED)];
            add(
                name,
                SharedZone {
                    generation,
                    current,
                    size: uses.mapped,
                    notes,
                    ..SharedZone::default()
                },
            );
        }
    }
    all.sort_by_key(|(_, zone)| std::cmp::Reverse((zone.current, zone.generation)));
    let mut zones: Vec<(String, ZoneVersions)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (name, zone) in all {
        match places.get(&name).and_then(|place| zones.get_mut(*place)) {
            Some((_, newest)) => newest.older.push(zone),
            None => {
                places.insert(name.clone(), zones.len());
                zones.push((name, ZoneVersions { newest: zone, older: Vec::new() }));
            }
        }
    }
    Named(zones)
}

const UNREPORTED: &str = "only processes that did not report their zones have mapped this one";

/// Bytes in RAM of all mappings of all zones, each counted once, or why they are not known.
pub fn resident(zones: &SharedZones) -> Result<u64, String> {
    zones.0.iter().try_fold(0u64, |sum, (name, zone)| {
        zone.all().try_fold(sum, |sum, mapping| {
            let unknown = || format!("the resident bytes of zone {name} are not known");
            mapping.resident.and_then(|bytes| sum.checked_add(bytes)).ok_or_else(unknown)
        })
    })
}

/// Why a process from before a reload may have mappings that are not in the list; `None` if it
/// cannot.
pub fn hides(process: &Process) -> Option<String> {
    let Some(zones) = &process.zones else {
        return Some(format!("the zones of process {} are not known", process.pid));
    };
    // No hook has seen when the mapping was made: a later one may look the same.
    let unseen = |uses: &ZoneUse| uses.generation.is_none() && uses.allocations.is_none();
    let (name, _) = zones.0.iter().find(|(_, uses)| unseen(uses))?;
    Some(format!(
        "without the slab hook it is not known whether zone {name} of process {} is a separate \
         mapping",
        process.pid
    ))
}

#[cfg(test)]
mod tests;

//! The shared memory zones in the model, and how one list is made of what the processes say.
//!
//! A mapping is known by its name, its generation and its size: a reload that changes a zone makes a
//! new mapping, and for as long as workers of before live, both exist.
#![forbid(unsafe_code)]

use std::collections::hash_map::{Entry, HashMap};
use std::fmt::Write;

use serde::de::Deserializer;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::model::Process;

/// What one process has to do with a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneUse {
    /// The configuration that made this mapping of the zone.
    pub generation: Option<u64>,
    /// Bytes that are mapped: the whole zone.
    pub mapped: u64,
    /// Bytes of it in RAM that this process has touched: its part of `nginx_shm`.
    pub touched: Option<u64>,
    /// The age of `touched` when the snapshot was taken, in milliseconds.
    pub touched_ms_ago: Option<u64>,
    /// Allocations by this process that succeeded.
    pub allocations: Option<u64>,
    /// Blocks this process gave back.
    pub frees: Option<u64>,
    /// Allocations by this process that failed.
    pub failures: Option<u64>,
    /// Bytes asked for by the allocations that succeeded.
    pub bytes_requested: Option<u64>,
}

/// A zone as its own memory shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedZone {
    /// The module that the zone belongs to, by name.
    pub owner: Option<String>,
    /// The configuration that made this mapping; a reload that keeps the zone keeps it.
    pub generation: Option<u64>,
    /// Whether the newest configuration has it. Otherwise only processes of before do.
    pub current: bool,
    /// Bytes, and what `resident` becomes when all of it is used.
    pub size: u64,
    /// Bytes in RAM, whichever process loaded them.
    pub resident: Option<u64>,
    /// The age of `resident` when the zone was read, in milliseconds.
    pub resident_ms_ago: Option<u64>,
    /// The size of a page of the slab allocator in bytes.
    pub page_size: u64,
    /// The largest allocation that would succeed now, in bytes; 0 when none would.
    pub largest_allocation: Option<u64>,
    /// Bytes of the pages in use, less the slots in them that are free.
    pub in_use: Option<u64>,
    /// `in_use` of all pages, in percent, rounded down.
    pub fill_percent: Option<u64>,
    /// Allocations that failed, by any process, since the zone was made.
    pub failures: Option<u64>,
    /// A lower bound of `failures`: the same where `failures` is known, else what nginx itself counts,
    /// which is those of up to half a page.
    pub failures_at_least: Option<u64>,
    /// Pages.
    pub pages: Option<Pages>,
    /// Slots by their size.
    pub slots: Option<Slots>,
    /// Why a figure is `null` or less than exact, a sentence each.
    pub notes: Vec<String>,
}

/// The pages of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// Pages that can be allocated.
    pub total: u64,
    /// Pages in use.
    pub used: u64,
    /// Free pages.
    pub free: u64,
    /// The longest run of free pages.
    pub largest_free_run: Option<u64>,
    /// The number of runs of free pages.
    pub free_runs: Option<u64>,
    /// Requests of whole pages (of more than half a page), by all processes.
    pub reqs: Option<u64>,
    /// Those of them that failed.
    pub fails: Option<u64>,
}

/// The slots of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Slots in use.
    pub used: u64,
    /// Free slots in the pages of this size.
    pub free: u64,
    /// Requests, by all processes, since the zone was made.
    pub reqs: u64,
    /// Those of them that failed.
    pub fails: u64,
}

/// A list of named things, an object in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named<T>(pub Vec<(String, T)>);

/// Slots by their size in bytes.
pub type Slots = Named<Slot>;

/// What a process has to do with each zone it has mapped.
pub type ZoneUses = Named<ZoneUse>;

/// All zones.
pub type SharedZones = Named<Zone>;

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named(Vec::new())
    }
}

impl<T> Named<T> {
    /// The thing of a name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, thing)| thing)
    }

    /// All names.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Leaves only the thing of a name.
    pub fn narrow(&mut self, name: &str) {
        self.0.retain(|(known, _)| known == name);
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return self.0.serialize(serializer);
        }
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, thing) in &self.0 {
            map.serialize_entry(name, thing)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    /// Binary formats only.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Named)
    }
}

/// The mappings of one name: the newest, and those that only processes of before have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Zone {
    /// The newest.
    #[serde(flatten)]
    pub newest: SharedZone,
    /// The others, newest first.
    pub older: Vec<SharedZone>,
}

impl Zone {
    /// All mappings of the name, newest first.
    pub fn all(&self) -> impl Iterator<Item = &SharedZone> {
        std::iter::once(&self.newest).chain(&self.older)
    }
}

/// What one process reported of zones, in full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// The generation of the process.
    pub generation: Option<u64>,
    /// The zones it has mapped.
    pub zones: Vec<(String, SharedZone)>,
}

/// The zones of the server: those that some process reported in full, and those that `processes`
/// only name. With each mapping once.
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
            let notes = vec![UNREPORTED.to_owned()];
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
    let mut zones: Vec<(String, Zone)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (name, zone) in all {
        match places.get(&name).and_then(|place| zones.get_mut(*place)) {
            Some((_, newest)) => newest.older.push(zone),
            None => {
                places.insert(name.clone(), zones.len());
                zones.push((name, Zone { newest: zone, older: Vec::new() }));
            }
        }
    }
    Named(zones)
}

const UNREPORTED: &str = "all figures: only processes that have not reported them have this zone";

/// Bytes in RAM of all mappings of all zones, each once; or why that is not known.
pub fn resident(zones: &SharedZones) -> Result<u64, String> {
    zones.0.iter().try_fold(0u64, |sum, (name, zone)| {
        zone.all().try_fold(sum, |sum, mapping| {
            let unknown = || format!("the resident bytes of zone {name} are not known");
            mapping.resident.and_then(|bytes| sum.checked_add(bytes)).ok_or_else(unknown)
        })
    })
}

/// Why a process of before a reload may have mappings that are not in the list.
pub fn hides(process: &Process) -> Option<String> {
    let Some(zones) = &process.zones else {
        return Some(format!("the zones of process {} are not known", process.pid));
    };
    // Nobody has seen when it was made: a later one may look the same.
    let unseen = |uses: &ZoneUse| uses.generation.is_none() && uses.allocations.is_none();
    let (name, _) = zones.0.iter().find(|(_, uses)| unseen(uses))?;
    Some(format!(
        "without the slab hook it is not known whether zone {name} of process {} is a mapping of \
         its own",
        process.pid
    ))
}

/// The name of a zone as text: UTF-8 as it is, any other byte as `\xff`.
pub fn name(bytes: &[u8]) -> String {
    let mut name = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        name.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(name, "\\x{byte:02x}");
        }
    }
    name
}

#[cfg(test)]
mod tests;

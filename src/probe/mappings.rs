//! Lists the largest mappings that no part of the breakdown claims, and how much of them is in RAM.
//!
//! They are counted in rounds ([`Rounds`]), so each figure has an age.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use super::rounds::Rounds;
use crate::budget::{Budget, Job, Progress};
use crate::report::model::mappings::{Mapping, Mappings};
use crate::sys::near::NearRanges;
use crate::sys::pagemap::PageMap;
use crate::sys::{maps, ranges};

/// The number of mappings listed per entry.
const LISTED: usize = 10;
/// The number of mappings counted to find those, the largest by virtual bytes.
const COUNTED: usize = 24;
/// An unnamed mapping of at least this many bytes is not merged with others.
const LARGE: u64 = 1 << 20;
/// The smallest mapping that can contain a transparent huge page, in bytes.
const HUGE: usize = 2 << 20;
/// The longest path in bytes; of a longer path only the end is kept.
const PATH: usize = 200;
/// The time that a snapshot spends on counting.
const ALLOWANCE: Duration = Duration::from_millis(1);

/// The mappings to count, and the progress of counting.
#[derive(Debug, Default)]
pub struct MappingsProbe {
    groups: Vec<MappingGroup>,
    counts: Rounds<Bytes>,
    /// The ranges of files among those to count.
    near: NearRanges,
    /// The anonymous ranges among those to count.
    anonymous: Vec<Range<usize>>,
}

/// Mappings with the same path and the same permissions.
#[derive(Debug)]
struct MappingGroup {
    path: Option<String>,
    perms: String,
    has_file: bool,
    reserved: u64,
    count: u64,
    ranges: Vec<Range<usize>>,
}

/// Bytes in RAM, and how many of them are in huge pages.
#[derive(Debug, Clone, Copy, Default)]
struct Bytes {
    resident: u64,
    huge: u64,
}

impl MappingsProbe {
    /// Starts a snapshot.
    ///
    /// `taken` are the ranges that belong to something else, normalized. Without `unnamed`,
    /// anonymous mappings without a name are left out. With `all`, everything is counted completely
    /// and from the start.
    pub fn begin(&mut self, maps: &[MemoryMap], taken: &[Range<usize>], unnamed: bool, all: bool) {
        self.groups = groups(maps, taken, unnamed);
        let wanted = |of_files: bool| {
            let of_kind = self.groups.iter().filter(move |group| group.has_file == of_files);
            of_kind.enumerate().flat_map(move |(place, group)| {
                let is_wanted =
                    move |r: &&Range<usize>| place < COUNTED || (!of_files && r.len() >= HUGE);
                group.ranges.iter().filter(is_wanted).cloned()
            })
        };
        self.anonymous = wanted(false).collect();
        let mut of_files: Vec<_> = wanted(true).collect();
        of_files.sort_by_key(|range| range.start);
        self.near = NearRanges::new(of_files.iter().cloned());
        let ranges = of_files.into_iter().chain(self.anonymous.iter().cloned());
        self.counts.begin(ranges, (!all).then_some(ALLOWANCE));
    }

    /// Returns the bytes of a group in RAM, and when the oldest of its counts began.
    fn resident(&self, group: &MappingGroup) -> Option<(u64, Instant)> {
        let mut resident = 0u64;
        let mut oldest: Option<Instant> = None;
        for range in &group.ranges {
            let (bytes, begun) = self.counts.of(range)?;
            resident = resident.saturating_add(bytes.resident);
            if oldest.is_none_or(|oldest| begun < oldest) {
                oldest = Some(begun);
            }
        }
        Some((resident, oldest?))
    }

    /// Returns the largest mappings.
    pub fn finish(&self) -> Mappings {
        let list = |has_file: bool| {
            let of_kind = self.groups.iter().filter(|group| group.has_file == has_file);
            let counted = of_kind.take(COUNTED).map(|group| (self.resident(group), group));
            let mut all: Vec<_> = counted.collect();
            all.sort_by_key(|(resident, group)| {
                std::cmp::Reverse((resident.map(|(bytes, _)| bytes), group.reserved))
            });
            all.truncate(LISTED);
            all.into_iter().map(|(resident, group)| group.mapping(resident)).collect()
        };
        Mappings { file_other: list(true), anon_other: list(false) }
    }

    /// Returns the bytes of private memory in transparent huge pages; `None` until everything was
    /// counted.
    pub fn huge(&self) -> Option<u64> {
        self.anonymous
            .iter()
            .try_fold(0u64, |sum, range| sum.checked_add(self.counts.of(range)?.0.huge))
    }
}

impl MappingGroup {
    /// Returns the group with its bytes in RAM, and the time when the oldest of their counts began.
    fn mapping(&self, resident: Option<(u64, Instant)>) -> Mapping {
        let age = resident.map(|(_, since)| since.elapsed().as_millis());
        Mapping {
            path: self.path.clone(),
            perms: self.perms.clone(),
            reserved: self.reserved,
            resident: resident.map(|(bytes, _)| bytes),
            resident_ms_ago: age.map(|age| u64::try_from(age).unwrap_or(u64::MAX)),
            count: self.count,
        }
    }
}

impl Job<PageMap> for MappingsProbe {
    type Error = io::Error;

    fn step(&mut self, map: &PageMap, budget: &Budget) -> io::Result<Progress> {
        let near = &mut self.near;
        near.forget();
        self.counts.step(budget, |rest, bytes| {
            map.count_huge_near(near, rest, &mut bytes.resident, &mut bytes.huge)
        })
    }
}

/// Groups the mappings that nothing claims, the largest group first. Only the first [`COUNTED`] of each
/// kind, which can be listed, have a path.
fn groups(maps: &[MemoryMap], taken: &[Range<usize>], unnamed: bool) -> Vec<MappingGroup> {
    let mut groups: Vec<(&MemoryMap, MappingGroup)> = Vec::new();
    let mut places: HashMap<(MappingName, MMPermissions, bool), usize> = HashMap::new();
    for map in maps.iter().filter(|map| !is_of_kernel(map)) {
        let (has_path, has_file) = (map.pathname != MMapPath::Anonymous, maps::has_file(map));
        if !has_path && !has_file && !unnamed {
            continue;
        }
        for range in ranges::subtract(&maps::range(map), taken) {
            let bytes = range.len() as u64;
            let is_alone = !has_path && bytes >= LARGE;
            let key = (MappingName::of(map), map.perms, has_file);
            let place = places.get(&key).filter(|_| !is_alone).copied();
            match place.and_then(|place| groups.get_mut(place)) {
                Some((_, group)) => {
                    group.reserved = group.reserved.saturating_add(bytes);
                    group.count += 1;
                    group.ranges.push(range);
                }
                None => {
                    if !is_alone {
                        places.insert(key, groups.len());
                    }
                    let group = MappingGroup {
                        path: None,
                        perms: String::new(),
                        has_file,
                        reserved: bytes,
                        count: 1,
                        ranges: vec![range],
                    };
                    groups.push((map, group));
                }
            }
        }
    }
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.reserved));
    for of_files in [true, false] {
        let of_kind = groups.iter_mut().filter(|(_, group)| group.has_file == of_files);
        for (map, group) in of_kind.take(COUNTED) {
            (group.path, group.perms) = (path(map), permissions(map));
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The name of a mapping as a key. A path is compared and hashed by its bytes: by its components, as
/// `Path` does, takes several times as long.
#[derive(PartialEq, Eq, Hash)]
enum MappingName<'a> {
    File(&'a [u8]),
    Other(&'a MMapPath),
}

impl MappingName<'_> {
    fn of(map: &MemoryMap) -> MappingName<'_> {
        match &map.pathname {
            MMapPath::Path(path) => MappingName::File(path.as_os_str().as_bytes()),
            other => MappingName::Other(other),
        }
    }
}

/// Returns whether the pages of a mapping belong to the kernel, and so to no figure.
fn is_of_kernel(map: &MemoryMap) -> bool {
    match &map.pathname {
        MMapPath::Vvar | MMapPath::Vsyscall => true,
        MMapPath::Other(name) => name.starts_with("vvar"),
        _ => false,
    }
}

/// Returns the path or name of a mapping as the kernel lists it; of a long one, the end.
fn path(map: &MemoryMap) -> Option<String> {
    let name = match &map.pathname {
        MMapPath::Anonymous => return None,
        MMapPath::Path(path) => crate::report::model::named::name(path.as_os_str().as_bytes()),
        MMapPath::Heap => "[heap]".to_owned(),
        MMapPath::Stack => "[stack]".to_owned(),
        MMapPath::TStack(thread) => format!("[stack:{thread}]"),
        MMapPath::Vdso => "[vdso]".to_owned(),
        MMapPath::Vsys(key) => format!("/SYSV{key:08x}"),
        MMapPath::Other(name) => format!("[{name}]"),
        other => format!("{other:?}"),
    };
    let from = (name.len().saturating_sub(PATH)..name.len()).find(|at| name.is_char_boundary(*at));
    match from.filter(|from| *from > 0).and_then(|from| name.get(from..)) {
        Some(end) => Some(format!("...{end}")),
        None => Some(name),
    }
}

fn permissions(map: &MemoryMap) -> String {
    let letter = |permission, letter| if map.perms.contains(permission) { letter } else { '-' };
    let kind = if maps::is_shared(map) { 's' } else { 'p' };
    let rights =
        [(MMPermissions::READ, 'r'), (MMPermissions::WRITE, 'w'), (MMPermissions::EXECUTE, 'x')];
    rights.into_iter().map(|(permission, l)| letter(permission, l)).chain([kind]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::shared::tests::{shared, touch};
    use crate::sys::maps::MapsReader;
    use crate::sys::pagemap::page_size;

    #[test]
    fn largest_first_and_counted() {
        let pages = 40_000;
        let start = shared(pages, libc::PROT_READ | libc::PROT_WRITE);
        let range = start..start + pages * page_size();
        touch(&range, 33);
        let mut reader = MapsReader::open().unwrap();
        while reader.step(&Budget::unlimited()).unwrap() == Progress::More {}
        let maps = reader.finish();
        let pagemap = PageMap::open().unwrap();
        let mut probe = MappingsProbe::default();
        let spent = Budget::new(Duration::ZERO);
        let find = |probe: &MappingsProbe| {
            let all = probe.finish().file_other;
            assert!(all.len() <= LISTED);
            all.into_iter().find(|m| m.reserved == range.len() as u64 && m.perms == "rw-s")
        };
        for all in [true, false] {
            probe.begin(&maps, &[], true, all);
            let mut steps = 0;
            while probe.step(&pagemap, &spent).unwrap() == Progress::More {
                steps += 1;
            }
            assert!(steps > 1);
            let found = find(&probe).unwrap();
            assert_eq!((found.resident, found.count), (Some(33 * page_size() as u64), 1));
            assert_eq!(found.path.as_deref(), Some("/dev/zero (deleted)"));
        }
        assert!(probe.huge().is_some());
        probe.begin(&maps, std::slice::from_ref(&range), false, true);
        assert_eq!(find(&probe), None, "it belongs to something");
        assert!(probe.finish().anon_other.iter().all(|mapping| mapping.path.is_some()));
    }
}

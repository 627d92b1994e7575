//! Determines which address ranges of this process belong to which part of the breakdown.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use once_cell::sync::Lazy;
use procfs::process::{MMapPath, MemoryMap, Process};

use super::heap::HeapReading;
use super::lua::LuaReading;
use crate::hook::{lua, thread};
use crate::report::model::Category;
use crate::sys::elf::LoadedObject;
use crate::sys::pagemap::Resident;
use crate::sys::{elf, maps, ranges};

/// The address ranges of each part.
#[derive(Debug, Default)]
pub struct AddressLayout {
    /// The executable and its libraries.
    pub objects: Vec<LoadedObject>,
    /// The executable segments of the objects.
    pub text: Vec<Range<usize>>,
    /// The writable segments of the objects.
    pub data: Vec<Range<usize>>,
    /// The known stacks.
    pub stacks: Vec<Range<usize>>,
    /// nginx's shared mappings.
    pub shared: Vec<Range<usize>>,
    /// The Lua VMs and their addresses.
    pub lua: LuaReading,
    /// The machine code of LuaJIT, after [`AddressLayout::set_code`].
    pub code: Vec<Range<usize>>,
    /// Other machine code generated at run time.
    pub other_code: Vec<Range<usize>>,
    /// malloc's mappings of huge pages, which no resident figure includes.
    pub huge: Vec<Range<usize>>,
    /// All of the above except machine code, normalized.
    pub claimed: Vec<Range<usize>>,
    /// The number of threads whose stacks are known.
    pub threads_seen: u64,
}

/// A range whose pages are counted.
#[derive(Debug)]
pub struct CountedRange {
    /// Page-aligned addresses.
    pub range: Range<usize>,
    /// The part that the range belongs to; `None` for shared memory that is not nginx's.
    pub category: Option<Category>,
    /// Whether the kernel accounts file pages of the range as shared memory.
    pub shmem: bool,
    /// Whether the range is private memory without a file, so that all its pages are of one type.
    pub private: bool,
    /// The pages in RAM counted so far.
    pub resident: Resident,
}

impl CountedRange {
    /// Returns the bytes in RAM of all types.
    pub fn bytes(&self) -> u64 {
        self.resident.anon + self.resident.file
    }
}

impl AddressLayout {
    /// Finds the ranges. `shared` has the start addresses of nginx's shared mappings.
    pub fn find(maps: &[MemoryMap], shared: &[usize]) -> Self {
        let objects = elf::objects();
        let text = ranges::normalize(objects.iter().flat_map(|o| o.executable()).collect());
        let data = ranges::normalize(objects.iter().flat_map(|o| o.writable()).collect());
        let threads = thread::stacks().seen;
        let main = thread::main_stack(maps);
        let threads_seen = threads.len() as u64 + u64::from(main.is_some());
        let stacks = ranges::normalize(threads.into_iter().chain(main).collect());
        let shared: HashSet<usize> = shared.iter().copied().collect();
        let is_nginx_shared =
            |map: &&MemoryMap| maps::is_shared(map) && shared.contains(&maps::range(map).start);
        let shared: Vec<_> = maps.iter().filter(is_nginx_shared).map(maps::range).collect();
        let lua = LuaReading::new(&lua::read());
        let claimed = [&text, &data, &stacks, &shared].into_iter().flatten().cloned();
        let claimed = ranges::normalize(claimed.chain(lua.claimed()).collect());
        let (code, other_code, huge) = (Vec::new(), Vec::new(), Vec::new());
        AddressLayout {
            objects,
            text,
            data,
            stacks,
            shared,
            lua,
            code,
            other_code,
            huge,
            claimed,
            threads_seen,
        }
    }

    /// Sets the machine code of LuaJIT. Any other executable memory without a file is other machine
    /// code.
    pub fn set_code(&mut self, maps: &[MemoryMap], code: Vec<Range<usize>>) {
        let taken = ranges::normalize(self.claimed.iter().chain(&code).cloned().collect());
        let generated = maps.iter().filter(|map| maps::is_generated_code(map)).map(maps::range);
        self.other_code =
            ranges::normalize(generated.flat_map(|r| ranges::subtract(&r, &taken)).collect());
        self.code = code;
    }

    /// Returns the devices of shared memory.
    pub fn devices(&self, maps: &[MemoryMap]) -> ShmemDevices {
        ShmemDevices::new(maps, &self.shared)
    }

    /// Returns the ranges to count: all known parts except nginx's shared memory.
    pub fn targets(&self, maps: &[MemoryMap], heap: &HeapReading) -> Vec<CountedRange> {
        let devices = self.devices(maps);
        let foreign: Vec<_> = maps
            .iter()
            .filter(|map| maps::has_file(map) && devices.contains(map))
            .flat_map(|map| ranges::subtract(&maps::range(map), &self.claimed))
            .collect();
        let lua = self.lua.mappings.iter();
        let lua = lua.filter_map(|(category, ranges)| Some((Some(*category), ranges.as_ref()?)));
        let groups = [
            (Some(Category::Text), &self.text),
            (Some(Category::Data), &self.data),
            (Some(Category::Stacks), &self.stacks),
            (Some(Category::LuajitMcode), &self.code),
            (Some(Category::OtherMcode), &self.other_code),
            (heap.category, &heap.ranges),
            (None, &foreign),
        ];
        let mut targets = Vec::new();
        for (category, ranges) in groups.into_iter().chain(lua) {
            for range in ranges {
                let below = maps.partition_point(|map| maps::range(map).end <= range.start);
                let mut inside = maps.iter().skip(below);
                let shmem = inside.clone().next().is_some_and(|map| devices.contains(map));
                let private = inside
                    .by_ref()
                    .take_while(|map| maps::range(map).start < range.end)
                    .all(|map| !maps::has_file(map));
                let resident = Resident::default();
                targets.push(CountedRange {
                    range: range.clone(),
                    category,
                    shmem,
                    private,
                    resident,
                });
            }
        }
        targets
    }
}

/// The devices whose pages the kernel accounts as shared memory: its own device for anonymous
/// shared memory, and every tmpfs.
pub struct ShmemDevices {
    /// The device of nginx's zones.
    anonymous: Option<(i32, i32)>,
}

impl ShmemDevices {
    fn new(maps: &[MemoryMap], shared: &[Range<usize>]) -> Self {
        let zone = maps.iter().find(|map| shared.contains(&maps::range(map)));
        ShmemDevices { anonymous: zone.map(|map| map.dev) }
    }

    /// Returns whether the pages of a mapping are accounted as shared memory.
    pub fn contains(&self, map: &MemoryMap) -> bool {
        map.inode != 0
            && (self.anonymous == Some(map.dev)
                || matches!(map.pathname, MMapPath::Vsys(_))
                // Disks have a major number; file systems without a disk have none.
                || (map.dev.0 == 0 && is_tmpfs(map.dev)))
    }
}

/// Returns whether a device is a tmpfs, according to the mounts that this process sees. They are
/// read once for each new device. The file system itself is not queried, because that could block
/// on a server that is gone.
fn is_tmpfs(device: (i32, i32)) -> bool {
    static KNOWN: Lazy<Mutex<HashMap<(i32, i32), bool>>> = Lazy::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(tmpfs) = known.get(&device) {
        return *tmpfs;
    }
    let mounts = Process::myself().and_then(|process| process.mountinfo());
    for mount in mounts.into_iter().flatten() {
        if let Some((major, minor)) = mount.majmin.split_once(':') {
            if let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) {
                // "rootfs", which the kernel starts with, is a tmpfs or a file system of the same
                // type.
                let tmpfs = matches!(mount.fs_type.as_str(), "tmpfs" | "devtmpfs" | "rootfs");
                known.insert((major, minor), tmpfs);
            }
        }
    }
    *known.entry(device).or_insert(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_tmpfs_by_its_device() {
        use std::os::unix::fs::MetadataExt;
        let device = |path: &str| {
            let device = std::fs::metadata(path).unwrap().dev();
            (libc::major(device) as i32, libc::minor(device) as i32)
        };
        assert!(is_tmpfs(device("/dev/shm")));
        assert!(!is_tmpfs(device("/proc")));
        assert!(!is_tmpfs((0, i32::MAX)));
    }
}

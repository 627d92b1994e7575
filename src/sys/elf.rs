//! Lists the loaded objects of this process: the executable and its libraries.
//!
//! This is the only reader of program headers. It takes the loader's list, which is right for objects
//! whose files were replaced since.
//!
//! Invariants of the unsafe code:
//!
//! 1. `dl_iterate_phdr` calls back on this thread, before it returns, with the data pointer that it
//!    was given. It holds the loader's lock meanwhile, so no object is unloaded during a call.
//! 2. The `dl_phdr_info` of a call is valid for the call. Its name is null or NUL-terminated, and
//!    its program headers are null or an array of length `dlpi_phnum`.
//! 3. `getauxval` has no preconditions.

use std::ffi::{c_int, c_void, CStr, OsStr};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::pagemap::page_size;

/// A loaded segment (`PT_LOAD`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its addresses, rounded outwards to whole pages, including `.bss`.
    pub range: Range<usize>,
    /// `PF_R`, `PF_W` and `PF_X` as the file requests them. Part of a writable segment may have
    /// become read-only since (RELRO).
    pub flags: u32,
}

/// An executable or library in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedObject {
    /// The base name of its file.
    pub name: String,
    /// The difference between an address in memory and the one in the file.
    pub bias: usize,
    /// Its loaded segments.
    pub segments: Vec<Segment>,
    /// The address of its dynamic section; `None` for a static executable.
    pub dynamic: Option<usize>,
    /// The address of its table for unwinding (`.eh_frame_hdr`), if it has one.
    pub unwind: Option<usize>,
}

impl LoadedObject {
    /// Iterates over the ranges of all loaded segments.
    pub fn loaded(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.segments.iter().map(|segment| segment.range.clone())
    }

    /// Iterates over the ranges of the executable segments.
    pub fn executable(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.with(libc::PF_X)
    }

    /// Iterates over the ranges of the writable segments: `.data`, `.bss`, and relocated data.
    pub fn writable(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.with(libc::PF_W)
    }

    /// Returns whether an address is in one of the loaded segments.
    pub fn contains(&self, address: usize) -> bool {
        self.loaded().any(|range| range.contains(&address))
    }

    fn with(&self, flag: u32) -> impl Iterator<Item = Range<usize>> + '_ {
        self.segments.iter().filter(move |s| s.flags & flag != 0).map(|s| s.range.clone())
    }
}

/// Lists the objects loaded in this process, the executable first. The kernel's vdso is left out.
///
/// The result is a copy: another thread may unload an object of the list at any time.
pub fn objects() -> Vec<LoadedObject> {
    let mut found: Vec<LoadedObject> = Vec::new();
    // SAFETY: `collect` gets the pointer to this vector back, on this thread (1).
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut found).cast()) };
    // SAFETY: the call is always allowed (3).
    let vdso = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } as usize;
    if let Some(executable) = found.first_mut() {
        // The loader has an empty name here, or argv[0], which nginx overwrites.
        executable.name = executable_name();
    }
    found.retain(|object| vdso == 0 || !object.contains(vdso));
    found
}

/// Adds one object to the vector that `data` points to.
unsafe extern "C" fn collect(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    data: *mut c_void,
) -> c_int {
    // SAFETY: `data` points to the vector in `objects`, which nothing else uses during the call
    // (1).
    let found = unsafe { &mut *data.cast::<Vec<LoadedObject>>() };
    // SAFETY: the description is valid for the call (2).
    let info = unsafe { &*info };
    let headers = if info.dlpi_phdr.is_null() {
        &[]
    } else {
        // SAFETY: the headers are not null, so they are an array of this length (2).
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
    };
    let name = if info.dlpi_name.is_null() {
        String::new()
    } else {
        // SAFETY: the name is not null, so it ends in NUL (2).
        base_name(unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes())
    };
    let bias = info.dlpi_addr as usize;
    let mut object = LoadedObject { name, bias, segments: Vec::new(), dynamic: None, unwind: None };
    for header in headers {
        let start = bias.wrapping_add(header.p_vaddr as usize);
        match header.p_type {
            libc::PT_LOAD => {
                let range = pages(start, header.p_memsz as usize);
                object.segments.push(Segment { range, flags: header.p_flags });
            }
            libc::PT_GNU_EH_FRAME => object.unwind = Some(start),
            libc::PT_DYNAMIC => object.dynamic = Some(start),
            _ => {}
        }
    }
    found.push(object);
    0
}

/// Returns the range of whole pages that covers `len` bytes from `start` on.
fn pages(start: usize, len: usize) -> Range<usize> {
    let mask = page_size() - 1;
    let end = start.saturating_add(len).saturating_add(mask);
    start & !mask..end & !mask
}

/// Returns the base name of the executable's file, without the suffix of a file that was replaced.
fn executable_name() -> String {
    let path = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let path = path.as_os_str().as_bytes();
    base_name(path.strip_suffix(b" (deleted)").unwrap_or(path))
}

fn base_name(path: &[u8]) -> String {
    let name = Path::new(OsStr::from_bytes(path)).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};

    fn maps() -> Vec<MemoryMap> {
        Process::myself().unwrap().maps().unwrap().0
    }

    fn range(map: &MemoryMap) -> Range<usize> {
        map.address.0 as usize..map.address.1 as usize
    }

    fn file(map: &MemoryMap) -> Option<String> {
        match &map.pathname {
            MMapPath::Path(path) => Some(base_name(path.as_os_str().as_bytes())),
            _ => None,
        }
    }

    #[test]
    fn the_executable_comes_first_and_has_its_name() {
        let here = objects as *const () as usize;
        let objects = objects();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(objects[0].name, exe.file_name().unwrap().to_str().unwrap());
        assert!(objects[0].contains(here));
        assert!(objects[0].dynamic.is_some_and(|dynamic| objects[0].contains(dynamic)));
        assert!(objects.iter().any(|object| object.name.starts_with("libc.")));
        assert!(objects.iter().all(|object| !object.name.is_empty()));
        assert!(objects.iter().all(|object| !object.name.starts_with("linux-vdso")));
    }

    #[test]
    fn executable_ranges_are_those_of_the_kernel() {
        let mut ours: Vec<_> = objects()
            .iter()
            .flat_map(|o| o.executable().map(|r| (o.name.clone(), r)).collect::<Vec<_>>())
            .map(|(name, range)| (range.start, range.end, name))
            .collect();
        let mut kernel: Vec<_> = maps()
            .iter()
            .filter(|map| map.perms.contains(MMPermissions::EXECUTE))
            .filter_map(|map| file(map).map(|name| (range(map).start, range(map).end, name)))
            .collect();
        ours.sort();
        kernel.sort();
        assert_eq!(ours, kernel);
    }

    #[test]
    fn every_segment_is_mapped() {
        let maps = maps();
        for object in objects() {
            assert!(object.writable().count() > 0, "{object:?}");
            for segment in &object.segments {
                let mut at = segment.range.start;
                for map in maps.iter().map(range) {
                    if map.contains(&at) {
                        at = map.end;
                    }
                }
                assert!(at >= segment.range.end, "{}: {segment:x?}", object.name);
            }
        }
    }

    #[test]
    fn writable_mappings_of_files_are_in_writable_segments() {
        let objects = objects();
        for map in maps().iter().filter(|map| map.perms.contains(MMPermissions::WRITE)) {
            let Some(name) = file(map) else { continue };
            let Some(object) = objects.iter().find(|object| object.name == name) else {
                continue;
            };
            let range = range(map);
            assert!(
                object.writable().any(|w| w.start <= range.start && range.end <= w.end),
                "{name}: {range:x?}"
            );
        }
    }

    #[test]
    fn bss_is_in_a_writable_segment() {
        static mut BSS: [u8; 3 * 4096] = [0; 3 * 4096];
        let address = (&raw const BSS) as usize;
        let objects = objects();
        assert!(objects[0]
            .writable()
            .any(|w| w.contains(&address) && w.contains(&(address + 12287))));
    }

    #[test]
    fn names() {
        for (path, name) in
            [("/usr/lib/a.so", "a.so"), ("a.so", "a.so"), ("", ""), ("/", ""), ("/x/y z", "y z")]
        {
            assert_eq!(base_name(path.as_bytes()), name);
        }
    }
}

//! Finds malloc's state once, and compares it with malloc's own figures.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::time::Duration;

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use super::super::symbols::AllocatorObject;
use super::arenas::{MallocState, Reader};
use super::count::{self, ArenaCount};
use super::ffi::{self, MallInfo, MallocFunctions};
use super::walk::{Limit, Stop};
use crate::abi::glibc::{find_counters, find_main_arena, MallocLayout, Mmapped, ANYWHERE};
use crate::budget::{Budget, Progress};
use crate::sys::elf::objects;
use crate::sys::maps;
use crate::sys::memory::{Memory, OwnMemory};
use crate::sys::pagemap::page_size;

/// The maximum number of attempts, because another thread may change the heap meanwhile.
const TRIES: usize = 5;
/// The maximum size of writable data to search, in bytes. The C library has about 70 KiB.
const MOST_DATA: usize = 4 << 20;

/// The result of the search.
pub struct Calibration {
    /// The location of malloc's state and a reader for it, or the reason why they are unknown.
    pub state: Result<(MallocState, Reader), &'static str>,
    /// The start of the `brk` heap, if there is one.
    pub heap_start: Option<usize>,
    /// malloc's own figures.
    pub info: Option<MallInfo>,
}

/// Searches malloc's state in the data of `object`.
pub fn calibrate(
    object: AllocatorObject,
    version: &str,
    functions: &MallocFunctions,
) -> Calibration {
    let place = Place::find();
    let heap_start = place.as_ref().and_then(|place| place.brk);
    let mut info = None;
    let state = match (MallocLayout::of_version(version), place) {
        _ if cfg!(not(target_pointer_width = "64")) => Err(NOT_64_BIT),
        (None, _) => Err(UNKNOWN_VERSION),
        (_, None) => Err(NO_HEAP),
        (Some(layout), Some(place)) => find(object, layout, &place, functions, &mut info)
            .map_err(|why| if heap_start.is_none() { NO_HEAP } else { why }),
    };
    if info.is_none() {
        info = functions.mallinfo();
    }
    Calibration { state, heap_start, info }
}

const NOT_64_BIT: &str =
    "glibc: only the brk heap was found: the 32-bit structures of malloc are unknown";
const UNKNOWN_VERSION: &str =
    "glibc: only the brk heap was found: the structures of this version are unknown";
const NO_HEAP: &str =
    "glibc: the memory of malloc was not found: it has no brk heap, and its arenas were not recognised";
const NO_REFERENCE: &str = "glibc: only the brk heap was found: mallinfo is missing";
const NOT_FOUND: &str =
    "glibc: only the brk heap was found: the arenas of malloc were not recognised";
const NOT_AGREED: &str =
    "glibc: only the brk heap was found: the arenas of malloc, as read, differ from mallinfo";
const NOT_READABLE: &str =
    "glibc: only the brk heap was found: the system does not allow process_vm_readv on the own process";

/// Where malloc's first arena is.
struct Place {
    /// Where the `brk` heap starts, if there is one. With huge pages (`glibc.malloc.hugetlb=2`) malloc
    /// makes mappings instead.
    brk: Option<usize>,
    /// Where it can have begun.
    starts: Vec<usize>,
}

impl Place {
    fn find() -> Option<Place> {
        let maps = maps::all().ok()?;
        let start = |map: &MemoryMap| maps::range(map).start;
        let is_heap = |map: &&MemoryMap| map.pathname == MMapPath::Heap;
        if let Some(brk) = maps.iter().filter(is_heap).map(start).min() {
            return Some(Place { brk: Some(brk), starts: vec![brk] });
        }
        let both = MMPermissions::READ | MMPermissions::WRITE;
        let is_one = |map: &&MemoryMap| {
            let is_anonymous = !maps::has_file(map) || maps::is_hugetlb(map);
            map.perms.contains(both) && !maps::is_shared(map) && is_anonymous
        };
        Some(Place { brk: None, starts: maps.iter().filter(is_one).map(start).collect() })
    }

    /// Where its chunks can be.
    fn heap(&self) -> Range<usize> {
        self.brk.map_or(ANYWHERE, |start| start..ffi::heap_end())
    }
}

fn find(
    object: AllocatorObject,
    layout: MallocLayout,
    place: &Place,
    functions: &MallocFunctions,
    info: &mut Option<MallInfo>,
) -> Result<(MallocState, Reader), &'static str> {
    let objects = objects();
    let defines = objects.iter().find(|loaded| loaded.contains(object.base)).ok_or(NOT_FOUND)?;
    // All buffers are allocated before the heap is examined.
    let mut data: Vec<(usize, Vec<u8>)> = defines.writable().filter_map(room).collect();
    if data.iter_mut().any(|(base, bytes)| is_refused(*base, bytes)) {
        return Err(NOT_READABLE);
    }
    let mut reader = Reader::new(layout);
    let mut reason = NOT_FOUND;
    for _ in 0..TRIES {
        let heap = place.heap();
        data.retain_mut(|(base, bytes)| OwnMemory.read(*base, bytes).is_ok());
        let mut mains =
            data.iter().filter_map(|(base, bytes)| find_main_arena(bytes, *base, layout, &heap));
        let (Some(main), None) = (mains.next(), mains.next()) else {
            continue;
        };
        let mut state = MallocState { layout, main, first: None, counters: None };
        let reference = functions.mallinfo().ok_or(NO_REFERENCE)?;
        let mut limit = Limit { visits: 1 << 20, budget: Budget::new(Duration::from_millis(20)) };
        match reader.free(&OwnMemory, &state, std::slice::from_ref(&heap), &mut limit) {
            Ok((free, held)) if (free, held.system) == (reference.fordblks, reference.arena) => {}
            Err(Stop::Unreadable) => return Err(NOT_READABLE),
            _ => {
                reason = NOT_AGREED;
                continue;
            }
        }
        // Mappings are not swept: it is not known which there are.
        state.first = place.brk;
        let swept = place.brk.and_then(|_| sweep(&mut reader, &state, &heap));
        if swept != Some(reference.fordblks) {
            state.first = None;
        }
        *info = Some(reference);
        let says = Mmapped { count: reference.hblks, bytes: reference.hblkhd };
        let mut counters = data.iter().filter_map(|(base, bytes)| {
            find_counters(bytes, *base, says, &place.starts, page_size())
        });
        state.counters = match (counters.next(), counters.next()) {
            (Some(counters), None) => Some(counters),
            _ => None,
        };
        return Ok((state, reader));
    }
    Err(reason)
}

/// Returns the free bytes of the arenas, the first one swept by address; `None` if the count
/// failed.
fn sweep(reader: &mut Reader, state: &MallocState, heap: &Range<usize>) -> Option<usize> {
    let place = count::CountContext { state, heap: heap.clone(), lists: Duration::ZERO };
    let mut count = ArenaCount::begin(state, true);
    let done = count.step(reader, &OwnMemory, &place, &Budget::unlimited());
    (done == Ok(Progress::Done)).then_some(count.free)
}

/// Reads data into a buffer. Returns whether the system does not allow it, as opposed to data that
/// cannot be read.
fn is_refused(base: usize, bytes: &mut [u8]) -> bool {
    let error = OwnMemory.read(base, bytes).err().and_then(|error| error.raw_os_error());
    error.is_some_and(|errno| errno != libc::EFAULT)
}

/// Makes a buffer for a copy of a segment; `None` if the segment is too large.
fn room(segment: Range<usize>) -> Option<(usize, Vec<u8>)> {
    let start = segment.start.checked_next_multiple_of(16)?;
    let size = segment.end.checked_sub(start).filter(|size| *size <= MOST_DATA)?;
    Some((start, vec![0; size]))
}

//! The trial of the hooks on the slab allocator. It verifies the layout of slab pools, and that the
//! hooks count. It runs in a child process, with the hooks in place there.
//!
//! Invariants for `unsafe`:
//!
//! 1. The functions have the types that nginx declares. If they do not, only the child can crash.
//! 2. A log of zeroes logs nothing, because nginx compares its level first.
//! 3. The pool lies in memory that [`check`] allocated, aligned to a page. nginx's slab functions
//!    use it like a zone. Only blocks of this pool are freed in it.

use std::alloc::Layout as Room;
use std::ffi::{c_void, CStr};
use std::ops::Range;

use super::{
    begin_process, counts, mappings, page_counts, Free, Shm, ShmAlloc, ShmFree, SlabAlloc, OK,
};
use crate::abi::slab::runs::Runs;
use crate::abi::slab::{SlabHeader, SlabLayout};
use crate::hook::refusal::Refusal;
use crate::sys::memory::{Memory, OwnMemory};
use crate::sys::pagemap::page_size;
use crate::sys::symbol;
use crate::tally::zones::SlabCounts;

/// Makes a slab pool in zeroed memory of a number of bytes. Returns whether that succeeded.
pub type Make = unsafe fn(start: *mut u8, bytes: usize) -> bool;

/// The number of pages of the pool in which the trial allocates.
const PAGES: usize = 16;

/// The name of the mapping that the trial makes and removes.
const NAME: &[u8] = b"memstat_counters";

/// Tries the hooks: allocates from a slab pool in every way that modules do, and checks that the
/// hooks counted all of it and that the pool's header can be read.
pub fn check(layout: &SlabLayout, make: Make) -> Result<(), Refusal> {
    begin_process();
    let room = Room::from_size_align(PAGES * page_size(), page_size());
    let Ok(room) = room else { return Err(Refusal::Memory) };
    // SAFETY: the size is not 0, and the memory is aligned to a page (3).
    let start = unsafe { std::alloc::alloc_zeroed(room) };
    if start.is_null() {
        return Err(Refusal::Memory);
    }
    // SAFETY: `start` points to the memory just allocated (3).
    let counted = unsafe { is_counted(start, layout, make) };
    let proven = counted.and_then(|counted| Ok(counted && mappings_are_seen()?));
    // SAFETY: the memory was allocated above with this layout, and nothing uses it any more (3).
    unsafe { std::alloc::dealloc(start, room) };
    match proven? {
        true => Ok(()),
        false => Err(Refusal::Layout),
    }
}

/// Allocates and frees in a slab pool, and compares the hooks' counts and the pool's header with
/// what was done.
///
/// # Safety
///
/// `start` points to zeroed memory of [`PAGES`] pages (3).
unsafe fn is_counted(start: *mut u8, layout: &SlabLayout, make: Make) -> Result<bool, Refusal> {
    // SAFETY: the function has this type (1).
    let alloc: SlabAlloc = unsafe { std::mem::transmute(function(c"ngx_slab_alloc")?) };
    // SAFETY: the function has this type (1).
    let alloc_locked: SlabAlloc =
        unsafe { std::mem::transmute(function(c"ngx_slab_alloc_locked")?) };
    // SAFETY: the function has this type (1).
    let calloc_locked: SlabAlloc =
        unsafe { std::mem::transmute(function(c"ngx_slab_calloc_locked")?) };
    // SAFETY: the function has this type (1).
    let free: Free = unsafe { std::mem::transmute(function(c"ngx_slab_free")?) };
    // SAFETY: the function has this type (1).
    let free_locked: Free = unsafe { std::mem::transmute(function(c"ngx_slab_free_locked")?) };

    let page = page_size();
    let (pool, at) = (start.cast::<c_void>(), start as usize);
    let range = at..at + PAGES * page;
    // SAFETY: `start` points to as many zeroed bytes (3).
    if !unsafe { make(start, range.len()) } {
        return Ok(false);
    }
    let Some(empty) = header(&range, layout) else { return Ok(false) };
    let all = empty.pages as u64;
    let is_empty = empty.free == all && runs(&empty) == Some((all, all, 1));

    // SAFETY: the functions have these types (1), and the pool is valid (3).
    let blocks = unsafe {
        let blocks = [
            alloc(pool, 64),
            calloc_locked(pool, 60),
            alloc_locked(pool, page + 1),
            alloc_locked(pool, 1),
        ];
        let too_large = alloc_locked(pool, PAGES * page);
        free(pool, blocks[3]);
        free_locked(pool, blocks[2]);
        blocks.iter().all(|block| !block.is_null()) && too_large.is_null()
    };
    let bytes_requested = (64 + 60 + page + 1 + 1) as u64;
    let counted = SlabCounts { allocations: 4, frees: 2, failures: 1, bytes_requested };
    let Some(used) = header(&range, layout) else { return Ok(false) };
    let class = |size: u64| {
        let class = used.classes.iter().find(|class| class.size == size);
        class.map(|class| (class.used, class.reqs, class.fails))
    };
    // The two slots share one page. All other pages are free again, in one run.
    Ok(blocks
        && is_empty
        && counts(at) == Some(counted)
        && class(64) == Some((2, 2, 0))
        && class(8) == Some((0, 1, 0))
        && used.free == all - 1
        && runs(&used) == Some((all - 1, all - 1, 1)))
}

/// Returns the header of a pool, read as the probe of zones reads it.
fn header(pool: &Range<usize>, layout: &SlabLayout) -> Option<SlabHeader> {
    let mut bytes = vec![0; layout.header_bytes()];
    OwnMemory.read(pool.start, &mut bytes).ok()?;
    SlabHeader::read(&bytes, pool, layout, page_size()).ok()
}

/// Returns the number of free pages, the longest run of them, and the number of runs.
fn runs(header: &SlabHeader) -> Option<(u64, u64, u64)> {
    let mut runs = Runs::begin(header.pages);
    while let Some(wanted) = runs.wanted(header.descriptors, page_size()) {
        let mut copy = vec![0; wanted.len()];
        OwnMemory.read(wanted.start, &mut copy).ok()?;
        runs.look(&copy);
    }
    Some((runs.free, runs.largest, runs.count))
}

/// Makes and removes a shared mapping, and checks that the hooks saw both.
fn mappings_are_seen() -> Result<bool, Refusal> {
    // SAFETY: the function has this type (1).
    let make: ShmAlloc = unsafe { std::mem::transmute(function(c"ngx_shm_alloc")?) };
    // SAFETY: the function has this type (1).
    let remove: ShmFree = unsafe { std::mem::transmute(function(c"ngx_shm_free")?) };
    let log = [0u64; 64];
    /// An `ngx_shm_t`: behind [`Shm`] it has a flag.
    #[repr(C)]
    struct Whole(Shm, [u64; 4]);
    let mut whole = Whole(
        Shm {
            addr: std::ptr::null_mut(),
            size: page_size(),
            name_len: NAME.len(),
            name_data: NAME.as_ptr().cast_mut(),
            log: log.as_ptr().cast_mut().cast(),
        },
        [0; 4],
    );
    let shm = &raw mut whole.0;
    let seen = |at: usize| mappings().into_iter().find(|m| m.address == at && m.name == NAME);
    // SAFETY: the argument is a complete `ngx_shm_t` (1) with a log (2).
    if unsafe { make(shm) } != OK {
        return Ok(false);
    }
    // SAFETY: `shm` points to the structure above, which `make` filled in (1).
    let at = unsafe { (*shm).addr } as usize;
    let begun = seen(at).filter(|mapping| mapping.size == page_size());
    // No pool is there; the counters of its address are.
    let counted = begun.is_some() && counts(at) == Some(SlabCounts::default());
    // SAFETY: `ngx_shm_alloc` made the mapping (1), and the log is still there (2).
    unsafe { remove(shm) };
    let ended = begun.is_some_and(|mapping| page_counts(&mapping).is_none());
    Ok(counted && ended && seen(at).is_none())
}

/// Returns the address of a function of nginx.
fn function(name: &CStr) -> Result<usize, Refusal> {
    let missing = || Refusal::Unresolved { symbol: name.to_string_lossy().into_owned() };
    symbol::address(name).ok_or_else(missing)
}

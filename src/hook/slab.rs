//! The hooks on nginx's slab allocator, and on the functions that create and remove shared memory.
//!
//! The slab functions are called under the mutex of the pool they work in, so a hook updates that
//! pool's counters without a lock of its own ([`crate::tally::zones`]). The master's counters are
//! in memory that it shares with its children. A child gets counters of its own when it is forked,
//! by a handler of `pthread_atfork`.
//!
//! What the unsafe code below relies on:
//!
//! 1. The hooks have the types of the functions, and pass the arguments on unchanged. A pool is
//!    only an address here; nothing is read from it.
//! 2. The originals are set before a hook can be called. The executable and this module, which is
//!    pinned, stay loaded.
//! 3. [`MASTERS`] and [`CURRENT`] are null or point to a table that exists as long as a hook can be
//!    called: [`OWN`], or a table in a mapping. They are not null when a hook can be called. A
//!    table consists of atomics, and zeroes are a valid table. [`uninstall`] runs while a
//!    configuration is read or loaded, when nothing else in this process uses a table.
//! 4. nginx passes an `ngx_shm_t`, of which [`Shm`] is the beginning, to the functions that create
//!    and remove shared memory (`nginx::zones` compares the two structures at compile time).
//! 5. [`LAST`] points to counters in the table of [`CURRENT`], or to the first counters in [`OWN`],
//!    which belong to no pool while that is not the current table. Counters that contain the
//!    address of a pool belong to it until the pool is removed. So the user of a pool may use the
//!    counters that contain its address, whatever another thread writes to this word meanwhile.
//!
//! [`arch::slab`](super::arch::slab) handles the most frequent calls of the slab functions, in as
//! few instructions as possible. The other calls go to [`alloc_locked`] and [`free_locked`].

mod check;

pub use check::check;

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use super::arch::slab::{memstat_slab_alloc, memstat_slab_free};
use super::engine;
use super::errno::keep_errno;
use super::refusal::Refusal;
use super::state::Hooked;
use crate::hook::engine::{Check, Target};
use crate::sys::pagemap::page_size;
use crate::tally::mappings::{SharedMapping, SharedMappings};
use crate::tally::zones::{PageCounts, SlabCounters, SlabCounts, SlabTable};

/// `ngx_int_t`.
type Int = isize;
/// `NGX_OK`.
const OK: Int = 0;

type SlabAlloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, *mut c_void);
type ShmAlloc = unsafe extern "C" fn(*mut Shm) -> Int;
type ShmFree = unsafe extern "C" fn(*mut Shm);

/// The beginning of `ngx_shm_t`.
#[repr(C)]
#[derive(Debug)]
pub struct Shm {
    /// The address of the mapping.
    pub addr: *mut u8,
    /// Its size in bytes.
    pub size: usize,
    /// The length of its name in bytes.
    pub name_len: usize,
    /// Its name.
    pub name_data: *mut u8,
    /// Its log.
    pub log: *mut c_void,
}

pub(super) static ALLOC: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
pub(super) static FREE: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static SHM_ALLOC: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static SHM_FREE: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

static TARGETS: [Target; 4] = [
    Target {
        symbol: c"ngx_slab_alloc_locked",
        hook: || memstat_slab_alloc as SlabAlloc as *const c_void,
        original: &ALLOC,
    },
    Target {
        symbol: c"ngx_slab_free_locked",
        hook: || memstat_slab_free as Free as *const c_void,
        original: &FREE,
    },
    Target {
        symbol: c"ngx_shm_alloc",
        hook: || shm_alloc as ShmAlloc as *const c_void,
        original: &SHM_ALLOC,
    },
    Target {
        symbol: c"ngx_shm_free",
        hook: || shm_free as ShmFree as *const c_void,
        original: &SHM_FREE,
    },
];

/// The master's counters, in shared memory.
static MASTERS: AtomicPtr<SlabTable> = AtomicPtr::new(null_mut());
/// The counters of this process: [`MASTERS`] in the master, [`OWN`] in a child.
pub(super) static CURRENT: AtomicPtr<SlabTable> = AtomicPtr::new(null_mut());
static OWN: SlabTable = SlabTable::new();
/// The counters of the pool that was used last.
pub(super) static LAST: AtomicPtr<SlabCounters> =
    AtomicPtr::new((&raw const OWN).cast_mut().cast());

static MAPPINGS: Mutex<SharedMappings> = Mutex::new(SharedMappings::new());
static STATE: Mutex<Hooked> = Mutex::new(Hooked::NotInstalled);
/// Half a page, in bytes: larger allocations take whole pages.
pub(super) static HALF_PAGE: AtomicU64 = AtomicU64::new(u64::MAX);

/// Hooks the four functions. `check` verifies in a child process that the hooks count correctly.
///
/// Call it in the master while it has one thread, with the module pinned (see [`super::pin`]).
pub fn install(check: Check) -> Result<(), Refusal> {
    let result = prepare().and_then(|()| {
        // SAFETY: the hooks have the types of the functions (1), and the executable and this
        // module stay loaded (2).
        unsafe { engine::install(&TARGETS, check) }
    });
    set_state(Hooked::from(&result));
    result
}

/// Removes the hooks, where nobody has patched over them. Forgets the counts, because they would
/// lack everything that happens from now on.
///
/// Call it while the process has one thread.
pub fn uninstall() -> Result<(), Refusal> {
    engine::uninstall(&TARGETS)?;
    with_mappings(SharedMappings::clear);
    let table = MASTERS.swap(null_mut(), Ordering::AcqRel);
    CURRENT.store(null_mut(), Ordering::Release);
    LAST.store((&raw const OWN).cast_mut().cast(), Ordering::Release);
    OWN.inherit(None);
    if !table.is_null() {
        // SAFETY: `prepare` made the mapping, and without the hooks nothing leads to it (3).
        unsafe { libc::munmap(table.cast(), size_of::<SlabTable>()) };
    }
    set_state(Hooked::NotInstalled);
    Ok(())
}

/// Returns whether the hooks are in place.
pub fn state() -> Hooked {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Notes that this process, the master, begins to read a configuration.
pub fn loading() {
    with_mappings(SharedMappings::loading);
    is_master();
}

/// Notes that this process is the master. It may itself be a child, of nginx's `daemon()`; then it
/// uses the master's table again, and adds its own counts to it.
pub fn is_master() {
    let own = (&raw const OWN).cast_mut();
    if let Some(table) = masters().filter(|_| CURRENT.load(Ordering::Acquire) == own) {
        table.absorb(&OWN);
        let first = std::ptr::from_ref(table).cast_mut();
        CURRENT.store(first, Ordering::Release);
        LAST.store(first.cast(), Ordering::Release);
        OWN.inherit(None);
    }
}

/// Notes that a configuration is loaded, with these zones: a name, an address and a size in bytes
/// each.
pub fn loaded(generation: u64, zones: &[(Vec<u8>, usize, usize)]) {
    with_mappings(|mappings| {
        mappings.loaded(generation);
        for (name, address, size) in zones {
            let serial = mappings.adopt(name, *address, *size);
            if let Some((serial, table)) = serial.zip(current()) {
                table.begin(*address, serial);
            }
        }
    });
}

/// Returns the shared mappings of this process that the hooks have seen.
pub fn mappings() -> Vec<SharedMapping> {
    with_mappings(|mappings| mappings.all().to_vec())
}

/// Returns this process's counts for the pool at an address; `None` if it is not counted
/// separately.
pub fn counts(pool: usize) -> Option<SlabCounts> {
    current()?.counts(pool)
}

/// Returns the sum of this process's counts for unknown pools.
pub fn others(is_known: impl Fn(usize) -> bool) -> SlabCounts {
    current().map(|table| table.others(is_known)).unwrap_or_default()
}

/// Returns the master's counts for a mapping that this process has too.
pub fn masters_counts(mapping: &SharedMapping) -> Option<SlabCounts> {
    let table = masters()?;
    table.page_counts(mapping.address, mapping.serial)?;
    table.counts(mapping.address)
}

/// Returns the counts of whole-page allocations in a pool, over all processes.
pub fn page_counts(mapping: &SharedMapping) -> Option<PageCounts> {
    masters()?.page_counts(mapping.address, mapping.serial)
}

/// Gives a child process, at its beginning, counters of its own. Safe to call in the child of a
/// process with threads.
pub extern "C" fn begin_process() {
    OWN.inherit(masters());
    CURRENT.store((&raw const OWN).cast_mut(), Ordering::Release);
    LAST.store((&raw const OWN).cast_mut().cast(), Ordering::Release);
}

/// Prepares what the hooks need before they are called: the master's table and the handler at a
/// fork.
fn prepare() -> Result<(), Refusal> {
    static AT_FORK: Once = Once::new();
    HALF_PAGE.store(page_size() as u64 / 2, Ordering::Relaxed);
    if masters().is_none() {
        let size = std::mem::size_of::<SlabTable>();
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: this is a new mapping of zeroes, which `uninstall` unmaps (3).
        let table = unsafe { libc::mmap(null_mut(), size, rights, kind, -1, 0) };
        if table == libc::MAP_FAILED {
            return Err(Refusal::Memory);
        }
        MASTERS.store(table.cast(), Ordering::Release);
        CURRENT.store(table.cast(), Ordering::Release);
    }
    let mut failed = 0;
    AT_FORK.call_once(|| {
        // SAFETY: the handler is never unloaded, and only uses atomics, which a child may do (3).
        failed = unsafe { libc::pthread_atfork(None, None, Some(begin_process)) };
    });
    if failed == 0 {
        Ok(())
    } else {
        Err(Refusal::Memory)
    }
}

/// Returns the address range of the master's counters: a shared mapping of this module.
pub fn masters_range() -> Option<Range<usize>> {
    let start = masters()? as *const SlabTable as usize;
    Some(start..start + size_of::<SlabTable>())
}

fn masters() -> Option<&'static SlabTable> {
    // SAFETY: the pointer is null or leads to a table that exists while hooks can be called (3).
    unsafe { MASTERS.load(Ordering::Acquire).as_ref() }
}

fn current() -> Option<&'static SlabTable> {
    // SAFETY: the pointer is null or leads to a table that exists while hooks can be called (3).
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

fn with_mappings<T>(use_them: impl FnOnce(&mut SharedMappings) -> T) -> T {
    use_them(&mut MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn set_state(state: Hooked) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = state;
}

/// Replaces `ngx_slab_alloc_locked`.
pub(super) unsafe extern "C" fn alloc_locked(pool: *mut c_void, size: usize) -> *mut c_void {
    let original = ALLOC.load(Ordering::Relaxed);
    if original.is_null() {
        // Not reachable (2).
        return null_mut();
    }
    // SAFETY: the arguments are the caller's (1), and the original is set (2).
    let block = unsafe { std::mem::transmute::<*mut c_void, SlabAlloc>(original)(pool, size) };
    if let Some(table) = current() {
        let size = size as u64;
        let pages = if size > HALF_PAGE.load(Ordering::Relaxed) { masters() } else { None };
        remember(table.allocated(pool as usize, size, !block.is_null(), pages));
    }
    block
}

/// Replaces `ngx_slab_free_locked`.
pub(super) unsafe extern "C" fn free_locked(pool: *mut c_void, block: *mut c_void) {
    let original = FREE.load(Ordering::Relaxed);
    if original.is_null() {
        // Not reachable (2).
        return;
    }
    if let Some(table) = current() {
        remember(table.freed(pool as usize));
    }
    // SAFETY: the arguments are the caller's (1), and the original is set (2).
    unsafe { std::mem::transmute::<*mut c_void, Free>(original)(pool, block) };
}

fn remember(counters: Option<&'static SlabCounters>) {
    if let Some(counters) = counters {
        LAST.store(std::ptr::from_ref(counters).cast_mut(), Ordering::Relaxed);
    }
}

/// Replaces `ngx_shm_alloc`.
unsafe extern "C" fn shm_alloc(shm: *mut Shm) -> Int {
    let original = SHM_ALLOC.load(Ordering::Relaxed);
    if original.is_null() {
        // Not reachable (2).
        return -1;
    }
    // SAFETY: the argument is the caller's (1), and the original is set (2).
    let result = unsafe { std::mem::transmute::<*mut c_void, ShmAlloc>(original)(shm) };
    // SAFETY: the argument points to an `ngx_shm_t` (4).
    if let (OK, Some(shm)) = (result, unsafe { shm.as_ref() }) {
        // SAFETY: the structure is nginx's, so its name has the stated length (4).
        let name = unsafe { name(shm) };
        let address = shm.addr as usize;
        let add = |mappings: &mut SharedMappings| mappings.add(name, address, shm.size);
        let serial = keep_errno(|| with_mappings(add));
        if let Some(table) = current() {
            table.begin(address, serial);
        }
    }
    result
}

/// Replaces `ngx_shm_free`.
unsafe extern "C" fn shm_free(shm: *mut Shm) {
    let original = SHM_FREE.load(Ordering::Relaxed);
    if original.is_null() {
        // Not reachable (2).
        return;
    }
    // SAFETY: the argument points to an `ngx_shm_t` (4).
    if let Some(shm) = unsafe { shm.as_ref() } {
        let address = shm.addr as usize;
        keep_errno(|| with_mappings(|mappings| mappings.remove(address)));
        if let Some(table) = current() {
            table.end(address);
        }
    }
    // SAFETY: the argument is the caller's (1), and the original is set (2).
    unsafe { std::mem::transmute::<*mut c_void, ShmFree>(original)(shm) };
}

/// Returns the name of a mapping.
///
/// # Safety
///
/// The name has the length that the structure states (4).
unsafe fn name(shm: &Shm) -> &[u8] {
    if shm.name_data.is_null() {
        return &[];
    }
    // SAFETY: the name has this length, by contract (4).
    unsafe { std::slice::from_raw_parts(shm.name_data, shm.name_len) }
}

#[cfg(test)]
mod tests;

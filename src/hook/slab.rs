//! The hooks on nginx's slab allocator, and on the functions that make and unmake shared memory.
//!
//! The slab functions are called under the mutex of the pool they work in, so a hook adds to that
//! pool's counters with no lock of its own ([`crate::tally::zones`]). The master's counters are in
//! memory that it shares with its children; a child begins with counters of its own right at its
//! birth, by a handler of `pthread_atfork`.
//!
//! What the unsafe code below relies on:
//!
//! 1. The hooks have the types of the functions, and hand the arguments on as they are. A pool is
//!    an address here; nothing is read from it.
//! 2. The ways to the functions are set before a hook can be called.
//! 3. [`MASTERS`] and [`CURRENT`] are null or lead to a table that stays as long as a hook can be
//!    called: [`OWN`], or one in a mapping. A table is all atomics, and all zeroes is one. When a hook
//!    can be called they are not null. [`uninstall`] runs while a configuration is read or loaded, when
//!    nothing else of this process uses a table.
//! 4. nginx hands an `ngx_shm_t` to the functions that make and unmake shared memory, of which
//!    [`Shm`] is the beginning (`nginx::zones` compares the two when it is compiled).
//! 5. [`LAST`] leads to counters in the table of [`CURRENT`], or to the first in [`OWN`], which are of
//!    no pool where that is not the current table. Counters that say they are a pool's are so until the
//!    pool is gone. So whoever uses a pool may use them, if they say so, whatever another thread makes
//!    of this word meanwhile.
//!
//! The commonest calls of the slab functions are dealt with by [`arch::slab`](super::arch::slab), in as
//! few instructions as can be. The rest comes to [`alloc_locked`] and [`free_locked`].

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
use crate::tally::mappings::{Mapping, Mappings};
use crate::tally::zones::{Counts, Entry, PageCounts, Table};

/// `ngx_int_t`.
type Int = isize;
/// `NGX_OK`.
const OK: Int = 0;

type Alloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, *mut c_void);
type ShmAlloc = unsafe extern "C" fn(*mut Shm) -> Int;
type ShmFree = unsafe extern "C" fn(*mut Shm);

/// The beginning of `ngx_shm_t`.
#[repr(C)]
#[derive(Debug)]
pub struct Shm {
    /// Where it is mapped.
    pub addr: *mut u8,
    /// Bytes.
    pub size: usize,
    /// The length of its name.
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
        hook: || memstat_slab_alloc as Alloc as *const c_void,
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
static MASTERS: AtomicPtr<Table> = AtomicPtr::new(null_mut());
/// Those of this process: [`MASTERS`], in a child [`OWN`].
pub(super) static CURRENT: AtomicPtr<Table> = AtomicPtr::new(null_mut());
static OWN: Table = Table::new();
/// The counters of the pool that was used last.
pub(super) static LAST: AtomicPtr<Entry> = AtomicPtr::new((&raw const OWN).cast_mut().cast());

static MAPPINGS: Mutex<Mappings> = Mutex::new(Mappings::new());
static STATE: Mutex<Hooked> = Mutex::new(Hooked::NotInstalled);
/// Half a page: what is larger is allocated in whole pages.
pub(super) static HALF_PAGE: AtomicU64 = AtomicU64::new(u64::MAX);

/// Hooks the four functions. `check` proves in a child process that the hooks see what they should.
///
/// Call it in the master while it has one thread, with the module pinned (see [`super::pin`]).
pub fn install(check: Check) -> Result<(), Refusal> {
    let result = prepare().and_then(|()| {
        // SAFETY: 1; the executable and, by contract, this module stay loaded.
        unsafe { engine::install(&TARGETS, check) }
    });
    set_state(Hooked::from(&result));
    result
}

/// Takes the hooks out, where they are still ours. What was counted is forgotten, for it would
/// lack what happens from now on.
///
/// Call it while the process has one thread.
pub fn uninstall() -> Result<(), Refusal> {
    engine::uninstall(&TARGETS)?;
    with_mappings(Mappings::clear);
    let table = MASTERS.swap(null_mut(), Ordering::AcqRel);
    CURRENT.store(null_mut(), Ordering::Release);
    LAST.store((&raw const OWN).cast_mut().cast(), Ordering::Release);
    OWN.inherit(None);
    if !table.is_null() {
        // SAFETY: the mapping of `prepare`; with the hooks out nothing leads to it (3).
        unsafe { libc::munmap(table.cast(), size_of::<Table>()) };
    }
    set_state(Hooked::NotInstalled);
    Ok(())
}

/// Whether the hooks are in place.
pub fn state() -> Hooked {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// This process, the master, begins to read a configuration.
pub fn loading() {
    with_mappings(Mappings::loading);
    is_master();
}

/// This process is the master. That may be a child itself, of nginx's `daemon()`: it counts in the
/// master's table again.
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

/// A configuration is loaded; these are its zones, each a name, an address and a size.
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

/// The shared mappings of this process, as far as the hooks have seen them.
pub fn mappings() -> Vec<Mapping> {
    with_mappings(|mappings| mappings.all().to_vec())
}

/// What this process did to the pool at an address; `None` when it is not told from others.
pub fn counts(pool: usize) -> Option<Counts> {
    current()?.counts(pool)
}

/// What this process did to pools that are none of the known ones.
pub fn others(is_known: impl Fn(usize) -> bool) -> Counts {
    current().map(|table| table.others(is_known)).unwrap_or_default()
}

/// What the master did to a mapping that this process has too.
pub fn masters_counts(mapping: &Mapping) -> Option<Counts> {
    let table = masters()?;
    table.page_counts(mapping.address, mapping.serial)?;
    table.counts(mapping.address)
}

/// What all processes asked of a pool in whole pages.
pub fn page_counts(mapping: &Mapping) -> Option<PageCounts> {
    masters()?.page_counts(mapping.address, mapping.serial)
}

/// A child process begins: it counts what it does itself. Safe to call in the child of a process
/// with threads.
pub extern "C" fn begin_process() {
    OWN.inherit(masters());
    CURRENT.store((&raw const OWN).cast_mut(), Ordering::Release);
    LAST.store((&raw const OWN).cast_mut().cast(), Ordering::Release);
}

/// What there has to be before the hooks are called.
fn prepare() -> Result<(), Refusal> {
    static AT_FORK: Once = Once::new();
    HALF_PAGE.store(page_size() as u64 / 2, Ordering::Relaxed);
    if masters().is_none() {
        let size = std::mem::size_of::<Table>();
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping of zeroes, which `uninstall` unmaps (3).
        let table = unsafe { libc::mmap(null_mut(), size, rights, kind, -1, 0) };
        if table == libc::MAP_FAILED {
            return Err(Refusal::Memory);
        }
        MASTERS.store(table.cast(), Ordering::Release);
        CURRENT.store(table.cast(), Ordering::Release);
    }
    let mut failed = 0;
    AT_FORK.call_once(|| {
        // SAFETY: the handler is never unloaded, and does nothing that a child must not.
        failed = unsafe { libc::pthread_atfork(None, None, Some(begin_process)) };
    });
    if failed == 0 {
        Ok(())
    } else {
        Err(Refusal::Memory)
    }
}

/// Where the master's counters are: a shared mapping of this module's own.
pub fn masters_range() -> Option<Range<usize>> {
    let start = masters()? as *const Table as usize;
    Some(start..start + size_of::<Table>())
}

fn masters() -> Option<&'static Table> {
    // SAFETY: 3.
    unsafe { MASTERS.load(Ordering::Acquire).as_ref() }
}

fn current() -> Option<&'static Table> {
    // SAFETY: 3.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

fn with_mappings<T>(use_them: impl FnOnce(&mut Mappings) -> T) -> T {
    use_them(&mut MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn set_state(state: Hooked) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = state;
}

/// Stands in for `ngx_slab_alloc_locked`.
pub(super) unsafe extern "C" fn alloc_locked(pool: *mut c_void, size: usize) -> *mut c_void {
    let original = ALLOC.load(Ordering::Relaxed);
    if original.is_null() {
        // Not reachable (2).
        return null_mut();
    }
    // SAFETY: 1, 2.
    let block = unsafe { std::mem::transmute::<*mut c_void, Alloc>(original)(pool, size) };
    if let Some(table) = current() {
        let size = size as u64;
        let pages = if size > HALF_PAGE.load(Ordering::Relaxed) { masters() } else { None };
        remember(table.allocated(pool as usize, size, !block.is_null(), pages));
    }
    block
}

/// Stands in for `ngx_slab_free_locked`.
pub(super) unsafe extern "C" fn free_locked(pool: *mut c_void, block: *mut c_void) {
    let original = FREE.load(Ordering::Relaxed);
    if original.is_null() {
        // Not reachable (2).
        return;
    }
    if let Some(table) = current() {
        remember(table.freed(pool as usize));
    }
    // SAFETY: 1, 2.
    unsafe { std::mem::transmute::<*mut c_void, Free>(original)(pool, block) };
}

fn remember(counters: Option<&'static Entry>) {
    if let Some(counters) = counters {
        LAST.store(std::ptr::from_ref(counters).cast_mut(), Ordering::Relaxed);
    }
}

/// Stands in for `ngx_shm_alloc`.
unsafe extern "C" fn shm_alloc(shm: *mut Shm) -> Int {
    let original = SHM_ALLOC.load(Ordering::Relaxed);
    if original.is_null() {
        // Not reachable (2).
        return -1;
    }
    // SAFETY: 1, 2.
    let result = unsafe { std::mem::transmute::<*mut c_void, ShmAlloc>(original)(shm) };
    // SAFETY: 4.
    if let (OK, Some(shm)) = (result, unsafe { shm.as_ref() }) {
        // SAFETY: 4.
        let name = unsafe { name(shm) };
        let address = shm.addr as usize;
        let add = |mappings: &mut Mappings| mappings.add(name, address, shm.size);
        let serial = keep_errno(|| with_mappings(add));
        if let Some(table) = current() {
            table.begin(address, serial);
        }
    }
    result
}

/// Stands in for `ngx_shm_free`.
unsafe extern "C" fn shm_free(shm: *mut Shm) {
    let original = SHM_FREE.load(Ordering::Relaxed);
    if original.is_null() {
        // Not reachable (2).
        return;
    }
    // SAFETY: 4.
    if let Some(shm) = unsafe { shm.as_ref() } {
        let address = shm.addr as usize;
        keep_errno(|| with_mappings(|mappings| mappings.remove(address)));
        if let Some(table) = current() {
            table.end(address);
        }
    }
    // SAFETY: 1, 2.
    unsafe { std::mem::transmute::<*mut c_void, ShmFree>(original)(shm) };
}

/// The name of a mapping.
///
/// # Safety
///
/// It is as long as it says (4).
unsafe fn name(shm: &Shm) -> &[u8] {
    if shm.name_data.is_null() {
        return &[];
    }
    // SAFETY: by contract.
    unsafe { std::slice::from_raw_parts(shm.name_data, shm.name_len) }
}

#[cfg(test)]
mod tests;

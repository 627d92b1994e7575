//! The hooks on `ngx_create_pool`, `ngx_destroy_pool` and `ngx_reset_pool`: which pools are live,
//! and where in the code they were created. Also the hook on `ngx_pfree`, which measures a pool
//! before it frees a large allocation, because the pool may never be as large again.
//!
//! What the unsafe code below relies on:
//!
//! 1. The hooks have the types of their functions, and are called with valid arguments.
//! 2. The originals are set before the first call of a hook ([`engine`]). nginx and this module,
//!    which is pinned, stay loaded.
//! 3. [`POOLS`] and [`GAUGES`] are used only on the main thread, by one function at a time. The
//!    main thread is known by its thread pointer, which a fork preserves. Neither a hook nor the
//!    caller of [`with`] calls a pool function while it uses them.
//! 4. A pool in [`POOLS`] is live as long as the hooks see the end of every pool. So nothing is
//!    recorded before the hooks are in place ([`ON`]), everything is forgotten when they are
//!    removed, and no pool is reported once another thread has used a pool.
//! 5. Pools have the layout that [`abi::pool`](crate::abi::pool) describes: [`check`] verified it.
//!
//! [`arch::pool`](super::arch::pool) handles the most frequent calls, in as few instructions as
//! possible. The other calls go to [`created`], [`destroy`], [`destroy_sized`], [`reset`] and
//! [`give_back`].

mod check;

use std::cell::UnsafeCell;
use std::ffi::{c_void, CStr};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::arch::pool::{memstat_create_pool, memstat_destroy_pool, memstat_pfree};
use super::arch::thread_pointer;
use super::engine;
use super::errno::keep_errno;
use super::origin;
use super::refusal::Refusal;
use crate::abi::pool::{header, size, Gauge};
use crate::hook::engine::Target;
use crate::sys::symbol;
use crate::tally::pools::{tick, Created, Look, Nursery, Origin, PoolTally, FACTOR};

type CreatePool = unsafe extern "C" fn(size: usize, log: *mut c_void) -> *mut c_void;
type Destroy = unsafe extern "C" fn(pool: *mut c_void);
type GiveBack = unsafe extern "C" fn(pool: *mut c_void, given: *mut c_void) -> isize;

pub(super) static CREATE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
pub(super) static DESTROY: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static RESET: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
pub(super) static PFREE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

static TARGETS: [Target; 3] = [
    Target {
        symbol: c"ngx_create_pool",
        hook: || memstat_create_pool as *const c_void,
        original: &CREATE,
    },
    Target {
        symbol: c"ngx_destroy_pool",
        hook: || memstat_destroy_pool as *const c_void,
        original: &DESTROY,
    },
    Target { symbol: c"ngx_reset_pool", hook: || reset as *const c_void, original: &RESET },
];

/// A hook of its own: without it, everything but the exact peaks of pools is still known.
static GIVING_BACK: [Target; 1] =
    [Target { symbol: c"ngx_pfree", hook: || memstat_pfree as *const c_void, original: &PFREE }];

struct OfMainThread<T>(UnsafeCell<T>);

// SAFETY: the value is used on the main thread only (3).
unsafe impl<T> Sync for OfMainThread<T> {}

static POOLS: OfMainThread<PoolTally> = OfMainThread(UnsafeCell::new(PoolTally::new(&NURSERY)));

/// The measurements of the pools that freed large allocations last, by their place.
static GAUGES: OfMainThread<[Gauge; PLACES]> =
    OfMainThread(UnsafeCell::new([const { Gauge::NONE }; PLACES]));

/// The maximum number of pools that are measured at a time: a power of 2.
const PLACES: usize = 16;

/// The reason why `ngx_pfree` is not hooked.
static PFREE_REFUSED: Mutex<Option<Refusal>> = Mutex::new(None);

pub(super) static NURSERY: Nursery = Nursery::new();

/// The thread pointer of the main thread.
pub(super) static MAIN: AtomicUsize = AtomicUsize::new(0);

/// Whether the hooks are in place.
static ON: AtomicBool = AtomicBool::new(false);

/// Whether another thread has ever used a pool.
static ELSEWHERE: AtomicBool = AtomicBool::new(false);

/// `ngx_current_msec`.
pub(super) static CLOCK: AtomicPtr<usize> = AtomicPtr::new(std::ptr::null_mut());

/// Hooks the three functions, and `ngx_pfree` if possible. Hooks that are in place stay, and keep
/// their counts.
///
/// Call it on the main thread, with the module pinned (see [`super::pin`]).
pub fn install() -> Result<(), Refusal> {
    let clock = symbol::address(c"ngx_current_msec");
    let clock = clock.ok_or_else(|| Refusal::Unresolved { symbol: "ngx_current_msec".into() })?;
    CLOCK.store(clock as *mut usize, Relaxed);
    MAIN.store(thread_pointer(), Relaxed);
    // SAFETY: the hooks have the types of the functions (1), and nginx and the pinned module stay
    // loaded (2).
    let installed = unsafe { engine::install(&TARGETS, trial) };
    match installed {
        // Counts that were made while only some of the hooks were in place are not reliable.
        Ok(()) if !ON.swap(true, Relaxed) => {
            let _ = with(PoolTally::forget);
        }
        Ok(()) => {}
        Err(_) => forget(),
    }
    if installed.is_ok() {
        NURSERY.begin();
        // SAFETY: the hook has the type of `ngx_pfree` (1), and nginx and the pinned module stay
        // loaded (2).
        let refused = unsafe { engine::install(&GIVING_BACK, trial_of_giving_back) }.err();
        *PFREE_REFUSED.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }
    installed
}

/// Returns why the peak of a pool may be unknown although pools are counted. The peak is then the
/// largest size seen when a pool ended, was reset or appeared in a reply.
pub fn peaks_refused() -> Option<Refusal> {
    PFREE_REFUSED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Runs in a child in which the hooks are in place, and checks them.
fn trial() -> Result<(), Refusal> {
    ON.store(true, Relaxed);
    check::check()
}

/// Runs in a child in which the hook on `ngx_pfree` is in place too, and checks it.
fn trial_of_giving_back() -> Result<(), Refusal> {
    ON.store(true, Relaxed);
    check::check_giving_back()
}

/// Removes the hooks, and forgets the pools.
///
/// Call it on the main thread.
pub fn uninstall() -> Result<(), Refusal> {
    engine::uninstall(&GIVING_BACK)?;
    engine::uninstall(&TARGETS)?;
    forget();
    Ok(())
}

fn forget() {
    let _ = with(PoolTally::forget);
    ON.store(false, Relaxed);
}

/// Passes the records of this process's pools to `use_it`. The error is the reason why there are
/// none.
pub fn with<T>(use_it: impl FnOnce(&mut PoolTally) -> T) -> Result<T, &'static str> {
    if !ON.load(Relaxed) {
        return Err("the hooks are not in place");
    }
    if thread_pointer() != MAIN.load(Relaxed) {
        return Err("this is not the main thread");
    }
    if ELSEWHERE.load(Relaxed) {
        return Err("other threads of this process use pools too");
    }
    // SAFETY: this is the main thread, and `use_it` calls no pool function (3).
    Ok(use_it(unsafe { &mut *POOLS.0.get() }))
}

/// Records the pool of a cycle. For a pool that is older than the hooks, records `creator`, an
/// exported function, as its creator and the current time as its creation time.
pub fn cycle(pool: usize, generation: u64, creator: &CStr) {
    let now = now();
    let _ = with(|pools| {
        if let Some(function) = symbol::address(creator) {
            let origin = Origin { function, calls: 0 };
            let creator =
                pools.creator(function).or_else(|| pools.add_creator(function, origin, 0));
            if let Some(creator) = creator {
                pools.adopt(pool, creator, now);
            }
        }
        pools.is_of_a_cycle(pool, generation);
    });
}

/// Returns the current time in the unit of the pools' creation times.
pub fn now() -> u32 {
    tick(milliseconds())
}

fn milliseconds() -> usize {
    // SAFETY: `ngx_current_msec` is a word of nginx's data, which is only written as a whole, and
    // nginx stays loaded (2).
    unsafe { CLOCK.load(Relaxed).as_ref() }.copied().unwrap_or(0)
}

/// Records a pool that was created by a call that returns to address `caller`. Returns the pool,
/// which may be null.
pub(super) unsafe extern "C" fn created(pool: *mut c_void, caller: usize) -> *mut c_void {
    if !pool.is_null() {
        // SAFETY: the pool is new (1), so its size is that of its one block (5).
        let size = unsafe { header(pool as usize) }.end.wrapping_sub(pool as usize);
        let mark = caller.wrapping_add(thread_pointer());
        let created = Created { pool: pool as usize, mark, size, at: milliseconds() };
        keep_errno(|| counted(|pools| record(pools, &created, caller)));
    }
    pool
}

fn record(pools: &mut PoolTally, created: &Created, caller: usize) {
    let creator = match pools.creator(caller) {
        Some(creator) => creator,
        None => pools.add_creator(caller, origin::of(caller), created.size).unwrap_or(usize::MAX),
    };
    if pools.created(created, creator) == Look::Again {
        pools.looked(creator, origin::of(caller));
    }
}

/// Replaces `ngx_destroy_pool`.
pub(super) unsafe extern "C" fn destroy(pool: *mut c_void) {
    // SAFETY: the caller passed a live pool (1) of the verified layout (5).
    unsafe { destroy_sized(pool, size(pool as usize)) }
}

/// Replaces `ngx_destroy_pool` for a pool whose size in bytes is known.
pub(super) unsafe extern "C" fn destroy_sized(pool: *mut c_void, size: u64) {
    counted(|pools| pools.destroyed(pool as usize, size));
    // SAFETY: the pool is the caller's argument (1), and the original is set (2).
    unsafe { std::mem::transmute::<*mut c_void, Destroy>(DESTROY.load(Relaxed))(pool) }
}

/// Replaces `ngx_reset_pool`.
unsafe extern "C" fn reset(pool: *mut c_void) {
    keep_errno(|| {
        // SAFETY: the caller passed a live pool (1) of the verified layout (5).
        counted(|pools| pools.reset(pool as usize, || unsafe { size(pool as usize) }));
    });
    // SAFETY: the pool is the caller's argument (1), and the original is set (2).
    unsafe { std::mem::transmute::<*mut c_void, Destroy>(RESET.load(Relaxed))(pool) }
}

/// Replaces `ngx_pfree`.
pub(super) unsafe extern "C" fn give_back(pool: *mut c_void, given: *mut c_void) -> isize {
    // SAFETY: the caller passed a live pool (1) of the verified layout (5).
    keep_errno(|| counted(|pools| unsafe { look(pools, pool as usize, given as usize) }));
    // SAFETY: the arguments are the caller's (1), and the original is set (2).
    unsafe { std::mem::transmute::<*mut c_void, GiveBack>(PFREE.load(Relaxed))(pool, given) }
}

/// Measures a pool that may be about to free a large allocation.
///
/// # Safety
///
/// `pool` is a live pool, and this is the main thread.
unsafe fn look(pools: &mut PoolTally, pool: usize, given: usize) {
    // SAFETY: the pool is live, by contract, and has the verified layout (5).
    let header = unsafe { header(pool) };
    if header.large == 0 {
        return;
    }
    let Some(creator) = pools.creator_of(pool) else { return };
    let place = (pool as u32).wrapping_mul(FACTOR) >> (u32::BITS - PLACES.trailing_zeros());
    // SAFETY: only this function uses the gauges, on the main thread, and nothing that it calls
    // calls it (3).
    let Some(gauge) = (unsafe { &mut *GAUGES.0.get() }).get_mut(place as usize) else { return };
    if !pools.has_given_back(pool) {
        gauge.forget(pool);
    }
    // SAFETY: the pool is live (4) and has the verified layout (5). The gauge was measured on this
    // pool after its creation or last reset, or was cleared above (4).
    if let Some(size) = unsafe { gauge.measure(pool, given) } {
        pools.gives_back(pool, creator, size, header.end.wrapping_sub(pool) as u64);
    }
}

/// Runs `count` if this is the main thread. Otherwise notes that another thread uses pools.
#[inline(always)]
fn counted(count: impl FnOnce(&mut PoolTally)) {
    if thread_pointer() == MAIN.load(Relaxed) {
        // SAFETY: this is the main thread, and `count` calls no pool function (3).
        count(unsafe { &mut *POOLS.0.get() });
    } else {
        ELSEWHERE.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests;

//! The hooks on `ngx_create_pool`, `ngx_destroy_pool` and `ngx_reset_pool`: which pools are live,
//! and where in the code they were created. And that on `ngx_pfree`, before which a pool is as large as it
//! will not be again.
//!
//! What the unsafe code below relies on:
//!
//! 1. The hooks have the types of their functions, and are called with arguments good for them.
//! 2. The originals are set before the first call of a hook ([`engine`]).
//! 3. [`POOLS`] is used on the main thread only (its thread pointer is remembered, and a fork keeps
//!    it), by one function at a time: what a hook does with it calls no pool function, and what
//!    [`with`] does neither.
//! 4. A pool in [`POOLS`] is live, as long as every end of a pool is seen: nothing is recorded before
//!    the hooks are in place ([`ON`]), all is forgotten when they are not any more, and none is told
//!    once another thread has used a pool.
//! 5. The layout of pools is that of [`abi::pool`](crate::abi::pool): [`check`] found it so.
//!
//! The commonest calls are dealt with by [`arch::pool`](super::arch::pool), in as few instructions as
//! can be. The rest comes to [`created`], [`destroy`], [`destroy_sized`], [`reset`] and [`give_back`].

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
use crate::tally::pools::{tick, Created, Look, Nursery, Origin, Pools, FACTOR};

type Create = unsafe extern "C" fn(size: usize, log: *mut c_void) -> *mut c_void;
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

/// Without this one the rest is known still.
static GIVING_BACK: [Target; 1] =
    [Target { symbol: c"ngx_pfree", hook: || memstat_pfree as *const c_void, original: &PFREE }];

struct OfMainThread<T>(UnsafeCell<T>);

// SAFETY: 3.
unsafe impl<T> Sync for OfMainThread<T> {}

static POOLS: OfMainThread<Pools> = OfMainThread(UnsafeCell::new(Pools::new(&NURSERY)));

/// The pools that gave back large allocations last, by their place.
static GAUGES: OfMainThread<[Gauge; PLACES]> =
    OfMainThread(UnsafeCell::new([const { Gauge::NONE }; PLACES]));

/// How many pools are measured at a time, at most: a power of 2.
const PLACES: usize = 16;

/// Why `ngx_pfree` is not hooked.
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

/// Hooks the three functions. Hooks that are in place stay, and so does what they have counted.
///
/// Call it on the main thread, with the module pinned (see [`super::pin`]).
pub fn install() -> Result<(), Refusal> {
    let clock = symbol::address(c"ngx_current_msec");
    let clock = clock.ok_or_else(|| Refusal::Unresolved { symbol: "ngx_current_msec".into() })?;
    CLOCK.store(clock as *mut usize, Relaxed);
    MAIN.store(thread_pointer(), Relaxed);
    // SAFETY: the hooks have the functions' types; nginx and the pinned module stay.
    let installed = unsafe { engine::install(&TARGETS, trial) };
    match installed {
        // What was counted with some of the hooks in place is not to be trusted.
        Ok(()) if !ON.swap(true, Relaxed) => {
            let _ = with(Pools::forget);
        }
        Ok(()) => {}
        Err(_) => forget(),
    }
    if installed.is_ok() {
        NURSERY.begin();
        // SAFETY: as above.
        let refused = unsafe { engine::install(&GIVING_BACK, trial_of_giving_back) }.err();
        *PFREE_REFUSED.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }
    installed
}

/// Why the largest size of a pool may not be known, while pools are: it is then what was seen at its
/// end, at a reset or in a reply.
pub fn peaks_refused() -> Option<Refusal> {
    PFREE_REFUSED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// In a child, where the hooks are in place.
fn trial() -> Result<(), Refusal> {
    ON.store(true, Relaxed);
    check::check()
}

/// In a child, where the hook on `ngx_pfree` is in place too.
fn trial_of_giving_back() -> Result<(), Refusal> {
    ON.store(true, Relaxed);
    check::check_giving_back()
}

/// Takes the hooks out, and forgets the pools.
///
/// Call it on the main thread.
pub fn uninstall() -> Result<(), Refusal> {
    engine::uninstall(&GIVING_BACK)?;
    engine::uninstall(&TARGETS)?;
    forget();
    Ok(())
}

fn forget() {
    let _ = with(Pools::forget);
    ON.store(false, Relaxed);
}

/// Uses what is known of this process's pools; why that is not possible.
pub fn with<T>(use_it: impl FnOnce(&mut Pools) -> T) -> Result<T, &'static str> {
    if !ON.load(Relaxed) {
        return Err("the hooks are not in place");
    }
    if thread_pointer() != MAIN.load(Relaxed) {
        return Err("this is not the main thread");
    }
    if ELSEWHERE.load(Relaxed) {
        return Err("other threads of this process use pools too");
    }
    // SAFETY: 3.
    Ok(use_it(unsafe { &mut *POOLS.0.get() }))
}

/// Records the pool of a cycle. One that is older than the hooks is said to be from `creator`, an
/// exported function, and as old as this call.
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

/// The time in the unit in which pools have theirs.
pub fn now() -> u32 {
    tick(milliseconds())
}

fn milliseconds() -> usize {
    // SAFETY: `ngx_current_msec` is a word of nginx's data, written by whole words.
    unsafe { CLOCK.load(Relaxed).as_ref() }.copied().unwrap_or(0)
}

/// A pool, or null, was created by a call that returns to an address. Returns the pool.
pub(super) unsafe extern "C" fn created(pool: *mut c_void, caller: usize) -> *mut c_void {
    if !pool.is_null() {
        // SAFETY: 1, 5: it has one block.
        let size = unsafe { header(pool as usize) }.end.wrapping_sub(pool as usize);
        let mark = caller.wrapping_add(thread_pointer());
        let created = Created { pool: pool as usize, mark, size, at: milliseconds() };
        keep_errno(|| counted(|pools| record(pools, &created, caller)));
    }
    pool
}

fn record(pools: &mut Pools, created: &Created, caller: usize) {
    let creator = match pools.creator(caller) {
        Some(creator) => creator,
        None => pools.add_creator(caller, origin::of(caller), created.size).unwrap_or(usize::MAX),
    };
    if pools.created(created, creator) == Look::Again {
        pools.looked(creator, origin::of(caller));
    }
}

/// Stands in for `ngx_destroy_pool`.
pub(super) unsafe extern "C" fn destroy(pool: *mut c_void) {
    // SAFETY: 1, 5.
    unsafe { destroy_sized(pool, size(pool as usize)) }
}

/// The same, for a pool of this size.
pub(super) unsafe extern "C" fn destroy_sized(pool: *mut c_void, size: u64) {
    counted(|pools| pools.destroyed(pool as usize, size));
    // SAFETY: 1, 2.
    unsafe { std::mem::transmute::<*mut c_void, Destroy>(DESTROY.load(Relaxed))(pool) }
}

/// Stands in for `ngx_reset_pool`.
unsafe extern "C" fn reset(pool: *mut c_void) {
    keep_errno(|| {
        // SAFETY: 1, 5.
        counted(|pools| pools.reset(pool as usize, || unsafe { size(pool as usize) }));
    });
    // SAFETY: 1, 2.
    unsafe { std::mem::transmute::<*mut c_void, Destroy>(RESET.load(Relaxed))(pool) }
}

/// Stands in for `ngx_pfree`.
pub(super) unsafe extern "C" fn give_back(pool: *mut c_void, given: *mut c_void) -> isize {
    // SAFETY: 1, 5.
    keep_errno(|| counted(|pools| unsafe { look(pools, pool as usize, given as usize) }));
    // SAFETY: 1, 2.
    unsafe { std::mem::transmute::<*mut c_void, GiveBack>(PFREE.load(Relaxed))(pool, given) }
}

/// Looks at a pool that may be about to give back a large allocation.
///
/// # Safety
///
/// `pool` is a pool, and this is the main thread.
unsafe fn look(pools: &mut Pools, pool: usize, given: usize) {
    // SAFETY: 5.
    let header = unsafe { header(pool) };
    if header.large == 0 {
        return;
    }
    let Some(creator) = pools.creator_of(pool) else { return };
    let place = (pool as u32).wrapping_mul(FACTOR) >> (u32::BITS - PLACES.trailing_zeros());
    // SAFETY: 3: only this function uses it, and it is not called by what it calls.
    let Some(gauge) = (unsafe { &mut *GAUGES.0.get() }).get_mut(place as usize) else { return };
    if !pools.has_given_back(pool) {
        gauge.forget(pool);
    }
    // SAFETY: 4, 5; what was measured is of this pool since it was created or reset last.
    if let Some(size) = unsafe { gauge.measure(pool, given) } {
        pools.gives_back(pool, creator, size, header.end.wrapping_sub(pool) as u64);
    }
}

/// Counts something on the main thread. On another one it is remembered that there are such.
#[inline(always)]
fn counted(count: impl FnOnce(&mut Pools)) {
    if thread_pointer() == MAIN.load(Relaxed) {
        // SAFETY: 3.
        count(unsafe { &mut *POOLS.0.get() });
    } else {
        ELSEWHERE.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests;

//! The trial of the hooks on the pool allocator. It verifies the layout of pools, and that the
//! hooks count. It runs in a child process, with the hooks in place there.
//!
//! What the unsafe code below relies on:
//!
//! 1. The functions have the types that nginx has documented since they exist, and get valid
//!    arguments. If they have other types, only the child can crash.
//! 2. A log of zeroes logs nothing, because nginx checks its level first.
//! 3. The pool is live and has the expected layout, once its header was compared with the expected
//!    one.

use std::ffi::{c_void, CStr};

use super::{with, CreatePool, Destroy, GiveBack};
use crate::abi::pool;
use crate::abi::pool::{header, held, PoolHeader, FRONT};
use crate::hook::refusal::Refusal;
use crate::sys::symbol;

/// The size of the pool in the trial, in bytes.
const SIZE: usize = 1024;

/// The size of a large allocation in bytes: more than fits into the pool.
const LARGE: usize = 5000;

type PoolAlloc = unsafe extern "C" fn(pool: *mut c_void, size: usize) -> *mut c_void;

/// Creates, uses, resets and destroys a pool, and checks its structures and the hooks' counts.
pub fn check() -> Result<(), Refusal> {
    let log = [0u64; 64];
    let log = log.as_ptr() as usize;
    // SAFETY: the function has this type (1).
    let create: CreatePool = unsafe { std::mem::transmute(function(c"ngx_create_pool")?) };
    // SAFETY: the function has this type (1).
    let alloc: PoolAlloc = unsafe { std::mem::transmute(function(c"ngx_palloc")?) };
    // SAFETY: the function has this type (1).
    let reset: Destroy = unsafe { std::mem::transmute(function(c"ngx_reset_pool")?) };
    // SAFETY: the function has this type (1).
    let destroy: Destroy = unsafe { std::mem::transmute(function(c"ngx_destroy_pool")?) };

    // SAFETY: the function has this type (1), and the log logs nothing (2).
    let pool = unsafe { create(SIZE, log as *mut c_void) } as usize;
    // SAFETY: whatever the layout is, a pool of this size is longer than a header (1).
    let fresh = unsafe { header(pool) };
    let expected = PoolHeader {
        last: pool + size_of::<PoolHeader>(),
        end: pool + SIZE,
        next: 0,
        failed: 0,
        max: SIZE - size_of::<PoolHeader>(),
        current: pool,
        chain: 0,
        large: 0,
        cleanup: 0,
        log,
    };
    is_so(fresh == expected)?;
    // SAFETY: the function has this type, and its arguments are valid (1).
    let large = unsafe { alloc(pool as *mut c_void, LARGE) } as usize;
    // SAFETY: the header is as expected, so `large` is a list (3).
    let first = unsafe { pool::large(header(pool).large) }.next();
    is_so(first.is_some_and(|first| first.address == large))?;
    // SAFETY: the pool is live and has this layout (3).
    let held = unsafe { held(pool) };
    is_so(held.large_count == 1 && (LARGE as u64..2 * LARGE as u64).contains(&held.large_bytes))?;
    is_so(held.bytes == SIZE as u64)?;

    let creator = counted(pool).ok_or(Refusal::Layout)?;
    // SAFETY: the function has this type, and its arguments are valid (1).
    unsafe { reset(pool as *mut c_void) };
    // SAFETY: the pool is live, and not used afterwards (1).
    unsafe { destroy(pool as *mut c_void) };
    let counts = with(|pools| {
        pools.settle();
        pools.creators().get(creator).map(|c| (c.created(), c.reset, c.live))
    });
    is_so(counts == Ok(Some((1, 1, 0))) && counted(pool).is_none())
}

/// Creates a pool, frees large allocations of it, and checks that the hook measured it before.
pub fn check_giving_back() -> Result<(), Refusal> {
    let log = [0u64; 64];
    let log = log.as_ptr() as usize;
    // SAFETY: the function has this type (1).
    let create: CreatePool = unsafe { std::mem::transmute(function(c"ngx_create_pool")?) };
    // SAFETY: the function has this type (1).
    let alloc: PoolAlloc = unsafe { std::mem::transmute(function(c"ngx_palloc")?) };
    // SAFETY: the function has this type (1).
    let give_back: GiveBack = unsafe { std::mem::transmute(function(c"ngx_pfree")?) };
    // SAFETY: the function has this type (1), and the log logs nothing (2).
    let pool = unsafe { create(SIZE, log as *mut c_void) };
    let creator = counted(pool as usize).ok_or(Refusal::Layout)?;
    // SAFETY: the function has this type, and its arguments are valid (1).
    let allocated: Vec<_> = (0..=FRONT).map(|_| unsafe { alloc(pool, LARGE) }).collect();
    // SAFETY: the pool is live, and `check` verified the layout (3).
    let before = unsafe { held(pool as usize) };
    let first = *allocated.first().ok_or(Refusal::Layout)?;
    // SAFETY: the function has this type, and its arguments are valid (1).
    is_so(unsafe { give_back(pool, first) } == 0)?;
    let peak = with(|pools| pools.creators().get(creator).map(|creator| creator.peak));
    is_so(before.large_count == allocated.len() as u64 && peak == Ok(Some(before.size())))?;
    // SAFETY: the pool is live, and `check` verified the layout (3).
    is_so(unsafe { held(pool as usize) }.large_count + 1 == before.large_count)?;
    // Its place in the list is behind the places that nginx fills again, so a new allocation gets a
    // new place at the head.
    // SAFETY: the function has this type, and its arguments are valid (1).
    let new = unsafe { alloc(pool, LARGE) } as usize;
    // SAFETY: the pool is live, and `check` verified the layout (3).
    let head = unsafe { pool::large(header(pool as usize).large) }.next();
    is_so(head.is_some_and(|head| head.address == new))
}

/// Returns the creator of a pool, if the pool is live and counted.
fn counted(pool: usize) -> Option<usize> {
    with(|pools| pools.find(pool).map(|pool| pool.creator)).ok().flatten()
}

fn function(name: &CStr) -> Result<usize, Refusal> {
    let missing = || Refusal::Unresolved { symbol: name.to_string_lossy().into_owned() };
    symbol::address(name).ok_or_else(missing)
}

fn is_so(is: bool) -> Result<(), Refusal> {
    if is {
        Ok(())
    } else {
        Err(Refusal::Layout)
    }
}

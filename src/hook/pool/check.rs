//! Whether pools are as this module takes them to be: run in a child process, with the hooks in
//! place there.
//!
//! What the unsafe code below relies on:
//!
//! 1. The functions have the types that nginx has documented since they exist. Where they do not,
//!    the child may die of it, and nothing else happens.
//! 2. A log of zeroes is one that logs nothing: nginx asks for its level first.

use std::ffi::{c_void, CStr};

use super::{with, Create, Destroy, GiveBack};
use crate::abi::pool;
use crate::abi::pool::{header, held, Header, FRONT};
use crate::hook::refusal::Refusal;
use crate::sys::symbol;

/// The size of the pool that is tried.
const SIZE: usize = 1024;

/// More than fits into such a pool.
const LARGE: usize = 5000;

type Alloc = unsafe extern "C" fn(pool: *mut c_void, size: usize) -> *mut c_void;

/// Creates, uses, resets and destroys a pool, and looks at it and at what was counted meanwhile.
pub fn check() -> Result<(), Refusal> {
    let log = [0u64; 64];
    let log = log.as_ptr() as usize;
    // SAFETY: 1.
    let create: Create = unsafe { std::mem::transmute(function(c"ngx_create_pool")?) };
    // SAFETY: 1.
    let alloc: Alloc = unsafe { std::mem::transmute(function(c"ngx_palloc")?) };
    // SAFETY: 1.
    let reset: Destroy = unsafe { std::mem::transmute(function(c"ngx_reset_pool")?) };
    // SAFETY: 1.
    let destroy: Destroy = unsafe { std::mem::transmute(function(c"ngx_destroy_pool")?) };

    // SAFETY: 1, 2.
    let pool = unsafe { create(SIZE, log as *mut c_void) } as usize;
    // SAFETY: whatever the layout is, a pool of this size is longer than a header.
    let fresh = unsafe { header(pool) };
    let expected = Header {
        last: pool + size_of::<Header>(),
        end: pool + SIZE,
        next: 0,
        failed: 0,
        max: SIZE - size_of::<Header>(),
        current: pool,
        chain: 0,
        large: 0,
        cleanup: 0,
        log,
    };
    is_so(fresh == expected)?;
    // SAFETY: 1.
    let large = unsafe { alloc(pool as *mut c_void, LARGE) } as usize;
    // SAFETY: the header is as expected, so `large` is a list.
    let first = unsafe { pool::large(header(pool).large) }.next();
    is_so(first.is_some_and(|first| first.address == large))?;
    // SAFETY: a live pool of this layout.
    let held = unsafe { held(pool) };
    is_so(held.large_count == 1 && (LARGE as u64..2 * LARGE as u64).contains(&held.large_bytes))?;
    is_so(held.bytes == SIZE as u64)?;

    let creator = counted(pool).ok_or(Refusal::Layout)?;
    // SAFETY: 1.
    unsafe { reset(pool as *mut c_void) };
    // SAFETY: 1; it is not used afterwards.
    unsafe { destroy(pool as *mut c_void) };
    let counts = with(|pools| {
        pools.settle();
        pools.creators().get(creator).map(|c| (c.created(), c.reset, c.live))
    });
    is_so(counts == Ok(Some((1, 1, 0))) && counted(pool).is_none())
}

/// Creates a pool, has it give back large allocations, and looks at what was seen before.
pub fn check_giving_back() -> Result<(), Refusal> {
    let log = [0u64; 64];
    let log = log.as_ptr() as usize;
    // SAFETY: 1.
    let create: Create = unsafe { std::mem::transmute(function(c"ngx_create_pool")?) };
    // SAFETY: 1.
    let alloc: Alloc = unsafe { std::mem::transmute(function(c"ngx_palloc")?) };
    // SAFETY: 1.
    let give_back: GiveBack = unsafe { std::mem::transmute(function(c"ngx_pfree")?) };
    // SAFETY: 1, 2.
    let pool = unsafe { create(SIZE, log as *mut c_void) };
    let creator = counted(pool as usize).ok_or(Refusal::Layout)?;
    // SAFETY: 1.
    let allocated: Vec<_> = (0..=FRONT).map(|_| unsafe { alloc(pool, LARGE) }).collect();
    // SAFETY: the layout is as expected: `check` found it so.
    let before = unsafe { held(pool as usize) };
    let first = *allocated.first().ok_or(Refusal::Layout)?;
    // SAFETY: 1.
    is_so(unsafe { give_back(pool, first) } == 0)?;
    let peak = with(|pools| pools.creators().get(creator).map(|creator| creator.peak));
    is_so(before.large_count == allocated.len() as u64 && peak == Ok(Some(before.size())))?;
    // SAFETY: as above.
    is_so(unsafe { held(pool as usize) }.large_count + 1 == before.large_count)?;
    // Its place in the list is behind those that are filled again.
    // SAFETY: 1.
    let new = unsafe { alloc(pool, LARGE) } as usize;
    // SAFETY: as above.
    let head = unsafe { pool::large(header(pool as usize).large) }.next();
    is_so(head.is_some_and(|head| head.address == new))
}

/// The creator of a pool, if it is live.
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

//! The shared memory zone of this module.
//!
//! Invariants for `unsafe`: those of [`super`], and **B1** of [`crate::scoreboard`].

use std::ffi::c_void;

use nginx_sys::{
    ngx_int_t, ngx_module_t, ngx_shared_memory_add, ngx_shm_zone_t, ngx_slab_alloc,
    ngx_slab_page_t, ngx_slab_pool_t, ngx_str_t, NGX_ERROR, NGX_OK,
};

use super::conf::Conf;
use crate::scoreboard::{Board, MAX_SLOTS};

/// The name of the zone.
const NAME: &str = "memstat";

const PAGE: usize = 4096;

/// Returns the size of a zone, in bytes, that holds `slots` slots: these, a descriptor for each
/// of their pages, and the header that nginx puts in front.
pub const fn zone_size(slots: usize) -> usize {
    let pages = Board::bytes(slots).div_ceil(PAGE);
    let size = pages * (PAGE + std::mem::size_of::<ngx_slab_page_t>()) + 4 * PAGE;
    size.next_multiple_of(16 * PAGE)
}

/// Returns how many slots a zone of this size holds.
pub fn slots_of(size: usize) -> usize {
    (1..=MAX_SLOTS).take_while(|slots| zone_size(*slots) <= size).last().unwrap_or(0)
}

/// The number of slots in a zone whose size is not configured. It costs mainly address space: a
/// slot that no process claims is not touched, and nginx writes a descriptor of 24 bytes for each
/// of its pages.
pub const DEFAULT_SLOTS: usize = 512;

/// The zone in a cycle's configuration.
#[derive(Debug, Clone, Copy)]
pub struct ShmZone(*mut ngx_shm_zone_t);

impl ShmZone {
    /// Adds the zone to the configuration that nginx reads. Returns `None` if that fails (nginx
    /// logs why).
    pub fn add(cf: &Conf, size: usize, module: &'static ngx_module_t) -> Option<Self> {
        let mut name = ngx_str_t { len: NAME.len(), data: NAME.as_ptr().cast_mut() };
        let tag: *const ngx_module_t = module;
        // SAFETY: nginx reads a configuration, and keeps the pointer to the name, which is static
        // (N3).
        let zone =
            unsafe { ngx_shared_memory_add(cf.as_ptr(), &mut name, size, tag.cast_mut().cast()) };
        // SAFETY: the zone is null or lies in the cycle's pool (N4).
        unsafe { zone.as_mut() }?.init = Some(init);
        Some(ShmZone(zone))
    }

    /// Sets the size in bytes. To be called before nginx creates the zone.
    pub fn set_size(&self, size: usize) {
        // SAFETY: the zone lies in the cycle's pool, and only this thread uses it (N1, N4).
        unsafe { (*self.0).shm.size = size };
    }

    /// Returns the board in the zone, or `None` if nginx has not created the zone yet.
    pub fn board(&self) -> Option<Board> {
        // SAFETY: the zone lies in the cycle's pool (N4).
        let zone = unsafe { &*self.0 };
        let slots = slots_of(zone.shm.size);
        // SAFETY: `init` put memory for `slots` slots there, aligned to a page. The mapping lives
        // as long as every process that is forked while the cycle lives, and the master checks that
        // its cycle is still that of the board before it uses the board (B1).
        (!zone.data.is_null()).then(|| unsafe { Board::from_raw(zone.data.cast(), slots) })
    }
}

/// Called when nginx has created the zone, or kept it from the previous cycle. `old` is then the
/// zone's data.
unsafe extern "C" fn init(zone: *mut ngx_shm_zone_t, old: *mut c_void) -> ngx_int_t {
    // SAFETY: nginx passes a valid zone (N3).
    let zone = unsafe { &mut *zone };
    if !old.is_null() {
        zone.data = old;
        return NGX_OK as ngx_int_t;
    }
    let pool: *mut ngx_slab_pool_t = zone.shm.addr.cast();
    // SAFETY: nginx has put a slab pool at the start of the zone (N3).
    let memory = unsafe { ngx_slab_alloc(pool, Board::bytes(slots_of(zone.shm.size))) };
    if memory.is_null() {
        return NGX_ERROR as ngx_int_t;
    }
    zone.data = memory;
    NGX_OK as ngx_int_t
}

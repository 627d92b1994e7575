//! The module's shared memory zone.

use std::ffi::c_void;

use nginx_sys::{
    ngx_int_t, ngx_module_t, ngx_shared_memory_add, ngx_shm_zone_t, ngx_slab_alloc,
    ngx_slab_page_t, ngx_slab_pool_t, ngx_str_t, NGX_ERROR, NGX_OK,
};

use super::conf::Conf;
use crate::scoreboard::{Board, MAX_SLOTS};

/// The zone's name.
const NAME: &str = "memstat";

const PAGE: usize = 4096;

/// The size of a zone that holds so many slots: the slots, a page's descriptor for each of their
/// pages, and what nginx puts in front.
pub const fn zone_size(slots: usize) -> usize {
    let pages = Board::bytes(slots).div_ceil(PAGE);
    let size = pages * (PAGE + std::mem::size_of::<ngx_slab_page_t>()) + 4 * PAGE;
    size.next_multiple_of(16 * PAGE)
}

/// How many slots a zone of this size holds.
pub fn slots_of(size: usize) -> usize {
    (1..=MAX_SLOTS).take_while(|slots| zone_size(*slots) <= size).last().unwrap_or(0)
}

/// How many slots a zone has that nobody gave a size. It is address space: a slot that no process
/// claims is not touched, and nginx writes a descriptor of 24 bytes for each of its pages.
pub const DEFAULT_SLOTS: usize = 512;

/// The zone as the cycle has it.
#[derive(Debug, Clone, Copy)]
pub struct Zone(*mut ngx_shm_zone_t);

impl Zone {
    /// Adds the zone to the configuration being read; `None` when that fails (nginx logs why).
    pub fn add(cf: &Conf, size: usize, module: &'static ngx_module_t) -> Option<Self> {
        let mut name = ngx_str_t { len: NAME.len(), data: NAME.as_ptr().cast_mut() };
        let tag: *const ngx_module_t = module;
        // SAFETY: N3; nginx keeps the name's pointer, which is static.
        let zone =
            unsafe { ngx_shared_memory_add(cf.as_ptr(), &mut name, size, tag.cast_mut().cast()) };
        // SAFETY: N4: a zone lies in the cycle's pool.
        unsafe { zone.as_mut() }?.init = Some(init);
        Some(Zone(zone))
    }

    /// Sets the size, before nginx makes the zone.
    pub fn set_size(&self, size: usize) {
        // SAFETY: N4, N1.
        unsafe { (*self.0).shm.size = size };
    }

    /// The board in the zone; `None` before nginx made it.
    pub fn board(&self) -> Option<Board> {
        // SAFETY: N4.
        let zone = unsafe { &*self.0 };
        let slots = slots_of(zone.shm.size);
        // SAFETY: B1: `init` put memory for as many slots there, aligned to a page; the mapping
        // stays for the life of every process that is forked while the cycle lives, and the master
        // looks whether its cycle is still that of the board before it uses it.
        (!zone.data.is_null()).then(|| unsafe { Board::from_raw(zone.data.cast(), slots) })
    }
}

/// nginx made the zone, or kept it from the cycle before (`old` is then its data).
unsafe extern "C" fn init(zone: *mut ngx_shm_zone_t, old: *mut c_void) -> ngx_int_t {
    // SAFETY: N3.
    let zone = unsafe { &mut *zone };
    if !old.is_null() {
        zone.data = old;
        return NGX_OK as ngx_int_t;
    }
    let pool: *mut ngx_slab_pool_t = zone.shm.addr.cast();
    // SAFETY: N3: nginx has put a slab pool at the start of the zone.
    let memory = unsafe { ngx_slab_alloc(pool, Board::bytes(slots_of(zone.shm.size))) };
    if memory.is_null() {
        return NGX_ERROR as ngx_int_t;
    }
    zone.data = memory;
    NGX_OK as ngx_int_t
}

//! nginx's shared memory zones, and the layout of its slab pools.
//!
//! Invariants for `unsafe`, in addition to those of [`super`]:
//!
//! - **Z1** The pool of the trial lies in memory that [`hook::check`] allocated, aligned to a page.
//!   nginx's slab functions use it like a zone.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::mem::{offset_of, size_of};
use std::ops::Range;

use nginx_sys::{
    ngx_connection_counter, ngx_cycle, ngx_cycle_t, ngx_list_part_t, ngx_shm_t, ngx_shm_zone_t,
    ngx_shmtx_create, ngx_slab_init, ngx_slab_page_t, ngx_slab_pool_t, ngx_slab_stat_t, NGX_OK,
};

use crate::abi::slab::{SlabLayout, DESCRIPTOR, STATISTIC};
use crate::hook::refusal::Refusal;
use crate::hook::slab::{self as hook, Shm};
use crate::probe::zones::ZoneMapping;
use crate::report::model::named::name;
use crate::sys::pagemap::page_size;
use crate::tally::mappings::SharedMapping;

/// The layout of a slab pool in this nginx.
pub const LAYOUT: SlabLayout = SlabLayout {
    size: size_of::<ngx_slab_pool_t>(),
    min_size: offset_of!(ngx_slab_pool_t, min_size),
    min_shift: offset_of!(ngx_slab_pool_t, min_shift),
    pages: offset_of!(ngx_slab_pool_t, pages),
    last: offset_of!(ngx_slab_pool_t, last),
    stats: offset_of!(ngx_slab_pool_t, stats),
    pfree: offset_of!(ngx_slab_pool_t, pfree),
    start: offset_of!(ngx_slab_pool_t, start),
    end: offset_of!(ngx_slab_pool_t, end),
    addr: offset_of!(ngx_slab_pool_t, addr),
};

const _: () = {
    assert!(size_of::<ngx_slab_page_t>() == DESCRIPTOR);
    assert!(size_of::<ngx_slab_stat_t>() == STATISTIC);
    assert!(offset_of!(ngx_slab_page_t, slab) == 0);
    assert!(offset_of!(ngx_slab_page_t, next) == 8);
    assert!(offset_of!(ngx_slab_page_t, prev) == 16);
    assert!(offset_of!(ngx_slab_stat_t, total) == 0);
    assert!(offset_of!(ngx_slab_stat_t, used) == 8);
    assert!(offset_of!(ngx_slab_stat_t, reqs) == 16);
    assert!(offset_of!(ngx_slab_stat_t, fails) == 24);
    assert!(offset_of!(ngx_shm_t, addr) == offset_of!(Shm, addr));
    assert!(offset_of!(ngx_shm_t, size) == offset_of!(Shm, size));
    assert!(offset_of!(ngx_shm_t, name) == offset_of!(Shm, name_len));
    assert!(offset_of!(ngx_shm_t, name) + 8 == offset_of!(Shm, name_data));
    assert!(offset_of!(ngx_shm_t, log) == offset_of!(Shm, log));
    assert!(size_of::<ngx_shm_t>() <= size_of::<Shm>() + 32);
};

/// The name of the mapping with the counters of nginx's core, as nginx has it.
const COUNTERS: &str = "nginx_shared_zone";

/// The name of the mapping with the counters of this module.
const OWN_COUNTERS: &str = "memstat_counters";

/// Returns the zones of a cycle.
///
/// # Safety
///
/// The cycle is valid, and stays valid while the iterator lives.
unsafe fn zones_of(cycle: *const ngx_cycle_t) -> impl Iterator<Item = &'static ngx_shm_zone_t> {
    // SAFETY: the cycle is valid by contract. It contains the list's first part, and its pool the
    // others (N4).
    let first: Option<&ngx_list_part_t> = unsafe { cycle.as_ref() }.map(|c| &c.shared_memory.part);
    // SAFETY: each further part is null or lies in the cycle's pool (N4).
    let parts = std::iter::successors(first, |part| unsafe { part.next.as_ref() });
    let zones = parts.flat_map(|part| {
        let zones: *const ngx_shm_zone_t = part.elts.cast();
        // SAFETY: a part holds `nelts` zones (N4).
        (0..part.nelts).map(move |i| unsafe { &*zones.add(i) })
    });
    zones.filter(|zone| !zone.shm.addr.is_null())
}

/// Passes the zones of a loaded cycle to the hook.
///
/// # Safety
///
/// `cycle` is the pointer that nginx passed to `init_module`.
pub unsafe fn loaded(cycle: *const ngx_cycle_t, generation: u64) {
    // SAFETY: nginx passes a valid cycle, by contract (N3).
    let zones = unsafe { zones_of(cycle) };
    let zones: Vec<_> = zones
        .map(|zone| (zone.shm.name.as_bytes().to_vec(), zone.shm.addr as usize, zone.shm.size))
        .collect();
    hook::loaded(generation, &zones);
}

/// Returns nginx's shared mappings in this process: the zones of the cycle, further mappings that
/// the hook has seen, the counters of nginx's core, and those of this module. No two have the same
/// name.
pub fn mappings() -> Vec<ZoneMapping> {
    let mut found = FoundZones::default();
    let seen = hook::mappings();
    let by_address: HashMap<usize, &SharedMapping> = seen.iter().map(|m| (m.address, m)).collect();
    // SAFETY: a pointer that nginx has set (N2).
    let cycle = unsafe { ngx_cycle };
    // SAFETY: the cycle lives until the next one begins, on this thread (N2).
    for zone in unsafe { zones_of(cycle) } {
        let (start, size) = (zone.shm.addr as usize, zone.shm.size);
        let seen = by_address.get(&start).filter(|mapping| mapping.size == size);
        found.add(ZoneMapping {
            name: name(zone.shm.name.as_bytes()),
            owner: owner(zone),
            range: start..start.saturating_add(size),
            is_zone: true,
            seen: seen.map(|mapping| (*mapping).clone()),
        });
    }
    for mapping in &seen {
        let range = mapping.address..mapping.address.saturating_add(mapping.size);
        found.add(other(name(&mapping.name), range, Some(mapping.clone())));
    }
    // SAFETY: a pointer that nginx has set, and that is not followed (N2).
    let counters = unsafe { ngx_connection_counter } as usize;
    // The counters take less than a page, in a mapping of their own.
    let start = counters / page_size() * page_size();
    if start != 0 {
        found.add(other(COUNTERS.to_owned(), start..start + page_size(), None));
    }
    if let Some(range) = hook::masters_range() {
        let owner = Ok("ngx_memstat_module".to_owned());
        found.add(ZoneMapping { owner, ..other(OWN_COUNTERS.to_owned(), range, None) });
    }
    found.mappings
}

/// The mappings found so far, with their addresses and names.
#[derive(Default)]
struct FoundZones {
    mappings: Vec<ZoneMapping>,
    starts: HashSet<usize>,
    names: HashSet<String>,
}

impl FoundZones {
    /// Adds a mapping, unless there is one at that address. If the name is taken, the mapping gets
    /// a number after its name.
    fn add(&mut self, mut mapping: ZoneMapping) {
        if !self.starts.insert(mapping.range.start) {
            return;
        }
        let name = mapping.name.clone();
        let mut number = 2;
        while !self.names.insert(mapping.name.clone()) {
            mapping.name = format!("{name}#{number}");
            number += 1;
        }
        self.mappings.push(mapping);
    }
}

/// Returns a mapping that is no zone of the cycle.
fn other(name: String, range: Range<usize>, seen: Option<SharedMapping>) -> ZoneMapping {
    let owner = Err("the mapping is no zone of a module".to_owned());
    ZoneMapping { name, owner, range, is_zone: false, seen }
}

/// Returns the module that a zone belongs to. By convention, the zone's tag is the address of its
/// module.
fn owner(zone: &ngx_shm_zone_t) -> Result<String, String> {
    // SAFETY: `modules` points to `modules_n` pointers (N2).
    let modules = unsafe {
        let cycle = &*ngx_cycle;
        std::slice::from_raw_parts(cycle.modules, cycle.modules_n)
    };
    let found = modules.iter().find(|module| module.cast() == zone.tag);
    // SAFETY: the modules of the cycle are loaded, and nginx has given each its name (N2).
    let name = found.and_then(|module| unsafe { module.as_ref() }).map(|module| module.name);
    match name.filter(|name| !name.is_null()) {
        // SAFETY: the name is a C string (N2).
        Some(name) => Ok(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()),
        None => Err("the zone's tag is not the address of a module".to_owned()),
    }
}

/// Tries the hooks on the slab allocator, see [`hook::check`]. To be called in a child process.
pub fn check() -> Result<(), Refusal> {
    hook::check(&LAYOUT, make_pool)
}

/// Makes a slab pool in zeroed memory, as nginx makes one in a zone. Returns whether that succeeded.
///
/// # Safety
///
/// `start` points to this number of zeroed bytes (Z1).
unsafe fn make_pool(start: *mut u8, bytes: usize) -> bool {
    let pool: *mut ngx_slab_pool_t = start.cast();
    // SAFETY: these are the fields that nginx itself sets before it initialises a pool (Z1).
    unsafe {
        (*pool).end = start.add(bytes);
        (*pool).min_shift = 3;
        (*pool).addr = start.cast();
        let created = ngx_shmtx_create(&mut (*pool).mutex, &mut (*pool).lock, std::ptr::null_mut());
        if created != NGX_OK as isize {
            return false;
        }
        ngx_slab_init(pool);
        (*pool).set_log_nomem(0);
    }
    true
}

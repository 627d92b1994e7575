//! Reads jemalloc's statistics through its `mallctl`.
//!
//! The figures, in bytes, from jemalloc's manual and source (5.x):
//!
//! - `in_use` is `stats.allocated`: the program's memory and that in its threads' caches.
//! - `free` is `stats.active` minus `stats.allocated`, plus the dirty and muzzy pages of all
//!   arenas.
//! - `reserved` is `stats.mapped`: all of these and the allocator's own data. Address space that it
//!   keeps without pages (`stats.retained`) is part of the virtual size only.
//! - `resident` is `stats.resident`: an upper bound, because pages that were never touched count.
//!
//! Invariants of the unsafe code:
//!
//! 1. `mallctl` has the type in the manual, from 3.0 on.
//! 2. It checks the name, and compares the length of the result with the type behind the name.
//! 3. The version is a constant string of the library.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint, c_void, CStr};

use super::pace::Pace;
use super::symbols::{self, AllocatorObject};
use super::HeapReading;
use crate::report::model::{Allocator, Category, Note};

type Mallctl = extern "C" fn(*const c_char, *mut c_void, *mut usize, *mut c_void, usize) -> c_int;

/// `MALLCTL_ARENAS_ALL` of 5.x.
const ALL: &str = "4096";

/// The probe of jemalloc.
pub struct Jemalloc {
    mallctl: Mallctl,
    version: Option<String>,
    pace: Pace<JemallocFigures>,
}

#[derive(Debug, Clone, Copy)]
struct JemallocFigures {
    allocated: usize,
    active: usize,
    mapped: usize,
    resident: usize,
    retained: Option<usize>,
    /// Dirty and muzzy pages.
    unused: Option<usize>,
    arenas: Option<usize>,
}

impl Jemalloc {
    /// Returns the probe if `object` is jemalloc.
    pub fn of(object: AllocatorObject) -> Option<Jemalloc> {
        // SAFETY: this is the type in the manual (1).
        let mallctl: Mallctl = unsafe {
            match object.function(c"mallctl") {
                Some(mallctl) => mallctl,
                None => object.function(c"je_mallctl")?,
            }
        };
        let mut jemalloc = Jemalloc { mallctl, version: None, pace: Pace::default() };
        let version: Option<*const c_char> = jemalloc.read(c"version", std::ptr::null());
        // SAFETY: `version` points to a constant string (3).
        let version = version.and_then(|version| unsafe { symbols::text(version) });
        // `5.3.0-0-g…`: the release, then the commit.
        jemalloc.version = version.and_then(|version| version.split('-').next().map(str::to_owned));
        Some(jemalloc)
    }

    /// Reads the value of a name, which must have the type `T` (2).
    fn read<T: Copy>(&self, name: &CStr, mut value: T) -> Option<T> {
        let mut size = size_of::<T>();
        let place: *mut T = &mut value;
        let failed =
            (self.mallctl)(name.as_ptr(), place.cast(), &mut size, std::ptr::null_mut(), 0);
        (failed == 0 && size == size_of::<T>()).then_some(value)
    }

    fn size(&self, name: &CStr) -> Option<usize> {
        self.read(name, 0usize)
    }

    fn figures(&self) -> Option<JemallocFigures> {
        let mut epoch = 1u64;
        let place: *mut u64 = &mut epoch;
        let failed = (self.mallctl)(
            c"epoch".as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            place.cast(),
            size_of::<u64>(),
        );
        if failed != 0 {
            return None;
        }
        Some(JemallocFigures {
            allocated: self.size(c"stats.allocated")?,
            active: self.size(c"stats.active")?,
            mapped: self.size(c"stats.mapped")?,
            resident: self.size(c"stats.resident")?,
            retained: self.size(c"stats.retained"),
            unused: self.unused(),
            arenas: self.arenas(),
        })
    }

    fn unused(&self) -> Option<usize> {
        let page = self.size(c"arenas.page")?;
        let pages = |kind: &str| {
            let name = std::ffi::CString::new(format!("stats.arenas.{ALL}.{kind}")).ok()?;
            self.size(&name)
        };
        pages("pdirty")?.checked_add(pages("pmuzzy")?)?.checked_mul(page)
    }

    /// Returns the number of arenas that have been used.
    fn arenas(&self) -> Option<usize> {
        let most = self.read(c"arenas.narenas", 0 as c_uint)?;
        let used = (0..most.min(1024)).filter(|arena| {
            let name = std::ffi::CString::new(format!("arena.{arena}.initialized"));
            // One byte, read as a number, because a `bool` must be 0 or 1.
            name.is_ok_and(|name| self.read(&name, 0u8).is_some_and(|used| used != 0))
        });
        Some(used.count())
    }

    /// Returns the figures; `forced` queries them at any cost.
    pub fn read_all(&mut self, forced: bool) -> HeapReading {
        let mut pace = std::mem::take(&mut self.pace);
        let last = pace.ask(forced, || self.figures());
        let mut notes = Vec::new();
        notes.extend(pace.note("jemalloc"));
        self.pace = pace;
        match last {
            None => notes.push(Note::new("jemalloc: it returned no statistics")),
            Some(_) => notes.push(Note::new(
                "jemalloc: resident is jemalloc's own figure, an upper bound: it includes pages \
                 that were never touched",
            )),
        }
        let figures = last.map(|(figures, _)| figures);
        let of = |field: fn(&JemallocFigures) -> usize| figures.as_ref().map(|f| field(f) as u64);
        let free = figures.and_then(|f| {
            f.active.checked_sub(f.allocated)?.checked_add(f.unused?).map(|free| free as u64)
        });
        let retained = figures.and_then(|f| f.retained).unwrap_or(0) as u64;
        HeapReading {
            allocator: Allocator {
                name: "jemalloc".to_owned(),
                version: self.version.clone(),
                reserved: of(|f| f.mapped),
                in_use: of(|f| f.allocated),
                free,
                mmapped: None,
                pools: None,
                nginx: Default::default(),
                arenas: figures.and_then(|f| f.arenas).map(|arenas| arenas as u64),
                measured_ms_ago: last.map(|(_, age)| age),
                measured_over_ms: last.map(|_| 0),
            },
            category: Some(Category::Jemalloc),
            ranges: Vec::new(),
            resident: of(|f| f.resident),
            reserved: of(|f| f.mapped).and_then(|mapped| mapped.checked_add(retained)),
            unlocated: Vec::new(),
            notes,
        }
    }
}

//! Reads tcmalloc's (gperftools) statistics through `MallocExtension_GetNumericProperty`.
//!
//! The figures, in bytes, from gperftools' `docs/tcmalloc.html` and `src/tcmalloc.cc`:
//!
//! - `in_use` is `generic.current_allocated_bytes`, each block rounded up to its size class.
//! - `reserved` is `generic.heap_size` minus `tcmalloc.pageheap_unmapped_bytes`, which were
//!   returned to the system and are part of the virtual size only. The allocator's own data is not
//!   included.
//! - `free` is the difference: the memory in the page heap and in all caches. tcmalloc computes
//!   `current_allocated_bytes` in this way.
//!
//! Invariants of the unsafe code:
//!
//! 1. The functions have the types of `gperftools/malloc_extension_c.h` and `tcmalloc.h`.
//! 2. The strings of `tc_version` are constants of the library.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, CStr};

use super::pace::Pace;
use super::symbols::{self, AllocatorObject};
use super::HeapReading;
use crate::report::model::{Allocator, Category, Note};

type Property = extern "C" fn(*const c_char, *mut usize) -> c_int;
type Version = extern "C" fn(*mut c_int, *mut c_int, *mut *const c_char) -> *const c_char;

/// The probe of tcmalloc.
pub struct Tcmalloc {
    property: Property,
    version: Option<String>,
    pace: Pace<TcmallocFigures>,
}

#[derive(Debug, Clone, Copy)]
struct TcmallocFigures {
    heap: usize,
    unmapped: usize,
    allocated: usize,
}

impl Tcmalloc {
    /// Returns the probe if `object` is tcmalloc.
    pub fn of(object: AllocatorObject) -> Option<Tcmalloc> {
        // SAFETY: this is the type in the header (1).
        let property: Property = unsafe { object.function(c"MallocExtension_GetNumericProperty") }?;
        Some(Tcmalloc { property, version: version(object), pace: Pace::default() })
    }

    fn size(&self, name: &CStr) -> Option<usize> {
        let mut value = 0;
        ((self.property)(name.as_ptr(), &mut value) != 0).then_some(value)
    }

    fn figures(&self) -> Option<TcmallocFigures> {
        Some(TcmallocFigures {
            heap: self.size(c"generic.heap_size")?,
            unmapped: self.size(c"tcmalloc.pageheap_unmapped_bytes")?,
            allocated: self.size(c"generic.current_allocated_bytes")?,
        })
    }

    /// Returns the figures; `forced` queries them at any cost.
    pub fn read_all(&mut self, forced: bool) -> HeapReading {
        let mut pace = std::mem::take(&mut self.pace);
        let last = pace.ask(forced, || self.figures());
        let mut notes = Vec::new();
        notes.extend(pace.note("tcmalloc"));
        self.pace = pace;
        match last {
            None => notes.push(Note::new("tcmalloc: it returned no statistics")),
            Some(_) => notes.push(Note::new(
                "tcmalloc: resident is tcmalloc's own figure: it includes pages that were never \
                 touched, but not tcmalloc's own data",
            )),
        }
        let figures = last.map(|(figures, _)| figures);
        let held = figures.and_then(|f| f.heap.checked_sub(f.unmapped));
        let free = figures.zip(held).and_then(|(f, held)| held.checked_sub(f.allocated));
        let size = |size: usize| size as u64;
        HeapReading {
            allocator: Allocator {
                name: "tcmalloc".to_owned(),
                version: self.version.clone(),
                reserved: held.map(size),
                in_use: figures.map(|f| size(f.allocated)),
                free: free.map(size),
                mmapped: None,
                pools: None,
                nginx: Default::default(),
                arenas: None,
                measured_ms_ago: last.map(|(_, age)| age),
                measured_over_ms: last.map(|_| 0),
            },
            category: Some(Category::Tcmalloc),
            ranges: Vec::new(),
            resident: held.map(size),
            reserved: figures.map(|f| size(f.heap)),
            unlocated: Vec::new(),
            notes,
        }
    }
}

fn version(object: AllocatorObject) -> Option<String> {
    // SAFETY: this is the type in the header (1).
    let version: Version = unsafe { object.function(c"tc_version") }?;
    let (mut major, mut minor, mut patch) = (0, 0, std::ptr::null());
    version(&mut major, &mut minor, &mut patch);
    // SAFETY: `patch` points to a constant string of the library (2).
    let patch = unsafe { symbols::text(patch) }.unwrap_or_default();
    let digits = patch.trim_start_matches('.');
    let dot = if digits.is_empty() { "" } else { "." };
    Some(format!("{major}.{minor}{dot}{digits}"))
}

//! Calls glibc's own functions about malloc.
//!
//! Invariants of the unsafe code:
//!
//! 1. The functions are looked up in the object that defines `gnu_get_libc_version`, so they have
//!    the types that glibc documents.
//! 2. `mallinfo2` and `mallinfo` take the arenas' locks themselves and change nothing.
//! 3. `gnu_get_libc_version` returns a constant string, and `sbrk` with an increment of 0 changes
//!    nothing.
#![allow(unsafe_code)]

use std::ffi::c_char;
use std::sync::atomic::{AtomicU8, Ordering};

use super::super::symbols::{self, AllocatorObject};

/// The fields of `mallinfo2` that are used here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MallInfo {
    /// Bytes from the system, without blocks that have a mapping of their own.
    pub arena: usize,
    /// The number of blocks with a mapping of their own.
    pub hblks: usize,
    /// Bytes of those blocks.
    pub hblkhd: usize,
    /// Bytes of `arena` that are in use.
    pub uordblks: usize,
    /// Bytes of `arena` that are free.
    pub fordblks: usize,
}

/// `struct mallinfo2` (with `size_t`) or `struct mallinfo` (with `int`).
#[repr(C)]
#[derive(Clone, Copy)]
struct Info<T> {
    arena: T,
    ordblks: T,
    smblks: T,
    hblks: T,
    hblkhd: T,
    usmblks: T,
    fsmblks: T,
    uordblks: T,
    fordblks: T,
    keepcost: T,
}

/// The functions of glibc's malloc.
#[derive(Clone, Copy)]
pub struct MallocFunctions {
    mallinfo2: Option<extern "C" fn() -> Info<usize>>,
    mallinfo: Option<extern "C" fn() -> Info<i32>>,
    single_threaded: Option<&'static AtomicU8>,
}

impl MallocFunctions {
    /// Looks the functions up.
    pub fn of(object: AllocatorObject) -> MallocFunctions {
        let flag = object.address(c"__libc_single_threaded");
        MallocFunctions {
            // SAFETY: this is the type that glibc documents (1).
            mallinfo2: unsafe { object.function(c"mallinfo2") },
            // SAFETY: this is the type that glibc documents (1).
            mallinfo: unsafe { object.function(c"mallinfo") },
            // SAFETY: the symbol is a `char` of the C library, which stays loaded. Only that
            // library writes it, as a whole byte, so an atomic read returns that byte (1).
            single_threaded: flag.map(|flag| unsafe { &*flag.cast::<AtomicU8>() }),
        }
    }

    /// Returns malloc's own figures. Walks all free chunks with the arenas locked.
    pub fn mallinfo(&self) -> Option<MallInfo> {
        if let Some(mallinfo2) = self.mallinfo2 {
            let info = mallinfo2();
            return Some(MallInfo {
                arena: info.arena,
                hblks: info.hblks,
                hblkhd: info.hblkhd,
                uordblks: info.uordblks,
                fordblks: info.fordblks,
            });
        }
        // These fields wrap at 4 GiB, so only small figures are correct, as at the start of a
        // process.
        let info = self.mallinfo?();
        let size = |field: i32| usize::try_from(field).ok();
        Some(MallInfo {
            arena: size(info.arena)?,
            hblks: size(info.hblks)?,
            hblkhd: size(info.hblkhd)?,
            uordblks: size(info.uordblks)?,
            fordblks: size(info.fordblks)?,
        })
    }

    /// Returns whether the figures of [`MallocFunctions::mallinfo`] are correct for any size.
    pub fn wide(&self) -> bool {
        self.mallinfo2.is_some()
    }

    /// Returns whether the C library knows that no other thread exists.
    pub fn single_threaded(&self) -> bool {
        self.single_threaded.is_some_and(|flag| flag.load(Ordering::Relaxed) != 0)
    }
}

/// Returns the version of the C library if `object` is glibc.
pub fn version(object: AllocatorObject) -> Option<String> {
    // SAFETY: this is the type that glibc documents (1).
    let version: extern "C" fn() -> *const c_char =
        unsafe { object.function(c"gnu_get_libc_version") }?;
    // SAFETY: the function returns a constant string of the library (3).
    unsafe { symbols::text(version()) }
}

/// Returns the end of the `brk` heap.
pub fn heap_end() -> usize {
    // SAFETY: an increment of 0 changes nothing and returns the end (3).
    unsafe { libc::sbrk(0) as usize }
}

/// Returns malloc's own figures, for tests.
#[cfg(test)]
pub fn mallinfo(object: AllocatorObject) -> MallInfo {
    MallocFunctions::of(object).mallinfo().unwrap_or_default()
}

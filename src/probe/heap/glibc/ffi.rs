//! What glibc offers of its malloc.
//!
//! Invariants:
//! 1. The functions are looked up in the object that defines `gnu_get_libc_version`, so they have
//!    the types that glibc documents.
//! 2. `mallinfo2` and `mallinfo` take the arenas' locks themselves and change nothing.
#![allow(unsafe_code)]

use std::ffi::c_char;
use std::sync::atomic::{AtomicU8, Ordering};

use super::super::symbols::{self, Object};

/// What `mallinfo2` says, the fields used here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Bytes from the system, blocks with a mapping of their own apart.
    pub arena: usize,
    /// Blocks with a mapping of their own.
    pub hblks: usize,
    /// Their bytes.
    pub hblkhd: usize,
    /// Bytes handed out of `arena`.
    pub uordblks: usize,
    /// Bytes of `arena` that are free.
    pub fordblks: usize,
}

/// `struct mallinfo2` (`size_t`) and `struct mallinfo` (`int`).
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

/// glibc's malloc.
#[derive(Clone, Copy)]
pub struct Functions {
    mallinfo2: Option<extern "C" fn() -> Info<usize>>,
    mallinfo: Option<extern "C" fn() -> Info<i32>>,
    single_threaded: Option<&'static AtomicU8>,
}

impl Functions {
    /// Looks the functions up.
    pub fn of(object: Object) -> Functions {
        let flag = object.address(c"__libc_single_threaded");
        Functions {
            // SAFETY: the types that glibc documents (1).
            mallinfo2: unsafe { object.function(c"mallinfo2") },
            // SAFETY: as above.
            mallinfo: unsafe { object.function(c"mallinfo") },
            // SAFETY: a `char` of the C library, which stays loaded; only that library writes it,
            // in whole bytes, so that an atomic read is one of the same byte (1).
            single_threaded: flag.map(|flag| unsafe { &*flag.cast::<AtomicU8>() }),
        }
    }

    /// What malloc says of itself. Walks all free chunks with the arenas locked.
    pub fn told(&self) -> Option<Told> {
        if let Some(mallinfo2) = self.mallinfo2 {
            let info = mallinfo2();
            return Some(Told {
                arena: info.arena,
                hblks: info.hblks,
                hblkhd: info.hblkhd,
                uordblks: info.uordblks,
                fordblks: info.fordblks,
            });
        }
        // Wraps at 4 GiB, so only figures that are small, as at the start of a process, are good.
        let info = self.mallinfo?();
        let size = |field: i32| usize::try_from(field).ok();
        Some(Told {
            arena: size(info.arena)?,
            hblks: size(info.hblks)?,
            hblkhd: size(info.hblkhd)?,
            uordblks: size(info.uordblks)?,
            fordblks: size(info.fordblks)?,
        })
    }

    /// Whether [`Functions::told`] can be trusted with any size.
    pub fn wide(&self) -> bool {
        self.mallinfo2.is_some()
    }

    /// Whether the C library knows that no other thread exists.
    pub fn single_threaded(&self) -> bool {
        self.single_threaded.is_some_and(|flag| flag.load(Ordering::Relaxed) != 0)
    }
}

/// The version of the C library, if `object` is glibc.
pub fn version(object: Object) -> Option<String> {
    // SAFETY: the type that glibc documents (1).
    let version: extern "C" fn() -> *const c_char =
        unsafe { object.function(c"gnu_get_libc_version") }?;
    // SAFETY: a constant of the library.
    unsafe { symbols::text(version()) }
}

/// The end of the `brk` heap.
pub fn heap_end() -> usize {
    // SAFETY: an increment of 0 changes nothing and returns the end.
    unsafe { libc::sbrk(0) as usize }
}

/// What malloc says, for tests.
#[cfg(test)]
pub fn told(object: Object) -> Told {
    Functions::of(object).told().unwrap_or_default()
}

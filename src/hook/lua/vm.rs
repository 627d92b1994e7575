//! The VMs of this process: what each has got, and from which allocator.
//!
//! What the unsafe code below relies on:
//!
//! 1. A [`Vm`] is never freed once it is in the list, only used again for another VM: whoever finds
//!    one, also on another thread, finds a valid one.
//! 2. While a Lua VM has one of the allocators of [`super::alloc`], its data is a `Vm` whose
//!    `original` and `data` are what it had before.
//! 3. Of a place that is taken, only the thread that uses the VM writes `small`.
//! 4. Nothing here can unwind: no indexing, no overflowing arithmetic, memory by `try_reserve`.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::alloc::{alloc_chunks, alloc_plain};
use super::api::{Alloc, Lua};
use super::directs::Directs;
use crate::abi::luajit::SLACK;
use crate::hook::errno::keep_errno;
use crate::report::model::lua::Subsystem;
use crate::tally::lua::{Tally, SMALL};

const FREE: u8 = 0;
const BUSY: u8 = 1;
const LIVE: u8 = 2;

/// A VM, or a place for one. What every call to the allocator needs lies in one line of the cache.
#[repr(C, align(64))]
pub struct Vm {
    original: AtomicPtr<c_void>,
    data: AtomicPtr<c_void>,
    small: AtomicUsize,
    /// What it has got.
    pub tally: Tally,
    /// `small` while all direct mappings are long.
    usual: AtomicUsize,
    lua: AtomicPtr<c_void>,
    /// Held while a mapping comes or goes, and while they are read.
    directs: Mutex<Directs>,
    /// Whether some direct mappings are not known.
    unlisted: AtomicBool,
    /// Whether its blocks lie in chunks of LuaJIT's own allocator.
    chunks: AtomicBool,
    subsystem: AtomicU8,
    /// Whether it is a cycle's own VM, which only the main thread uses.
    main: AtomicBool,
    /// VMs in the order of their birth.
    serial: AtomicU64,
    state: AtomicU8,
    next: AtomicPtr<Vm>,
}

static HEAD: AtomicPtr<Vm> = AtomicPtr::new(std::ptr::null_mut());
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// What a VM had when its allocator was wrapped.
#[derive(Debug, Default)]
pub struct Birth {
    /// Bytes that it counts.
    pub live: u64,
    /// Its blocks and the bytes of their chunks; `None` where the allocator is not LuaJIT's own.
    pub blocks: Option<(u64, u64)>,
    /// Bytes of the chunk that its own state is in; 0 when it is in none.
    pub state: usize,
    /// Its direct mappings; `None`: there may be some that are not known.
    pub directs: Option<Vec<Range<usize>>>,
}

impl Vm {
    /// A place for a VM; `None` without memory.
    pub fn claim() -> Option<&'static Vm> {
        let free = all().find(|vm| {
            vm.state.compare_exchange(FREE, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        if let Some(vm) = free {
            return Some(vm);
        }
        let layout = std::alloc::Layout::new::<Vm>();
        // SAFETY: the type has a size.
        let place = unsafe { std::alloc::alloc(layout) }.cast::<Vm>();
        if place.is_null() {
            return None;
        }
        // SAFETY: allocated above for this type.
        unsafe { place.write(Vm::new()) };
        // SAFETY: just written, and never freed from here on (1).
        let vm = unsafe { &*place };
        let push = |head: *mut Vm| {
            vm.next.store(head, Ordering::Relaxed);
            Some(place)
        };
        let _ = HEAD.fetch_update(Ordering::AcqRel, Ordering::Acquire, push);
        Some(vm)
    }

    fn new() -> Self {
        Vm {
            original: AtomicPtr::default(),
            data: AtomicPtr::default(),
            small: AtomicUsize::new(0),
            tally: Tally::default(),
            usual: AtomicUsize::new(0),
            lua: AtomicPtr::default(),
            directs: Mutex::new(Directs::default()),
            unlisted: AtomicBool::new(false),
            chunks: AtomicBool::new(false),
            subsystem: AtomicU8::new(0),
            main: AtomicBool::new(false),
            serial: AtomicU64::new(0),
            state: AtomicU8::new(BUSY),
            next: AtomicPtr::default(),
        }
    }

    /// Fills the place in for a VM that this thread uses now, with the allocator and the data that it has now.
    /// The allocator to set instead.
    pub fn begin(&self, lua: Lua, (alloc, data): (Alloc, *mut c_void), birth: Birth) -> Alloc {
        self.original.store(alloc as *mut c_void, Ordering::Relaxed);
        self.data.store(data, Ordering::Relaxed);
        self.lua.store(lua, Ordering::Relaxed);
        self.main.store(false, Ordering::Relaxed);
        self.serial.store(SERIAL.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.chunks.store(birth.blocks.is_some(), Ordering::Relaxed);
        self.unlisted.store(birth.directs.is_none(), Ordering::Relaxed);
        self.usual.store(birth.state.saturating_sub(SLACK).min(SMALL), Ordering::Relaxed);
        let (blocks, chunks) = birth.blocks.unwrap_or_default();
        let directs = birth.directs.unwrap_or_default();
        let bytes = directs.iter().map(|range| range.len() as u64).sum();
        let count = directs.len() as u64;
        self.tally.begin(birth.live, blocks.saturating_add(count), chunks, (bytes, count));
        self.change_directs(|listed| directs.into_iter().all(|range| listed.insert(range)));
        if birth.blocks.is_some() {
            alloc_chunks
        } else {
            alloc_plain
        }
    }

    /// The VM is there, for whoever reads.
    pub fn show(&self, subsystem: Subsystem) {
        self.set_subsystem(subsystem);
        self.state.store(LIVE, Ordering::Release);
    }

    /// The VM is gone: the place is free.
    pub fn end(&self) {
        self.lua.store(std::ptr::null_mut(), Ordering::Relaxed);
        *self.directs.lock().unwrap_or_else(PoisonError::into_inner) = Directs::default();
        self.state.store(FREE, Ordering::Release);
    }

    /// Whether there is a VM here.
    pub fn is_live(&self) -> bool {
        self.state.load(Ordering::Acquire) == LIVE
    }

    /// Whether it is a cycle's own VM, which only the main thread uses. One that was made for a
    /// task may be on any thread.
    pub fn is_main(&self) -> bool {
        self.main.load(Ordering::Relaxed)
    }

    /// It is a cycle's own VM.
    pub fn set_main(&self) {
        self.main.store(true, Ordering::Relaxed);
    }

    /// Its state; null when it is gone.
    pub fn lua(&self) -> Lua {
        self.lua.load(Ordering::Relaxed)
    }

    /// The allocator it was made with, and its data.
    pub fn original(&self) -> (Option<Alloc>, *mut c_void) {
        let alloc = self.original.load(Ordering::Relaxed);
        // SAFETY: null or a function of this type (2); both are what the option can be.
        let alloc = unsafe { std::mem::transmute::<*mut c_void, Option<Alloc>>(alloc) };
        (alloc, self.data.load(Ordering::Relaxed))
    }

    /// Where its allocator's state is; `None` when it is not LuaJIT's own.
    pub fn heap(&self) -> Option<usize> {
        let data = self.data.load(Ordering::Relaxed) as usize;
        self.chunks.load(Ordering::Relaxed).then_some(data)
    }

    /// Whose it is.
    pub fn subsystem(&self) -> Subsystem {
        let place = usize::from(self.subsystem.load(Ordering::Relaxed));
        Subsystem::ALL.get(place).copied().unwrap_or(Subsystem::Other)
    }

    /// Says whose it is.
    pub fn set_subsystem(&self, subsystem: Subsystem) {
        let place = Subsystem::ALL.iter().position(|s| *s == subsystem).unwrap_or(2);
        self.subsystem.store(place as u8, Ordering::Relaxed);
    }

    /// Its place in the order of births.
    pub fn serial(&self) -> u64 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Its direct mappings; `None` when not all are known, or one comes or goes right now.
    pub fn directs(&self) -> Option<Vec<Range<usize>>> {
        if self.unlisted.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.directs.try_lock().ok()?.ranges().collect())
    }

    /// A block of less than this size lies in a chunk of a segment, and is not the one that the VM's
    /// own state is in.
    ///
    /// # Safety
    ///
    /// Called on the thread that uses the VM.
    #[inline]
    pub unsafe fn small(&self) -> usize {
        // SAFETY: 3. Not as an atomic, which compilers load by an instruction of its own.
        unsafe { self.small.as_ptr().read() }
    }

    /// Calls the allocator it was made with.
    ///
    /// # Safety
    ///
    /// The arguments are those of a call to the allocator of this VM, on its thread.
    #[inline]
    pub unsafe fn call(&self, block: *mut c_void, from: usize, to: usize) -> *mut c_void {
        let alloc = self.original.load(Ordering::Relaxed);
        // SAFETY: 2: set before the VM got this `Vm` for its data, and a function of this type.
        let alloc = unsafe { std::mem::transmute::<*mut c_void, Alloc>(alloc) };
        // SAFETY: the caller's contract; 2.
        unsafe { alloc(self.data.load(Ordering::Relaxed), block, from, to) }
    }

    /// A direct mapping came.
    #[cold]
    pub fn list(&self, range: Range<usize>) {
        self.change_directs(|directs| directs.insert(range));
    }

    /// A direct mapping went.
    #[cold]
    pub fn unlist(&self, start: usize) {
        self.change_directs(|directs| {
            directs.remove(start);
            true
        });
    }

    /// Changes the list of direct mappings. `change` returns false when one could not be listed.
    ///
    /// The only place behind a VM's allocator that takes a lock and may allocate. It runs when a block
    /// of 128 KB or more comes or goes, for which LuaJIT has just called `mmap` or `munmap`; blocks below
    /// that never get here. The lock is this VM's, and only [`Vm::directs`] takes it on another thread,
    /// which tries once and copies the list. The list is memory of this module, not of a Lua VM, so it
    /// does not come back here; without memory for it the VM is marked, and its mappings are unknown.
    fn change_directs(&self, change: impl FnOnce(&mut Directs) -> bool) {
        keep_errno(|| {
            let mut directs = self.directs.lock().unwrap_or_else(PoisonError::into_inner);
            if !change(&mut directs) {
                self.unlisted.store(true, Ordering::Relaxed);
            }
            let any = directs.any_short() || self.unlisted.load(Ordering::Relaxed);
            let small = if any { 0 } else { self.usual.load(Ordering::Relaxed) };
            self.small.store(small, Ordering::Relaxed);
        });
    }

    /// Notices the end of a VM that nobody announced: the last block it frees is the one with its
    /// own state in it.
    pub fn notice_end(&self, block: *mut c_void, size: usize) {
        let offset = (self.lua.load(Ordering::Relaxed) as usize).wrapping_sub(block as usize);
        if offset < size {
            super::finish(self);
        }
    }
}

/// All places.
pub fn all() -> impl Iterator<Item = &'static Vm> {
    let first = HEAD.load(Ordering::Acquire);
    // SAFETY: 1, for each.
    let next = |vm: &&'static Vm| unsafe { vm.next.load(Ordering::Acquire).as_ref() };
    // SAFETY: 1.
    std::iter::successors(unsafe { first.as_ref() }, next)
}

/// The VM that an allocator and its data are of, if they are ours.
pub fn of(alloc: Option<Alloc>, data: *mut c_void) -> Option<&'static Vm> {
    let ours = [alloc_chunks as Alloc as usize, alloc_plain as Alloc as usize];
    let found = all().find(|vm| std::ptr::from_ref::<Vm>(vm).cast() == data.cast_const());
    found.filter(|_| alloc.is_some_and(|alloc| ours.contains(&(alloc as usize))))
}

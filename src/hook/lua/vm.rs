//! The VMs of this process: the memory that each holds, and its original allocator.
//!
//! What the unsafe code below relies on:
//!
//! 1. A [`Vm`] is never freed once it is in the list, only reused for another VM. Whoever finds
//!    one, on any thread, finds a valid one.
//! 2. While a Lua VM has one of the allocators of [`super::alloc`], its allocator data is a `Vm`
//!    whose `original` and `data` are the allocator and data that it had before.
//! 3. While a place is taken, only the thread that uses its VM writes `small`.
//! 4. Nothing here can unwind: there is no indexing and no overflowing arithmetic, and memory is
//!    reserved by `try_reserve`.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::alloc::{alloc_chunks, alloc_plain};
use super::api::{LuaAlloc, LuaState};
use super::directs::Directs;
use crate::abi::luajit::SLACK;
use crate::hook::errno::keep_errno;
use crate::report::model::lua::Subsystem;
use crate::tally::lua::{Tally, SMALL};

const FREE: u8 = 0;
const BUSY: u8 = 1;
const LIVE: u8 = 2;

/// A VM, or a free place for one. The fields that every call of the allocator needs lie in one
/// cache line.
#[repr(C, align(64))]
pub struct Vm {
    original: AtomicPtr<c_void>,
    data: AtomicPtr<c_void>,
    small: AtomicUsize,
    /// The figures of the VM's memory.
    pub tally: Tally,
    /// The value of `small` while no direct mapping is short.
    usual: AtomicUsize,
    lua: AtomicPtr<c_void>,
    /// Locked while a mapping is added, removed or read.
    directs: Mutex<Directs>,
    /// Whether some direct mappings are unknown.
    unlisted: AtomicBool,
    /// Whether its blocks lie in chunks of LuaJIT's own allocator.
    chunks: AtomicBool,
    subsystem: AtomicU8,
    /// Whether it is a cycle's own VM, which only the main thread uses.
    main: AtomicBool,
    /// The position of the VM in the order of creation.
    serial: AtomicU64,
    state: AtomicU8,
    next: AtomicPtr<Vm>,
}

static HEAD: AtomicPtr<Vm> = AtomicPtr::new(std::ptr::null_mut());
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// The memory of a VM at the time when its allocator was wrapped.
#[derive(Debug, Default)]
pub struct Birth {
    /// The number of bytes that Lua counts.
    pub live: u64,
    /// The number of its blocks, and the bytes of their chunks; `None` if the allocator is not
    /// LuaJIT's own.
    pub blocks: Option<(u64, u64)>,
    /// The size in bytes of the chunk that contains its own state; 0 if no chunk does.
    pub state: usize,
    /// Its direct mappings; `None` if there may be unknown ones.
    pub directs: Option<Vec<Range<usize>>>,
}

impl Vm {
    /// Takes a free place for a VM, or creates one. Returns `None` if there is no memory.
    pub fn claim() -> Option<&'static Vm> {
        let free = all().find(|vm| {
            vm.state.compare_exchange(FREE, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        if let Some(vm) = free {
            return Some(vm);
        }
        let layout = std::alloc::Layout::new::<Vm>();
        // SAFETY: the size of the type is not 0, and nobody else has the block (1).
        let place = unsafe { std::alloc::alloc(layout) }.cast::<Vm>();
        if place.is_null() {
            return None;
        }
        // SAFETY: the block was allocated above for this type (1).
        unsafe { place.write(Vm::new()) };
        // SAFETY: the place was just initialised, and is never freed from here on (1).
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

    /// Fills in the place for a VM that this thread uses, with the VM's current allocator and data.
    /// Returns the allocator to set instead.
    pub fn begin(
        &self,
        lua: LuaState,
        (alloc, data): (LuaAlloc, *mut c_void),
        birth: Birth,
    ) -> LuaAlloc {
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

    /// Shows the VM to readers.
    pub fn show(&self, subsystem: Subsystem) {
        self.set_subsystem(subsystem);
        self.state.store(LIVE, Ordering::Release);
    }

    /// Frees the place, after the end of its VM.
    pub fn end(&self) {
        self.lua.store(std::ptr::null_mut(), Ordering::Relaxed);
        *self.directs.lock().unwrap_or_else(PoisonError::into_inner) = Directs::default();
        self.state.store(FREE, Ordering::Release);
    }

    /// Returns whether there is a live VM in this place.
    pub fn is_live(&self) -> bool {
        self.state.load(Ordering::Acquire) == LIVE
    }

    /// Returns whether it is a cycle's own VM, which only the main thread uses. A VM that was
    /// created for a task may run on any thread.
    pub fn is_main(&self) -> bool {
        self.main.load(Ordering::Relaxed)
    }

    /// Marks the VM as a cycle's own.
    pub fn set_main(&self) {
        self.main.store(true, Ordering::Relaxed);
    }

    /// Returns the Lua state of the VM; null after its end.
    pub fn lua(&self) -> LuaState {
        self.lua.load(Ordering::Relaxed)
    }

    /// Returns the allocator that the VM was created with, and its data.
    pub fn original(&self) -> (Option<LuaAlloc>, *mut c_void) {
        let alloc = self.original.load(Ordering::Relaxed);
        // SAFETY: the pointer is null or a function of this type, and the option can be either (2).
        let alloc = unsafe { std::mem::transmute::<*mut c_void, Option<LuaAlloc>>(alloc) };
        (alloc, self.data.load(Ordering::Relaxed))
    }

    /// Returns the address of the allocator's state; `None` if the allocator is not LuaJIT's own.
    pub fn heap(&self) -> Option<usize> {
        let data = self.data.load(Ordering::Relaxed) as usize;
        self.chunks.load(Ordering::Relaxed).then_some(data)
    }

    /// Returns the subsystem that the VM belongs to.
    pub fn subsystem(&self) -> Subsystem {
        let place = usize::from(self.subsystem.load(Ordering::Relaxed));
        Subsystem::ALL.get(place).copied().unwrap_or(Subsystem::Other)
    }

    /// Sets the subsystem that the VM belongs to.
    pub fn set_subsystem(&self, subsystem: Subsystem) {
        let place = Subsystem::ALL.iter().position(|s| *s == subsystem).unwrap_or(2);
        self.subsystem.store(place as u8, Ordering::Relaxed);
    }

    /// Returns the VM's position in the order of creation.
    pub fn serial(&self) -> u64 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Returns the VM's direct mappings; `None` if not all are known, or if one is being added or
    /// removed right now.
    pub fn directs(&self) -> Option<Vec<Range<usize>>> {
        if self.unlisted.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.directs.try_lock().ok()?.ranges().collect())
    }

    /// Returns the size limit of small blocks, in bytes. A block below this size lies in a chunk of
    /// a segment, and does not contain the VM's own state.
    ///
    /// # Safety
    ///
    /// Called on the thread that uses the VM.
    #[inline]
    pub unsafe fn small(&self) -> usize {
        // Not read as an atomic, because compilers use a separate load instruction for that.
        // SAFETY: only this thread writes the word (3).
        unsafe { self.small.as_ptr().read() }
    }

    /// Calls the VM's original allocator.
    ///
    /// # Safety
    ///
    /// The arguments are those of a call to the allocator of this VM, on its thread.
    #[inline]
    pub unsafe fn call(&self, block: *mut c_void, from: usize, to: usize) -> *mut c_void {
        let alloc = self.original.load(Ordering::Relaxed);
        // SAFETY: the word was set before this `Vm` became the VM's allocator data, and holds a
        // function of this type (2).
        let alloc = unsafe { std::mem::transmute::<*mut c_void, LuaAlloc>(alloc) };
        // SAFETY: the arguments are those of a call to the VM's allocator, by contract, and the
        // data is the original's (2).
        unsafe { alloc(self.data.load(Ordering::Relaxed), block, from, to) }
    }

    /// Adds a new direct mapping.
    #[cold]
    pub fn list(&self, range: Range<usize>) {
        self.change_directs(|directs| directs.insert(range));
    }

    /// Removes the direct mapping that starts at `start`.
    #[cold]
    pub fn unlist(&self, start: usize) {
        self.change_directs(|directs| {
            directs.remove(start);
            true
        });
    }

    /// Changes the list of direct mappings. `change` returns false when one could not be listed.
    ///
    /// This is the only code behind a VM's allocator that takes a lock and may allocate. It runs
    /// when a block of 128 KB or more is allocated or freed, for which LuaJIT has just called
    /// `mmap` or `munmap`; smaller blocks never get here. The lock is this VM's. On another thread
    /// only [`Vm::directs`] takes it, which tries once and copies the list. The list is in this
    /// module's memory, not in that of a Lua VM, so the allocation does not recurse. If there is no
    /// memory for the list, the VM is marked, and its mappings are unknown.
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

    /// Notices the end of a VM that was not announced: the last block that a VM frees contains its
    /// own state.
    pub fn notice_end(&self, block: *mut c_void, size: usize) {
        let offset = (self.lua.load(Ordering::Relaxed) as usize).wrapping_sub(block as usize);
        if offset < size {
            super::finish(self);
        }
    }
}

/// Returns all places, free or taken.
pub fn all() -> impl Iterator<Item = &'static Vm> {
    let first = HEAD.load(Ordering::Acquire);
    // SAFETY: the pointer is null or leads to a place that is never freed (1).
    let next = |vm: &&'static Vm| unsafe { vm.next.load(Ordering::Acquire).as_ref() };
    // SAFETY: the pointer is null or leads to a place that is never freed (1).
    std::iter::successors(unsafe { first.as_ref() }, next)
}

/// Returns the VM to which an allocator and its data belong, if they are ours.
pub fn of(alloc: Option<LuaAlloc>, data: *mut c_void) -> Option<&'static Vm> {
    let ours = [alloc_chunks as LuaAlloc as usize, alloc_plain as LuaAlloc as usize];
    let found = all().find(|vm| std::ptr::from_ref::<Vm>(vm).cast() == data.cast_const());
    found.filter(|_| alloc.is_some_and(|alloc| ours.contains(&(alloc as usize))))
}

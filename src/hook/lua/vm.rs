//! The VMs of this process, each with the allocator that stands before its own.
//!
//! What the unsafe code below relies on:
//!
//! 1. A [`Vm`] is never freed once it is in the list, only used again for another VM: whoever finds
//!    one, also on another thread, finds a valid one.
//! 2. While a Lua VM has one of the allocators below, its data is a `Vm` whose `original` and `data`
//!    are what it had before, and only the thread that uses the VM calls it.
//! 3. Blocks that come from an allocator of LuaJIT's own lie behind a chunk header of two words, as
//!    [`crate::probe::luajit`] describes; that layout is verified before [`alloc_chunks`] is set.
//! 4. Nothing here can unwind: no indexing, no overflowing arithmetic, memory by `try_reserve`.

use std::collections::hash_map::DefaultHasher;
use std::collections::HashMap;
use std::ffi::c_void;
use std::hash::BuildHasherDefault;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use super::api::{Alloc, Lua};
use crate::hook::errno::keep_errno;
use crate::probe::luajit::direct::{DIRECT, FOOT};
use crate::probe::luajit::HEADER;
use crate::report::lua::Subsystem;
use crate::tally::lua::{Place, Tally};

const FREE: u8 = 0;
const BUSY: u8 = 1;
const LIVE: u8 = 2;

/// Sizes of direct mappings by their addresses.
type Directs = HashMap<usize, usize, BuildHasherDefault<DefaultHasher>>;

/// A VM, or a place for one.
pub struct Vm {
    original: AtomicPtr<c_void>,
    data: AtomicPtr<c_void>,
    lua: AtomicPtr<c_void>,
    /// What it has got.
    pub tally: Tally,
    /// Held while a mapping comes or goes, and while they are read.
    directs: Mutex<Option<Directs>>,
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
            lua: AtomicPtr::default(),
            tally: Tally::default(),
            directs: Mutex::new(None),
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
        let (blocks, chunks) = birth.blocks.unwrap_or_default();
        let directs = birth.directs.unwrap_or_default();
        let bytes = directs.iter().map(|range| range.len() as u64).sum();
        let count = directs.len() as u64;
        self.tally.begin(birth.live, blocks.saturating_add(count), chunks, (bytes, count));
        for range in directs {
            self.list(range);
        }
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
        *self.directs.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
        let directs = self.directs.try_lock().ok()?;
        let ranges = directs.iter().flatten().map(|(at, size)| *at..at.saturating_add(*size));
        Some(ranges.collect())
    }

    /// # Safety
    ///
    /// The arguments are those of a call to the allocator of this VM, on its thread.
    #[inline]
    unsafe fn call(&self, block: *mut c_void, from: usize, to: usize) -> *mut c_void {
        let alloc = self.original.load(Ordering::Relaxed);
        // SAFETY: 2: set before the VM got this `Vm` for its data, and a function of this type.
        let alloc = unsafe { std::mem::transmute::<*mut c_void, Alloc>(alloc) };
        // SAFETY: the caller's contract; 2.
        unsafe { alloc(self.data.load(Ordering::Relaxed), block, from, to) }
    }

    #[inline]
    fn came(&self, block: Block) {
        if let Place::Direct(size) = block.place {
            self.list(block.start..block.start.saturating_add(size as usize));
        }
    }

    #[inline]
    fn went(&self, block: Block) {
        if let Place::Direct(_) = block.place {
            self.unlist(block.start);
        }
    }

    #[cold]
    fn list(&self, range: Range<usize>) {
        keep_errno(|| {
            let mut directs = self.directs.lock().unwrap_or_else(PoisonError::into_inner);
            let directs = directs.get_or_insert_with(Directs::default);
            if directs.try_reserve(1).is_ok() {
                directs.insert(range.start, range.len());
            } else {
                self.unlisted.store(true, Ordering::Relaxed);
            }
        });
    }

    #[cold]
    fn unlist(&self, start: usize) {
        keep_errno(|| {
            let mut directs = self.directs.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(directs) = directs.as_mut() {
                directs.remove(&start);
            }
        });
    }

    /// Notices the end of a VM that nobody announced: the last block it frees is the one with its
    /// own state in it.
    #[inline]
    fn notice_end(&self, block: *mut c_void, size: usize) {
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

/// Where a block lies.
#[derive(Clone, Copy)]
struct Block {
    place: Place,
    /// Where its chunk starts, which in a direct mapping is the mapping.
    start: usize,
}

impl Block {
    /// # Safety
    ///
    /// The block is one that LuaJIT's own allocator gave, and not yet taken back (3).
    #[inline]
    unsafe fn of(block: *mut c_void) -> Block {
        let start = (block as usize).wrapping_sub(HEADER);
        // SAFETY: the caller's contract: two aligned words in front of the block.
        let [foot, head] = unsafe { (start as *const [usize; 2]).read() };
        let size = (head & !7) as u64;
        if head & 1 == 0 && foot & DIRECT != 0 {
            return Block { place: Place::Direct(size.wrapping_add(FOOT as u64)), start };
        }
        Block { place: Place::Chunk(size), start }
    }
}

/// Stands in for LuaJIT's own allocator.
unsafe extern "C" fn alloc_chunks(
    data: *mut c_void,
    block: *mut c_void,
    from: usize,
    to: usize,
) -> *mut c_void {
    // SAFETY: 2.
    let vm = unsafe { &*data.cast::<Vm>() };
    // SAFETY: 2 and 3: a block of this VM.
    let before = (!block.is_null()).then(|| unsafe { Block::of(block) });
    // SAFETY: handed on.
    let result = unsafe { vm.call(block, from, to) };
    if result.is_null() {
        match before {
            _ if to != 0 => vm.tally.failed(),
            Some(before) => {
                vm.tally.freed(from, before.place);
                vm.went(before);
                vm.notice_end(block, from);
            }
            None => {}
        }
        return result;
    }
    // SAFETY: 2 and 3: just given.
    let after = unsafe { Block::of(result) };
    match before {
        Some(before) => {
            vm.tally.resized((from, before.place), (to, after.place));
            vm.went(before);
        }
        None => vm.tally.allocated(to, after.place),
    }
    vm.came(after);
    result
}

/// Stands in for another allocator.
unsafe extern "C" fn alloc_plain(
    data: *mut c_void,
    block: *mut c_void,
    from: usize,
    to: usize,
) -> *mut c_void {
    // SAFETY: 2.
    let vm = unsafe { &*data.cast::<Vm>() };
    // SAFETY: handed on.
    let result = unsafe { vm.call(block, from, to) };
    match (block.is_null(), result.is_null()) {
        (_, true) if to != 0 => vm.tally.failed(),
        (false, true) => {
            vm.tally.freed(from, Place::Unknown);
            vm.notice_end(block, from);
        }
        (false, false) => vm.tally.resized((from, Place::Unknown), (to, Place::Unknown)),
        (true, false) => vm.tally.allocated(to, Place::Unknown),
        (true, true) => {}
    }
    result
}

//! The allocators that wrap a VM's own: they count, and pass every call on.
//!
//! Nearly all calls are for small blocks, where every instruction counts. These paths save only one
//! register, and a call that frees a block ends in a jump. [`any`] handles the rare cases in full.
//!
//! What the unsafe code below relies on:
//!
//! 1. While a Lua VM has one of the allocators below, its allocator data is a [`Vm`] whose
//!    `original` and `data` are the allocator and data that it had before, and only the thread that
//!    uses the VM calls the allocator, with valid arguments.
//! 2. A block of LuaJIT's own allocator lies behind a chunk header of two words, as
//!    [`crate::abi::luajit`] describes. That layout is verified before [`alloc_chunks`] is set.
//! 3. A block whose size is less than [`Vm::small`] lies in a chunk of a segment, and does not
//!    contain the VM's own state. So does a new block of up to [`SMALL`] bytes: only larger blocks
//!    get a mapping of their own.
//! 4. Nothing here can unwind.

use std::ffi::c_void;

use super::vm::Vm;
use crate::abi::luajit::direct::{DIRECT, FOOT};
use crate::abi::luajit::HEADER;
use crate::tally::lua::{BlockPlace, SMALL};

/// The location of a block.
#[derive(Clone, Copy)]
pub(super) struct LuaBlock {
    place: BlockPlace,
    /// The address of its chunk, which for a direct mapping is the address of the mapping.
    start: usize,
}

impl LuaBlock {
    /// Returns the location of a block.
    ///
    /// # Safety
    ///
    /// LuaJIT's own allocator allocated the block, and it was not freed since (2).
    unsafe fn of(block: *mut c_void) -> LuaBlock {
        let start = (block as usize).wrapping_sub(HEADER);
        // SAFETY: two aligned words precede the block, by contract (2).
        let [foot, head] = unsafe { (start as *const [usize; 2]).read() };
        let size = (head & !7) as u64;
        if head & 1 == 0 && foot & DIRECT != 0 {
            return LuaBlock { place: BlockPlace::Direct(size.wrapping_add(FOOT as u64)), start };
        }
        LuaBlock { place: BlockPlace::Chunk(size), start }
    }
}

/// Returns the size in bytes of the chunk that contains a block.
///
/// # Safety
///
/// As for [`LuaBlock::of`].
#[inline]
unsafe fn chunk(block: *mut c_void) -> usize {
    // SAFETY: an aligned word precedes the block, by contract (2).
    unsafe { block.cast::<usize>().sub(1).read() & !7 }
}

/// Wraps LuaJIT's own allocator.
pub(super) unsafe extern "C" fn alloc_chunks(
    data: *mut c_void,
    block: *mut c_void,
    from: usize,
    to: usize,
) -> *mut c_void {
    // SAFETY: the allocator data is a `Vm` (1).
    let vm = unsafe { &*data.cast::<Vm>() };
    if block.is_null() {
        if to.wrapping_sub(1) < SMALL {
            vm.tally.ask(to);
            // SAFETY: the arguments are the caller's (1).
            let given = unsafe { vm.call(block, from, to) };
            if given.is_null() {
                vm.tally.refused();
            } else {
                // SAFETY: the allocator just returned this block (2).
                vm.tally.given(unsafe { chunk(given) });
            }
            return given;
        }
    // SAFETY: this thread uses the VM (1).
    } else if from < unsafe { vm.small() } {
        if to == 0 {
            // SAFETY: this is a block of the VM (2), in a chunk (3).
            vm.tally.freed(from, BlockPlace::Chunk(unsafe { chunk(block) } as u64));
            // SAFETY: the arguments are the caller's (1).
            return unsafe { vm.call(block, from, to) };
        }
        if to <= SMALL {
            // SAFETY: the arguments are the caller's (1).
            return unsafe { resize(data, block, from, to) };
        }
    }
    // SAFETY: the arguments are the caller's (1).
    unsafe { any(data, block, from, to) }
}

/// Resizes a small block to another small size.
#[inline(never)]
unsafe extern "C" fn resize(
    data: *mut c_void,
    block: *mut c_void,
    from: usize,
    to: usize,
) -> *mut c_void {
    // SAFETY: the allocator data is a `Vm` (1).
    let vm = unsafe { &*data.cast::<Vm>() };
    // SAFETY: this is a block of the VM (2), in a chunk (3).
    let before = unsafe { chunk(block) };
    // SAFETY: the arguments are the caller's (1).
    let result = unsafe { vm.call(block, from, to) };
    if result.is_null() {
        vm.tally.failed();
    } else {
        // SAFETY: this is a block of the VM (2), and a small block in a chunk stays in a chunk (3).
        let after = unsafe { chunk(result) };
        vm.tally.resized(
            (from, BlockPlace::Chunk(before as u64)),
            (to, BlockPlace::Chunk(after as u64)),
        );
    }
    result
}

/// Handles any call: a large block may have a mapping of its own, and may be the last block of the
/// VM.
#[inline(never)]
unsafe extern "C" fn any(
    data: *mut c_void,
    block: *mut c_void,
    from: usize,
    to: usize,
) -> *mut c_void {
    // SAFETY: the allocator data is a `Vm` (1).
    let vm = unsafe { &*data.cast::<Vm>() };
    // SAFETY: the caller passed a block of this VM (1), which has a chunk header (2).
    let before = (!block.is_null()).then(|| unsafe { LuaBlock::of(block) });
    // SAFETY: the arguments are the caller's (1).
    let result = unsafe { vm.call(block, from, to) };
    if result.is_null() {
        match before {
            _ if to != 0 => vm.tally.failed(),
            Some(before) => {
                vm.tally.freed(from, before.place);
                went(vm, before);
                vm.notice_end(block, from);
            }
            None => {}
        }
        return result;
    }
    // SAFETY: the allocator just returned this block (1), which has a chunk header (2).
    let after = unsafe { LuaBlock::of(result) };
    match before {
        Some(before) => {
            vm.tally.resized((from, before.place), (to, after.place));
            went(vm, before);
        }
        None => vm.tally.allocated(to, after.place),
    }
    if let BlockPlace::Direct(size) = after.place {
        vm.list(after.start..after.start.saturating_add(size as usize));
    }
    result
}

fn went(vm: &Vm, block: LuaBlock) {
    if let BlockPlace::Direct(_) = block.place {
        vm.unlist(block.start);
    }
}

/// Wraps any other allocator.
pub(super) unsafe extern "C" fn alloc_plain(
    data: *mut c_void,
    block: *mut c_void,
    from: usize,
    to: usize,
) -> *mut c_void {
    // SAFETY: the allocator data is a `Vm` (1).
    let vm = unsafe { &*data.cast::<Vm>() };
    // SAFETY: the arguments are the caller's (1).
    let result = unsafe { vm.call(block, from, to) };
    match (block.is_null(), result.is_null()) {
        (_, true) if to != 0 => vm.tally.failed(),
        (false, true) => {
            vm.tally.freed(from, BlockPlace::Unknown);
            vm.notice_end(block, from);
        }
        (false, false) => vm.tally.resized((from, BlockPlace::Unknown), (to, BlockPlace::Unknown)),
        (true, false) => vm.tally.allocated(to, BlockPlace::Unknown),
        (true, true) => {}
    }
    result
}

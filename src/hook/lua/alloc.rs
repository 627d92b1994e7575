//! The allocators that stand before a VM's own: they hand on and count.
//!
//! Nearly all calls are for small blocks, of which every instruction counts: those paths save no
//! register but one, and a call that gives a block back ends in a jump. What is rare is done by
//! [`any`], in full.
//!
//! What the unsafe code below relies on:
//!
//! 1. While a Lua VM has one of the allocators below, its data is a [`Vm`] whose `original` and
//!    `data` are what it had before, and only the thread that uses the VM calls it.
//! 2. Blocks that come from an allocator of LuaJIT's own lie behind a chunk header of two words, as
//!    [`crate::abi::luajit`] describes; that layout is verified before [`alloc_chunks`] is set.
//! 3. A block whose size is less than [`Vm::small`] lies in a chunk of a segment, and is not the one
//!    that the VM's own state is in. So does a new one of up to [`SMALL`] bytes: only larger
//!    ones get a mapping of their own.
//! 4. Nothing here can unwind.

use std::ffi::c_void;

use super::vm::Vm;
use crate::abi::luajit::direct::{DIRECT, FOOT};
use crate::abi::luajit::HEADER;
use crate::tally::lua::{Place, SMALL};

/// Where a block lies.
#[derive(Clone, Copy)]
pub(super) struct Block {
    place: Place,
    /// Where its chunk starts, which in a direct mapping is the mapping.
    start: usize,
}

impl Block {
    /// # Safety
    ///
    /// The block is one that LuaJIT's own allocator gave, and not yet taken back (2).
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

/// Bytes of the chunk that a block is in.
///
/// # Safety
///
/// As for [`Block::of`].
#[inline]
unsafe fn chunk(block: *mut c_void) -> usize {
    // SAFETY: the caller's contract: an aligned word in front of the block.
    unsafe { block.cast::<usize>().sub(1).read() & !7 }
}

/// Stands in for LuaJIT's own allocator.
pub(super) unsafe extern "C" fn alloc_chunks(
    data: *mut c_void,
    block: *mut c_void,
    from: usize,
    to: usize,
) -> *mut c_void {
    // SAFETY: 1.
    let vm = unsafe { &*data.cast::<Vm>() };
    if block.is_null() {
        if to.wrapping_sub(1) < SMALL {
            vm.tally.ask(to);
            // SAFETY: handed on.
            let given = unsafe { vm.call(block, from, to) };
            if given.is_null() {
                vm.tally.refused();
            } else {
                // SAFETY: 2: just given.
                vm.tally.given(unsafe { chunk(given) });
            }
            return given;
        }
    // SAFETY: 1.
    } else if from < unsafe { vm.small() } {
        if to == 0 {
            // SAFETY: 2 and 3: a block of this VM, in a chunk.
            vm.tally.freed(from, Place::Chunk(unsafe { chunk(block) } as u64));
            // SAFETY: handed on.
            return unsafe { vm.call(block, from, to) };
        }
        if to <= SMALL {
            // SAFETY: handed on.
            return unsafe { resize(data, block, from, to) };
        }
    }
    // SAFETY: handed on.
    unsafe { any(data, block, from, to) }
}

/// A small block becomes another.
#[inline(never)]
unsafe extern "C" fn resize(
    data: *mut c_void,
    block: *mut c_void,
    from: usize,
    to: usize,
) -> *mut c_void {
    // SAFETY: 1.
    let vm = unsafe { &*data.cast::<Vm>() };
    // SAFETY: 2 and 3: a block of this VM, in a chunk.
    let before = unsafe { chunk(block) };
    // SAFETY: handed on.
    let result = unsafe { vm.call(block, from, to) };
    if result.is_null() {
        vm.tally.failed();
    } else {
        // SAFETY: 2 and 3: of a block in a chunk comes one in a chunk.
        let after = unsafe { chunk(result) };
        vm.tally.resized((from, Place::Chunk(before as u64)), (to, Place::Chunk(after as u64)));
    }
    result
}

/// Any call: a large block may have a mapping of its own, and may be the last one of the VM.
#[inline(never)]
unsafe extern "C" fn any(
    data: *mut c_void,
    block: *mut c_void,
    from: usize,
    to: usize,
) -> *mut c_void {
    // SAFETY: 1.
    let vm = unsafe { &*data.cast::<Vm>() };
    // SAFETY: 1 and 2: a block of this VM.
    let before = (!block.is_null()).then(|| unsafe { Block::of(block) });
    // SAFETY: handed on.
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
    // SAFETY: 1 and 2: just given.
    let after = unsafe { Block::of(result) };
    match before {
        Some(before) => {
            vm.tally.resized((from, before.place), (to, after.place));
            went(vm, before);
        }
        None => vm.tally.allocated(to, after.place),
    }
    if let Place::Direct(size) = after.place {
        vm.list(after.start..after.start.saturating_add(size as usize));
    }
    result
}

fn went(vm: &Vm, block: Block) {
    if let Place::Direct(_) = block.place {
        vm.unlist(block.start);
    }
}

/// Stands in for another allocator.
pub(super) unsafe extern "C" fn alloc_plain(
    data: *mut c_void,
    block: *mut c_void,
    from: usize,
    to: usize,
) -> *mut c_void {
    // SAFETY: 1.
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

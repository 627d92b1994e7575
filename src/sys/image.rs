//! Reads the memory of a loaded object: its dynamic section, and the tables that it refers to.
//!
//! Invariants of the unsafe code:
//!
//! 1. The object of a [`LoadedObject`] is still loaded: its segments are mapped as whole pages, and
//!    are readable where their flags say so. [`Image::new`] requires this of its caller.
//! 2. The loader has finished with the object's tables. Nobody writes to them any more, except to
//!    the slots of imports, which are read atomically.
//!
//! The tables themselves are not trusted: every address is checked to lie in a readable segment
//! before it is read.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys::elf::LoadedObject;

const DT_NULL: u64 = 0;
const DT_PLTRELSZ: u64 = 2;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_RELAENT: u64 = 9;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_PLTREL: u64 = 20;
const DT_JMPREL: u64 = 23;
/// The tag of objects whose imports are all bound when they are loaded.
pub const DT_BIND_NOW: u64 = 24;
/// The tag of the first word of flags.
pub const DT_FLAGS: u64 = 30;
/// The flag of [`DT_FLAGS`] with the meaning of [`DT_BIND_NOW`].
pub const DF_BIND_NOW: usize = 8;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
/// The tag of the second word of flags.
pub const DT_FLAGS_1: u64 = 0x6fff_fffb;
/// The flag of [`DT_FLAGS_1`] with the meaning of [`DT_BIND_NOW`].
pub const DF_1_NOW: usize = 1;

/// `Elf64_Rela`: `r_offset`, `r_info`, `r_addend`.
pub const RELA_SIZE: usize = 24;
/// `Elf64_Sym`: `st_name` (4), `st_info`, `st_other`, `st_shndx` (2), `st_value` (8), `st_size`
/// (8).
pub const SYM_SIZE: usize = 24;
/// `Elf64_Dyn`: `d_tag`, `d_val`.
const DYN_SIZE: usize = 16;

/// The memory of a loaded object (1).
pub struct Image<'a> {
    /// The object.
    pub object: &'a LoadedObject,
}

/// The fields of a dynamic section that are used here.
#[derive(Debug, Default)]
pub struct Dynamic {
    /// The address of the names of symbols.
    pub strings: usize,
    /// The size of the names in bytes.
    pub strings_size: usize,
    /// The address of the table of symbols.
    pub symbols: usize,
    /// The addresses of `DT_GNU_HASH` and `DT_HASH`, the tables to look symbols up in; 0 if there
    /// is none.
    pub hashes: (usize, usize),
    /// Whether all imports are bound when the object is loaded, and none at its first call.
    pub bind_now: bool,
    /// The address and size of `DT_JMPREL` and of `DT_RELA`.
    pub tables: [(usize, usize); 2],
}

impl<'a> Image<'a> {
    /// Makes an image of an object.
    ///
    /// # Safety
    ///
    /// The object is loaded, and stays loaded while the image is used.
    pub unsafe fn new(object: &'a LoadedObject) -> Self {
        Image { object }
    }

    /// Reads a dynamic section. Returns `None` if it is malformed or uses another format.
    pub fn dynamic(&self, at: usize) -> Option<Dynamic> {
        let mut found = Dynamic::default();
        let (mut jmprel, mut jmprel_size, mut rela, mut rela_size) = (0, 0, 0, 0);
        let mut at = at;
        loop {
            let tag = self.word(at)?;
            let value = self.word(at.wrapping_add(8))? as usize;
            at = at.wrapping_add(DYN_SIZE);
            match tag {
                DT_NULL => break,
                DT_STRTAB => found.strings = self.absolute(value)?,
                DT_STRSZ => found.strings_size = value,
                DT_SYMTAB => found.symbols = self.absolute(value)?,
                DT_GNU_HASH => found.hashes.0 = self.absolute(value)?,
                DT_HASH => found.hashes.1 = self.absolute(value)?,
                DT_JMPREL => jmprel = self.absolute(value)?,
                DT_PLTRELSZ => jmprel_size = value,
                DT_RELA => rela = self.absolute(value)?,
                DT_RELASZ => rela_size = value,
                DT_BIND_NOW => found.bind_now = true,
                DT_FLAGS => found.bind_now |= value & DF_BIND_NOW != 0,
                DT_FLAGS_1 => found.bind_now |= value & DF_1_NOW != 0,
                DT_PLTREL if value as u64 != DT_RELA => return None,
                DT_RELAENT if value != RELA_SIZE => return None,
                DT_SYMENT if value != SYM_SIZE => return None,
                _ => {}
            }
        }
        found.tables = [(jmprel, jmprel_size), (rela, rela_size)];
        Some(found)
    }

    /// Converts an address from the dynamic section: glibc replaces it by an absolute one in place,
    /// musl does not.
    fn absolute(&self, value: usize) -> Option<usize> {
        let relocated = self.object.bias.wrapping_add(value);
        [value, relocated].into_iter().find(|&address| self.object.contains(address))
    }

    /// Returns whether the symbol at an address has this name, which includes its NUL.
    pub fn is_named(&self, dynamic: &Dynamic, symbol: usize, name: &[u8]) -> Option<bool> {
        let start = self.bytes(symbol, 4)?;
        let start = u32::from_ne_bytes(start.try_into().ok()?) as usize;
        if start.checked_add(name.len())? > dynamic.strings_size {
            return Some(false);
        }
        Some(self.bytes(dynamic.strings.wrapping_add(start), name.len())? == name)
    }

    /// Reads a word; `None` if it is not readable.
    pub fn word(&self, address: usize) -> Option<u64> {
        self.bytes(address, 8)?.try_into().ok().map(u64::from_ne_bytes)
    }

    /// Returns bytes in place; `None` if they are not readable.
    pub fn bytes(&self, address: usize, len: usize) -> Option<&[u8]> {
        if !self.is_readable(address, len) {
            return None;
        }
        // SAFETY: the bytes lie in one readable segment of a loaded object, and nobody writes to
        // its tables (1, 2).
        Some(unsafe { std::slice::from_raw_parts(address as *const u8, len) })
    }

    /// Reads the slot of an import.
    pub fn slot(&self, address: usize) -> Option<usize> {
        if address % align_of::<AtomicUsize>() != 0 || !self.is_readable(address, 8) {
            return None;
        }
        // SAFETY: the slot is aligned, lies in one readable segment, and is only written as a whole
        // word (1).
        Some(unsafe { AtomicUsize::from_ptr(address as *mut usize) }.load(Ordering::Relaxed))
    }

    fn is_readable(&self, address: usize, len: usize) -> bool {
        let Some(end) = address.checked_add(len) else {
            return false;
        };
        self.object.segments.iter().any(|segment| {
            segment.flags & libc::PF_R != 0
                && segment.range.start <= address
                && end <= segment.range.end
        })
    }
}

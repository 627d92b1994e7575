//! The memory of a loaded object: its dynamic section, and what that leads to.
//!
//! What the unsafe code below relies on:
//!
//! 1. A [`LoadedObject`] whose object is still loaded: its segments are mapped as whole pages, and
//!    readable where they say so. [`Image::new`] demands it of its caller.
//! 2. The loader has finished with the object's tables; nobody writes to them any more, other than
//!    to the slots of imports, which are read atomically.
//!
//! Nothing is believed of the tables themselves: every address is checked to be in a readable
//! segment before it is read.

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
/// The tag for objects whose imports are all bound at load.
pub const DT_BIND_NOW: u64 = 24;
/// The tag of the flags.
pub const DT_FLAGS: u64 = 30;
/// The flag of [`DT_FLAGS`] with the meaning of [`DT_BIND_NOW`].
pub const DF_BIND_NOW: usize = 8;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
/// The tag of the further flags.
pub const DT_FLAGS_1: u64 = 0x6fff_fffb;
/// The flag of [`DT_FLAGS_1`] with the meaning of [`DT_BIND_NOW`].
pub const DF_1_NOW: usize = 1;

/// `Elf64_Rela`: `r_offset`, `r_info`, `r_addend`.
pub const RELA_SIZE: usize = 24;
/// `Elf64_Sym`: `st_name` (4), `st_info`, `st_other`, `st_shndx` (2), `st_value` (8), `st_size` (8).
pub const SYM_SIZE: usize = 24;
/// `Elf64_Dyn`: `d_tag`, `d_val`.
const DYN_SIZE: usize = 16;

/// The memory of an object that is loaded (1).
pub struct Image<'a> {
    /// The object.
    pub object: &'a LoadedObject,
}

/// What is of use in a dynamic section.
#[derive(Debug, Default)]
pub struct Dynamic {
    /// The names of symbols.
    pub strings: usize,
    /// Their bytes.
    pub strings_size: usize,
    /// The table of symbols.
    pub symbols: usize,
    /// The tables to look symbols up in: `DT_GNU_HASH` and `DT_HASH`; 0 where there is none.
    pub hashes: (usize, usize),
    /// Nothing is left to the first call.
    pub bind_now: bool,
    /// Address and size of `DT_JMPREL` and `DT_RELA`.
    pub tables: [(usize, usize); 2],
}

impl<'a> Image<'a> {
    /// The memory of an object.
    ///
    /// # Safety
    ///
    /// The object is loaded, and stays so while the image is used.
    pub unsafe fn new(object: &'a LoadedObject) -> Self {
        Image { object }
    }

    /// Reads a dynamic section.
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

    /// glibc turns the addresses of the dynamic section into absolute ones in place, musl does not.
    fn absolute(&self, value: usize) -> Option<usize> {
        let relocated = self.object.bias.wrapping_add(value);
        [value, relocated].into_iter().find(|&address| self.object.contains(address))
    }

    /// Whether the symbol at an address has the name, which includes its NUL.
    pub fn is_named(&self, dynamic: &Dynamic, symbol: usize, name: &[u8]) -> Option<bool> {
        let start = self.bytes(symbol, 4)?;
        let start = u32::from_ne_bytes(start.try_into().ok()?) as usize;
        if start.checked_add(name.len())? > dynamic.strings_size {
            return Some(false);
        }
        Some(self.bytes(dynamic.strings.wrapping_add(start), name.len())? == name)
    }

    /// A word, if it can be read.
    pub fn word(&self, address: usize) -> Option<u64> {
        self.bytes(address, 8)?.try_into().ok().map(u64::from_ne_bytes)
    }

    /// Bytes, if they can be read.
    pub fn bytes(&self, address: usize, len: usize) -> Option<&[u8]> {
        if !self.is_readable(address, len) {
            return None;
        }
        // SAFETY: 1 and 2; the bytes are in one readable segment.
        Some(unsafe { std::slice::from_raw_parts(address as *const u8, len) })
    }

    /// What the slot of an import holds.
    pub fn slot(&self, address: usize) -> Option<usize> {
        if address % align_of::<AtomicUsize>() != 0 || !self.is_readable(address, 8) {
            return None;
        }
        // SAFETY: 1; aligned, in one readable segment, and only ever written as a whole.
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

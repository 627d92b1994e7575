//! Reads the memory of a loaded object: its dynamic section, and the tables that it refers to.
//!
//! The structures and constants are those of the crate `object`. Its readers are not used: they find
//! tables by file offsets and section headers, which a loaded object does not have.
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

use object::elf;
use object::pod::{self, Pod};
use object::NativeEndian;

use crate::sys::elf::LoadedObject;

/// A symbol of an object of this machine.
pub type ElfSymbol = elf::Sym64<NativeEndian>;
/// A relocation of an object of this machine.
pub type ElfRelocation = elf::Rela64<NativeEndian>;
type ElfDynamic = elf::Dyn64<NativeEndian>;

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
            let entry: &ElfDynamic = self.get(at)?;
            let value = entry.d_val.get(NativeEndian) as usize;
            at = at.wrapping_add(size_of::<ElfDynamic>());
            match entry.d_tag.get(NativeEndian) {
                elf::DT_NULL => break,
                elf::DT_STRTAB => found.strings = self.absolute(value)?,
                elf::DT_STRSZ => found.strings_size = value,
                elf::DT_SYMTAB => found.symbols = self.absolute(value)?,
                elf::DT_GNU_HASH => found.hashes.0 = self.absolute(value)?,
                elf::DT_HASH => found.hashes.1 = self.absolute(value)?,
                elf::DT_JMPREL => jmprel = self.absolute(value)?,
                elf::DT_PLTRELSZ => jmprel_size = value,
                elf::DT_RELA => rela = self.absolute(value)?,
                elf::DT_RELASZ => rela_size = value,
                elf::DT_BIND_NOW => found.bind_now = true,
                elf::DT_FLAGS => found.bind_now |= value & elf::DF_BIND_NOW as usize != 0,
                elf::DT_FLAGS_1 => found.bind_now |= value & elf::DF_1_NOW as usize != 0,
                elf::DT_PLTREL if value as i64 != elf::DT_RELA => return None,
                elf::DT_RELAENT if value != size_of::<ElfRelocation>() => return None,
                elf::DT_SYMENT if value != size_of::<ElfSymbol>() => return None,
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

    /// Returns whether a symbol has this name, which includes its NUL.
    pub fn is_named(&self, dynamic: &Dynamic, symbol: &ElfSymbol, name: &[u8]) -> Option<bool> {
        let start = symbol.st_name.get(NativeEndian) as usize;
        if start.checked_add(name.len())? > dynamic.strings_size {
            return Some(false);
        }
        Some(self.bytes(dynamic.strings.wrapping_add(start), name.len())? == name)
    }

    /// Returns the symbol with this index.
    pub fn symbol(&self, dynamic: &Dynamic, index: usize) -> Option<&ElfSymbol> {
        self.get(dynamic.symbols.wrapping_add(index.wrapping_mul(size_of::<ElfSymbol>())))
    }

    /// Returns a structure in place; `None` if it is not readable.
    pub fn get<T: Pod>(&self, address: usize) -> Option<&T> {
        let (found, _) = pod::from_bytes(self.bytes(address, size_of::<T>())?).ok()?;
        Some(found)
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

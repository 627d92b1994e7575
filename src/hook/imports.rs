//! Where an object keeps the addresses of a function it imports: the slots of its global offset
//! table, found through its dynamic section.
//!
//! What the unsafe code below relies on:
//!
//! 1. A [`LoadedObject`] whose object is still loaded: its segments are mapped as whole pages, and
//!    readable where they say so. [`imports`] demands it of its caller.
//! 2. The loader has finished with the object's tables; nobody writes to them any more, other than
//!    to the slots, which are read atomically.
//!
//! Nothing is believed of the tables themselves: every address is checked to be in a readable
//! segment before it is read.

use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::refusal::Refusal;
use crate::probe::elf::LoadedObject;

/// A slot that holds the address of an imported function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Import {
    /// The slot's address, a multiple of 8.
    pub slot: usize,
    /// What it held when it was found.
    pub value: usize,
    /// The object has a definition of its own.
    pub defined: bool,
    /// The loader may have left it to the first call to look the function up: until then the slot
    /// leads to a stub in the object itself.
    pub lazy: bool,
    /// The address of the stub that stands for the function in every object: a position-dependent
    /// executable that takes a function's address has one.
    pub stub: Option<usize>,
}

/// The relocation types of slots, where they are known: `R_*_GLOB_DAT` and `R_*_JUMP_SLOT`.
const SLOT_TYPES: Option<(u32, u32)> = if cfg!(target_arch = "x86_64") {
    Some((6, 7))
} else if cfg!(all(target_arch = "aarch64", target_pointer_width = "64")) {
    Some((1025, 1026))
} else {
    None
};

const DT_NULL: u64 = 0;
const DT_PLTRELSZ: u64 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_RELAENT: u64 = 9;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_PLTREL: u64 = 20;
const DT_JMPREL: u64 = 23;
const DT_BIND_NOW: u64 = 24;
const DT_FLAGS: u64 = 30;
const DF_BIND_NOW: usize = 8;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_1_NOW: usize = 1;

/// `Elf64_Rela`: `r_offset`, `r_info`, `r_addend`.
const RELA_SIZE: usize = 24;
/// `Elf64_Sym`: `st_name` (4), `st_info`, `st_other`, `st_shndx` (2), `st_value` (8), `st_size` (8).
const SYM_SIZE: usize = 24;
/// `Elf64_Dyn`: `d_tag`, `d_val`.
const DYN_SIZE: usize = 16;

/// The slots of `object` that hold the address of `symbol`. Slots of a weak import that nothing
/// defines hold 0 and are left out. An object without a dynamic section imports nothing.
///
/// # Safety
///
/// The object is loaded, and stays so during the call.
pub unsafe fn imports(object: &LoadedObject, symbol: &CStr) -> Result<Vec<Import>, Refusal> {
    let types = SLOT_TYPES.ok_or(Refusal::Architecture)?;
    let Some(dynamic) = object.dynamic else {
        return Ok(Vec::new());
    };
    Image { object, types }
        .imports(dynamic, symbol.to_bytes_with_nul())
        .ok_or_else(|| Refusal::Malformed { object: object.name.clone() })
}

/// The memory of an object that is loaded (1).
struct Image<'a> {
    object: &'a LoadedObject,
    types: (u32, u32),
}

/// What is of use in a dynamic section.
#[derive(Debug, Default)]
struct Dynamic {
    strings: usize,
    strings_size: usize,
    symbols: usize,
    /// Nothing is left to the first call.
    bind_now: bool,
    /// Address and size of `DT_JMPREL` and `DT_RELA`.
    tables: [(usize, usize); 2],
}

impl Image<'_> {
    fn imports(&self, dynamic: usize, name: &[u8]) -> Option<Vec<Import>> {
        let dynamic = self.dynamic(dynamic)?;
        let (glob_dat, jump_slot) = self.types;
        let mut found: Vec<Import> = Vec::new();
        for (table, size) in dynamic.tables {
            for entry in (0..size / RELA_SIZE).map(|i| table.wrapping_add(i * RELA_SIZE)) {
                let info = self.word(entry.wrapping_add(8))?;
                let (symbol, kind) = ((info >> 32) as usize, info as u32);
                if symbol == 0 || (kind != glob_dat && kind != jump_slot) {
                    continue;
                }
                let symbol = dynamic.symbols.wrapping_add(symbol.wrapping_mul(SYM_SIZE));
                if !self.is_named(&dynamic, symbol, name)? {
                    continue;
                }
                let slot = self.object.bias.wrapping_add(self.word(entry)? as usize);
                let value = self.slot(slot)?;
                if value == 0 || found.iter().any(|import| import.slot == slot) {
                    continue;
                }
                let defined = self.bytes(symbol.wrapping_add(6), 2)? != [0, 0];
                let address = self.word(symbol.wrapping_add(8))? as usize;
                let stub =
                    (!defined && address != 0).then(|| self.object.bias.wrapping_add(address));
                let lazy = kind == jump_slot && !dynamic.bind_now;
                found.push(Import { slot, value, defined, lazy, stub });
            }
        }
        Some(found)
    }

    fn dynamic(&self, at: usize) -> Option<Dynamic> {
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
    fn is_named(&self, dynamic: &Dynamic, symbol: usize, name: &[u8]) -> Option<bool> {
        let start = self.bytes(symbol, 4)?;
        let start = u32::from_ne_bytes(start.try_into().ok()?) as usize;
        if start.checked_add(name.len())? > dynamic.strings_size {
            return Some(false);
        }
        Some(self.bytes(dynamic.strings.wrapping_add(start), name.len())? == name)
    }

    fn word(&self, address: usize) -> Option<u64> {
        self.bytes(address, 8)?.try_into().ok().map(u64::from_ne_bytes)
    }

    fn bytes(&self, address: usize, len: usize) -> Option<&[u8]> {
        if !self.is_readable(address, len) {
            return None;
        }
        // SAFETY: 1 and 2; the bytes are in one readable segment.
        Some(unsafe { std::slice::from_raw_parts(address as *const u8, len) })
    }

    fn slot(&self, address: usize) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::testing::{Made, JUMP_SLOT};
    use crate::probe::elf::objects;

    fn read(made: &Made, symbol: &CStr) -> Result<Vec<Import>, Refusal> {
        // SAFETY: the object's only segment is the box in `made`.
        unsafe { imports(&made.object(), symbol) }
    }

    #[test]
    fn one_slot_of_a_made_up_object() {
        let mut made = Made::new();
        let bias = made.object().bias;
        let mut expected =
            Import { slot: bias + 400, value: 0x1234, defined: false, lazy: true, stub: None };
        assert_eq!(read(&made, c"function"), Ok(vec![expected]));
        assert_eq!(read(&made, c"functio"), Ok(vec![]));
        assert_eq!(read(&made, c"unction"), Ok(vec![]));
        assert_eq!(read(&made, c"functions"), Ok(vec![]));
        made.words[40] = 0x40;
        expected.stub = Some(bias + 0x40);
        assert_eq!(read(&made, c"function"), Ok(vec![expected]));
        made.words[39] |= 7 << 48;
        (expected.stub, expected.defined) = (None, true);
        assert_eq!(read(&made, c"function"), Ok(vec![expected]));
        // The same with absolute addresses in the dynamic section.
        for i in [1, 5, 9] {
            made.words[i] += bias as u64;
        }
        assert_eq!(read(&made, c"function"), Ok(vec![expected]));
        // The end of the dynamic section is at words 14 and 15.
        for (tag, flags, lazy) in [
            (DT_BIND_NOW, 0, false),
            (DT_FLAGS, DF_BIND_NOW as u64, false),
            (DT_FLAGS, 2, true),
            (DT_FLAGS_1, DF_1_NOW as u64, false),
            (DT_FLAGS_1, 2, true),
        ] {
            (made.words[14], made.words[15]) = (tag, flags);
            expected.lazy = lazy;
            assert_eq!(read(&made, c"function"), Ok(vec![expected]));
        }
        made.words[50] = 0;
        assert_eq!(read(&made, c"function"), Ok(vec![]));
    }

    #[test]
    fn malformed_objects() {
        let refusal = Err(Refusal::Malformed { object: "made".into() });
        for (word, value) in [
            (1, 1 << 40),                 // strings
            (5, 512),                     // symbols
            (7, 16),                      // size of a symbol
            (9, u64::MAX),                // relocations
            (11, 24 * 100),               // more of them than there are
            (13, 17),                     // DT_REL
            (14, 5),                      // no end
            (32, 508),                    // slot across the end
            (32, 404),                    // slot not aligned
            (33, (99 << 32) | JUMP_SLOT), // symbol out of the table
        ] {
            let mut made = Made::new();
            made.words[word] = value;
            if word == 14 {
                made.words[14..].fill(value);
            }
            assert_eq!(read(&made, c"function"), refusal, "word {word} = {value}");
        }
        let mut object = Made::new().object();
        object.dynamic = None;
        // SAFETY: without a dynamic section nothing is read.
        assert_eq!(unsafe { imports(&object, c"function") }, Ok(vec![]));
    }

    #[test]
    fn the_objects_of_this_process() {
        let objects = objects();
        // SAFETY: the executable and the C library are never unloaded.
        let found = unsafe { imports(&objects[0], c"pthread_create") }.unwrap();
        assert!(!found.is_empty());
        let libc = objects.iter().find(|object| object.name.starts_with("libc.")).unwrap();
        for import in found {
            assert!(objects[0].writable().any(|range| range.contains(&import.slot)));
            assert!(!import.defined);
            assert!(libc.executable().any(|range| range.contains(&import.value)));
        }
        for object in &objects {
            // SAFETY: the tests that unload something have processes of their own.
            let found = unsafe { imports(object, c"no_such_function") };
            assert_eq!(found, Ok(vec![]), "{object:?}");
        }
    }
}

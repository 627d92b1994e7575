//! Finds where an object keeps the addresses of a function that it imports: the slots of its global
//! offset table, which its dynamic section describes.
//!
//! What the unsafe code below relies on:
//!
//! 1. The object is loaded and stays so during the call. [`imports`] requires this of its caller,
//!    as [`Image`] does.

use std::ffi::CStr;

use object::elf::SHN_UNDEF;
use object::NativeEndian;

use super::arch::{GLOB_DAT, JUMP_SLOT};
use super::refusal::Refusal;
use crate::sys::elf::LoadedObject;
use crate::sys::image::{ElfRelocation, Image};

/// A slot that holds the address of an imported function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Import {
    /// The slot's address, a multiple of 8.
    pub slot: usize,
    /// The value of the slot when it was found.
    pub value: usize,
    /// Whether the object has a definition of its own.
    pub defined: bool,
    /// Whether the loader may have postponed the lookup to the first call. Until then the slot
    /// leads to a stub in the object itself.
    pub lazy: bool,
    /// The address of a stub that all objects use in place of the function. A position-dependent
    /// executable that takes a function's address has such a stub.
    pub stub: Option<usize>,
}

/// Returns the slots of `object` that hold the address of `symbol`. Slots of a weak import without
/// a definition hold 0 and are left out. An object without a dynamic section imports nothing.
///
/// # Safety
///
/// The object is loaded, and stays so during the call.
pub unsafe fn imports(object: &LoadedObject, symbol: &CStr) -> Result<Vec<Import>, Refusal> {
    let Some(dynamic) = object.dynamic else {
        return Ok(Vec::new());
    };
    // SAFETY: the object is loaded and stays so, by contract (1).
    let image = unsafe { Image::new(object) };
    find(&image, dynamic, symbol.to_bytes_with_nul())
        .ok_or_else(|| Refusal::Malformed { object: object.name.clone() })
}

fn find(image: &Image, dynamic: usize, name: &[u8]) -> Option<Vec<Import>> {
    let dynamic = image.dynamic(dynamic)?;
    let mut found: Vec<Import> = Vec::new();
    for (table, size) in dynamic.tables {
        for index in 0..size / size_of::<ElfRelocation>() {
            let at = table.wrapping_add(index * size_of::<ElfRelocation>());
            let entry: &ElfRelocation = image.get(at)?;
            let kind = entry.r_type(NativeEndian, false);
            let symbol = entry.r_sym(NativeEndian, false) as usize;
            if symbol == 0 || (kind != GLOB_DAT && kind != JUMP_SLOT) {
                continue;
            }
            let symbol = image.symbol(&dynamic, symbol)?;
            if !image.is_named(&dynamic, symbol, name)? {
                continue;
            }
            let offset = entry.r_offset.get(NativeEndian) as usize;
            let slot = image.object.bias.wrapping_add(offset);
            let value = image.slot(slot)?;
            if value == 0 || found.iter().any(|import| import.slot == slot) {
                continue;
            }
            let defined = symbol.st_shndx.get(NativeEndian) != SHN_UNDEF;
            let address = symbol.st_value.get(NativeEndian) as usize;
            let stub = (!defined && address != 0).then(|| image.object.bias.wrapping_add(address));
            let lazy = kind == JUMP_SLOT && !dynamic.bind_now;
            found.push(Import { slot, value, defined, lazy, stub });
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::elf::objects;
    use crate::sys::testing::Made;
    use object::elf::{DF_1_NOW, DF_BIND_NOW, DT_BIND_NOW, DT_FLAGS, DT_FLAGS_1};

    fn read(made: &Made, symbol: &CStr) -> Result<Vec<Import>, Refusal> {
        // SAFETY: the object's only segment is the box in `made` (1).
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
            (DT_FLAGS, DF_BIND_NOW.into(), false),
            (DT_FLAGS, 2, true),
            (DT_FLAGS_1, DF_1_NOW.into(), false),
            (DT_FLAGS_1, 2, true),
        ] {
            (made.words[14], made.words[15]) = (tag as u64, flags);
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
            (1, 1 << 40),                            // strings
            (5, 512),                                // symbols
            (7, 16),                                 // size of a symbol
            (9, u64::MAX),                           // relocations
            (11, 24 * 100),                          // more of them than there are
            (13, 17),                                // DT_REL
            (14, 5),                                 // no end
            (32, 508),                               // slot across the end
            (32, 404),                               // slot not aligned
            (33, (99 << 32) | u64::from(JUMP_SLOT)), // symbol out of the table
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
        // SAFETY: without a dynamic section nothing is read (1).
        assert_eq!(unsafe { imports(&object, c"function") }, Ok(vec![]));
    }

    #[test]
    fn the_objects_of_this_process() {
        let objects = objects();
        // SAFETY: the executable and the C library are never unloaded (1).
        let found = unsafe { imports(&objects[0], c"pthread_create") }.unwrap();
        assert!(!found.is_empty());
        let libc = objects.iter().find(|object| object.name.starts_with("libc.")).unwrap();
        for import in found {
            assert!(objects[0].writable().any(|range| range.contains(&import.slot)));
            assert!(!import.defined);
            assert!(libc.executable().any(|range| range.contains(&import.value)));
        }
        for object in &objects {
            // SAFETY: tests that unload something run in processes of their own (1).
            let found = unsafe { imports(object, c"no_such_function") };
            assert_eq!(found, Ok(vec![]), "{object:?}");
        }
    }
}

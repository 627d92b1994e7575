//! Reads the functions that an ELF file names in its `.symtab`, which is not loaded into memory.
//!
//! A build of one's own has this section; a distribution moves it to a file of debugging
//! information. Fedora and its relatives also leave the names of functions in the file itself:
//! `.gnu_debugdata` is an ELF file in the format of xz, with a `.symtab` of its own. The crate
//! `object` reads the files, and `lzma-rust2` decompresses them, which takes milliseconds: call this
//! in the child of a trial, not on an event loop.
#![forbid(unsafe_code)]

use std::io::Read;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use object::elf::{
    FileHeader64, Sym64, ELF_NOTE_GNU, NT_GNU_BUILD_ID, SHN_UNDEF, SHT_SYMTAB, STT_FUNC,
};
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym};
use object::NativeEndian;

/// The sections of a file for this machine.
type Sections<'a> = SectionTable<'a, FileHeader64<NativeEndian>>;

/// Files larger than this are not read.
const LARGEST: u64 = 512 << 20;

/// The section with compressed symbols. If they are larger than this, decompressed, they are not
/// read.
const DEBUG_DATA: &[u8] = b".gnu_debugdata";
const LARGEST_UNPACKED: u64 = 32 << 20;

/// The offset of the first block's header in a file of xz, and the highest code of a dictionary's
/// size that is accepted: 32 MB.
const XZ_BLOCK: usize = 12;
const LARGEST_DICTIONARY: u8 = 26;

/// The directory in which distributions store debugging information by build id.
const DEBUG: &str = "/usr/lib/debug/.build-id";

/// A function in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its start in the file's address space.
    pub address: usize,
    /// Its size in bytes.
    pub size: usize,
    /// Its name, without the suffix that a compiler adds to the name of a part (`.cold`,
    /// `.part.0`).
    pub name: String,
}

/// Returns the functions named in a file, or in the file of debugging information for it, in no
/// particular order. The file must begin with `head`, as the object in memory does.
pub fn of(path: &Path, head: &[u8]) -> Vec<Function> {
    let Some(file) = read(path).filter(|file| file.starts_with(head)) else { return Vec::new() };
    let own = functions(&file).unwrap_or_default();
    if !own.is_empty() {
        return own;
    }
    let debug =
        build_id(&file).and_then(|id| read(&debug_path(&id)?).filter(|f| build_id(f) == Some(id)));
    let debug = debug.and_then(|file| functions(&file)).unwrap_or_default();
    if !debug.is_empty() {
        return debug;
    }
    debug_data(&file).and_then(|file| functions(&file)).unwrap_or_default()
}

/// Returns the decompressed contents of `.gnu_debugdata`.
fn debug_data(file: &[u8]) -> Option<Vec<u8>> {
    let (_, section) = sections(file)?.section_by_name(NativeEndian, DEBUG_DATA)?;
    unpack(section.data(NativeEndian, file).ok()?)
}

/// Decompresses a file of xz. Returns `None` if it is malformed, or larger than
/// [`LARGEST_UNPACKED`].
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    if !has_small_dictionary(packed)? {
        return None;
    }
    // The crate has panics for cases that its authors hold to be impossible.
    catch_unwind(|| {
        let mut unpacked = Vec::new();
        let reader = lzma_rust2::XzReader::new(packed, false);
        reader.take(LARGEST_UNPACKED + 1).read_to_end(&mut unpacked).ok()?;
        (unpacked.len() as u64 <= LARGEST_UNPACKED).then_some(unpacked)
    })
    .ok()?
}

/// Returns whether the first block has LZMA2 as its only filter, with a dictionary of at most 32 MB:
/// the crate allocates it before it reads anything.
fn has_small_dictionary(packed: &[u8]) -> Option<bool> {
    const LZMA2: u8 = 0x21;
    let block = packed.get(XZ_BLOCK..)?;
    let flags = *block.get(1)?;
    let filters = flags & 3;
    // Bits 6 and 7: the block's sizes precede the filters, as numbers of 7 bits in each byte.
    let mut rest = block.get(2..)?;
    for _ in 0..(flags >> 6).count_ones() {
        let end = rest.iter().position(|byte| byte & 0x80 == 0)?;
        rest = rest.get(end + 1..)?;
    }
    let [filter, 1, dictionary, ..] = rest else { return Some(false) };
    Some(filters == 0 && *filter == LZMA2 && *dictionary <= LARGEST_DICTIONARY)
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let size = std::fs::metadata(path).ok()?.len();
    (size <= LARGEST).then(|| std::fs::read(path).ok()).flatten()
}

fn debug_path(id: &[u8]) -> Option<PathBuf> {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (folder, name) = (hex.get(..2)?, hex.get(2..)?);
    Some(Path::new(DEBUG).join(folder).join(format!("{name}.debug")))
}

/// Returns the sections of a file; `None` if it is for another kind of machine.
fn sections(file: &[u8]) -> Option<Sections<'_>> {
    let header = FileHeader64::<NativeEndian>::parse(file).ok()?;
    header.sections(header.endian().ok()?, file).ok()
}

fn functions(file: &[u8]) -> Option<Vec<Function>> {
    let sections = sections(file)?;
    let symbols = sections.symbols(NativeEndian, file, SHT_SYMTAB).ok()?;
    let function = |symbol: &Sym64<NativeEndian>| {
        let is_defined = symbol.st_shndx(NativeEndian) != SHN_UNDEF;
        if symbol.st_type() != STT_FUNC || !is_defined {
            return None;
        }
        let name = symbol.name(NativeEndian, symbols.strings()).ok()?;
        let name = name.split(|byte| *byte == b'.').next().filter(|name| !name.is_empty())?;
        let name = String::from_utf8_lossy(name).into_owned();
        let address = symbol.st_value(NativeEndian).try_into().ok()?;
        Some(Function { address, size: symbol.st_size(NativeEndian).try_into().ok()?, name })
    };
    Some(symbols.iter().filter_map(function).collect())
}

fn build_id(file: &[u8]) -> Option<Vec<u8>> {
    let sections = sections(file)?;
    let notes = sections.iter().filter_map(|section| section.notes(NativeEndian, file).ok()?);
    notes.flatten().map_while(Result::ok).find_map(|note| {
        let is_id = note.name() == ELF_NOTE_GNU && note.n_type(NativeEndian) == NT_GNU_BUILD_ID;
        is_id.then(|| note.desc().to_vec())
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::process::Command;

    use super::*;

    #[test]
    fn of_this_program() {
        let path = std::env::current_exe().unwrap();
        let found = of(&path, b"\x7fELF");
        assert!(found.iter().any(|function| function.name == "main" && function.size > 0));
        assert_eq!(of(&path, b"another"), []);
        assert_eq!(of(Path::new("/no/such/file"), b""), []);
        assert!(build_id(&read(&path).unwrap()).is_none_or(|id| id.len() >= 8));
    }

    #[test]
    fn cut_and_changed_files() {
        let file = read(&std::env::current_exe().unwrap()).unwrap();
        for length in [0, 5, 6, 63, 64, 1000, file.len() / 2] {
            assert!(functions(&file[..length]).is_none_or(|found| found.is_empty()));
        }
        let mut changed = file[..4096].to_vec();
        for at in 0..64 {
            changed[at] ^= 0xff;
            let _ = (functions(&changed), build_id(&changed));
            changed[at] ^= 0xff;
        }
    }

    #[test]
    fn where_debugging_information_is() {
        let path = debug_path(&[0xab, 0x01, 0xff]).unwrap();
        assert_eq!(path, Path::new("/usr/lib/debug/.build-id/ab/01ff.debug"));
        assert_eq!(debug_path(&[]), None);
    }

    /// Returns what `xz` writes for some bytes.
    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut file = tempfile();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let output = Command::new("xz").arg("-3c").stdin(file).output().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    fn tempfile() -> std::fs::File {
        let path = std::env::temp_dir().join(format!("memstat-symbols-{}", std::process::id()));
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn compressed_symbols() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let small = packed(&bytes);
        assert_eq!(unpack(&small), Some(bytes));
        for cut in [0, 12, 13, 17, 24, 1000, small.len() - 1] {
            assert_eq!(unpack(&small[..cut]), None, "{cut}");
        }
        for at in 0..64 {
            let mut changed = small.clone();
            changed[at] ^= 0xff;
            assert_eq!(unpack(&changed), None, "{at}");
        }
        assert_eq!(unpack(&packed(&vec![0; LARGEST_UNPACKED as usize + 1])), None);
    }

    #[test]
    fn dictionaries() {
        let with = |flags: &[u8]| has_small_dictionary(&[&[0; 13], flags].concat());
        assert_eq!(with(&[0, 0x21, 1, LARGEST_DICTIONARY]), Some(true));
        assert_eq!(with(&[0, 0x21, 1, LARGEST_DICTIONARY + 1]), Some(false));
        assert_eq!(with(&[0xc0, 0x81, 1, 5, 0x21, 1, 22]), Some(true));
        assert_eq!(with(&[0x40, 0x81]), None);
        // Another filter, or two.
        assert_eq!(with(&[0, 4, 0, 22]), Some(false));
        assert_eq!(with(&[1, 0x21, 1, 22]), Some(false));
    }
}

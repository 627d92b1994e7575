//! Reads the functions that an ELF file names in its `.symtab`, which is not loaded into memory.
//!
//! A build of one's own has this section; a distribution moves it to a file of debugging
//! information. The crate `object` reads the files.
#![forbid(unsafe_code)]

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
    debug.and_then(|file| functions(&file)).unwrap_or_default()
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
}

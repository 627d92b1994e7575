//! Reads the functions that an ELF file names in its `.symtab`, which is not loaded into memory.
//!
//! A build of one's own has this section; a distribution moves it to a file of debugging
//! information.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

const SHT_SYMTAB: u32 = 2;
const SHT_NOTE: u32 = 7;
const STT_FUNC: u8 = 2;
const NT_GNU_BUILD_ID: u32 = 3;
const SECTION_SIZE: usize = 64;
const SYMBOL_SIZE: usize = 24;

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

fn half(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?))
}

fn word(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*file.get(at..)?.first_chunk()?)).ok()
}

/// Returns the section headers of a 64-bit little-endian file, each with its contents.
fn sections(file: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, count) = (word(file, 40)?, u16::from_le_bytes(*file.get(60..)?.first_chunk()?));
    let headers = file.get(table..)?.chunks_exact(SECTION_SIZE).take(usize::from(count));
    let bytes = |header| {
        let (start, size) = (word(header, 24)?, word(header, 32)?);
        file.get(start..start.checked_add(size)?)
    };
    Some(headers.map(|header| (header, bytes(header).unwrap_or_default())).collect())
}

fn functions(file: &[u8]) -> Option<Vec<Function>> {
    let sections = sections(file)?;
    let (header, symbols) = sections.iter().find(|(h, _)| half(h, 4) == Some(SHT_SYMTAB))?;
    let (_, strings) = sections.get(half(header, 40)? as usize)?;
    let function = |symbol: &[u8]| {
        let is_defined = symbol.get(6..8)? != [0, 0];
        if symbol.get(4)? & 0xf != STT_FUNC || !is_defined {
            return None;
        }
        let name = strings.get(half(symbol, 0)? as usize..)?.split(|byte| *byte == 0).next()?;
        let name = name.split(|byte| *byte == b'.').next().filter(|name| !name.is_empty())?;
        let name = String::from_utf8_lossy(name).into_owned();
        Some(Function { address: word(symbol, 8)?, size: word(symbol, 16)?, name })
    };
    Some(symbols.chunks_exact(SYMBOL_SIZE).filter_map(function).collect())
}

fn build_id(file: &[u8]) -> Option<Vec<u8>> {
    let sections = sections(file)?;
    let mut notes = sections.iter().filter(|(header, _)| half(header, 4) == Some(SHT_NOTE));
    notes.find_map(|(_, note)| {
        let (name, size, kind) = (half(note, 0)?, half(note, 4)? as usize, half(note, 8)?);
        let is_id = name == 4 && kind == NT_GNU_BUILD_ID && note.get(12..16)? == b"GNU\0";
        note.get(16..16usize.checked_add(size)?).filter(|_| is_id).map(<[u8]>::to_vec)
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

//! Reads the mappings of this process from `/proc/self/maps`, in steps.
//!
//! The types are those of `procfs`, the reader is not. The parser of `procfs` reads the whole file
//! in one call, which cannot be divided into slices of the event loop, and takes five times as
//! long, a tenth of a snapshot.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use crate::budget::{Budget, Progress};

/// The number of mappings that there is room for before the list grows.
const TYPICAL: usize = 160;

/// Reads the mappings. Call [`MapsReader::step`] until it returns [`Progress::Done`].
#[derive(Debug)]
pub struct MapsReader {
    file: File,
    /// The start of a line that the last read did not complete.
    tail: Vec<u8>,
    maps: Vec<MemoryMap>,
}

impl MapsReader {
    /// Opens the file.
    ///
    /// Each read continues at the next address. A mapping that is made or removed meanwhile may be
    /// listed or not, but no entry is torn.
    pub fn open() -> io::Result<Self> {
        let file = File::open("/proc/self/maps")?;
        Ok(MapsReader { file, tail: Vec::new(), maps: Vec::with_capacity(TYPICAL) })
    }

    /// Continues to read until the file ends or the budget is spent.
    pub fn step(&mut self, budget: &Budget) -> io::Result<Progress> {
        // The kernel returns at most this many bytes per read.
        let mut buffer = [0; 4096];
        loop {
            let n = self.file.read(&mut buffer)?;
            if n == 0 {
                self.parse_lines(true)?;
                return Ok(Progress::Done);
            }
            self.tail.extend_from_slice(buffer.get(..n).unwrap_or_default());
            self.parse_lines(false)?;
            if budget.spent() {
                return Ok(Progress::More);
            }
        }
    }

    /// Returns the mappings in ascending order of addresses.
    pub fn finish(self) -> Vec<MemoryMap> {
        self.maps
    }

    fn parse_lines(&mut self, all: bool) -> io::Result<()> {
        let whole = match memchr::memrchr(b'\n', &self.tail) {
            _ if all => self.tail.len(),
            Some(newline) => newline + 1,
            None => return Ok(()),
        };
        let rest = self.tail.split_off(whole);
        let mut lines = self.tail.as_slice();
        while !lines.is_empty() {
            let end = memchr::memchr(b'\n', lines).unwrap_or(lines.len());
            let (line, behind) = lines.split_at(end);
            lines = behind.get(1..).unwrap_or_default();
            let map = parse(line)
                .ok_or_else(|| io::Error::other("it has a line of an unknown format"))?;
            if in_address_space(&map) {
                self.maps.push(map);
            }
        }
        self.tail = rest;
        Ok(())
    }
}

/// Returns all mappings of this process in ascending order of addresses. Unlike a [`MapsReader`], it
/// takes as long as it takes.
pub fn all() -> io::Result<Vec<MemoryMap>> {
    let mut reader = MapsReader::open()?;
    while reader.step(&Budget::unlimited())? == Progress::More {}
    Ok(reader.finish())
}

/// Parses one line: `from-to perms offset major:minor inode path`, as described in the kernel's
/// `Documentation/filesystems/proc.rst`.
fn parse(line: &[u8]) -> Option<MemoryMap> {
    let (from, rest) = number::<16>(line, b'-')?;
    let (to, rest) = number::<16>(rest, b' ')?;
    let (perms, rest) = rest.split_at_checked(4)?;
    let (offset, rest) = number::<16>(rest.strip_prefix(b" ")?, b' ')?;
    let (major, rest) = number::<16>(rest, b':')?;
    let (minor, rest) = number::<16>(rest, b' ')?;
    let (inode, path) = number::<10>(rest, b' ')?;
    let each = [
        (b'r', MMPermissions::READ),
        (b'w', MMPermissions::WRITE),
        (b'x', MMPermissions::EXECUTE),
        (b's', MMPermissions::SHARED),
        (b'p', MMPermissions::PRIVATE),
    ];
    let given = each.into_iter().filter(|(letter, _)| perms.contains(letter));
    Some(MemoryMap {
        address: (from, to),
        perms: given.fold(MMPermissions::NONE, |all, (_, permission)| all | permission),
        offset,
        dev: (major.try_into().ok()?, minor.try_into().ok()?),
        inode,
        pathname: pathname(path.trim_ascii_start()),
        extension: Default::default(),
    })
}

/// Interprets the last column.
fn pathname(path: &[u8]) -> MMapPath {
    let file = || MMapPath::Path(OsStr::from_bytes(path).into());
    match path {
        b"" => MMapPath::Anonymous,
        [b'/', ..] if !is_segment(path) => file(),
        _ => MMapPath::from(&String::from_utf8_lossy(path)).unwrap_or_else(|_| file()),
    }
}

/// Returns whether a path is that of a System V segment: `/SYSV` and its key in eight digits.
fn is_segment(path: &[u8]) -> bool {
    let key = path.strip_prefix(b"/SYSV").and_then(|key| key.get(..8));
    key.is_some_and(|key| key.iter().all(u8::is_ascii_hexdigit))
}

/// Parses the number at the start of a text. Returns it and the text behind the byte that ends it.
fn number<const RADIX: u64>(text: &[u8], end: u8) -> Option<(u64, &[u8])> {
    let (mut number, mut rest) = (0u64, text);
    loop {
        let (byte, behind) = rest.split_first()?;
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            byte if *byte == end && rest.len() < text.len() => return Some((number, behind)),
            _ => return None,
        };
        let digit = Some(u64::from(digit)).filter(|digit| *digit < RADIX)?;
        number = number.checked_mul(RADIX)?.checked_add(digit)?;
        rest = behind;
    }
}

/// Returns the addresses of a mapping.
pub fn range(map: &MemoryMap) -> Range<usize> {
    map.address.0 as usize..map.address.1 as usize
}

/// Returns whether a mapping is shared between processes.
pub fn is_shared(map: &MemoryMap) -> bool {
    map.perms.contains(MMPermissions::SHARED)
}

/// Returns whether a mapping has a file: a real one, or one of the kernel's own for shared memory.
pub fn has_file(map: &MemoryMap) -> bool {
    map.inode != 0 || is_shared(map)
}

/// Returns whether a mapping is executable and has no file: machine code generated at run time.
pub fn is_generated_code(map: &MemoryMap) -> bool {
    let is_anonymous = match &map.pathname {
        MMapPath::Anonymous => true,
        MMapPath::Other(name) => name.starts_with("anon:"),
        _ => false,
    };
    is_anonymous && map.perms.contains(MMPermissions::EXECUTE) && !has_file(map)
}

/// Returns whether a mapping consists of huge pages that no resident figure includes:
/// `MAP_HUGETLB`.
pub fn is_hugetlb(map: &MemoryMap) -> bool {
    map.inode != 0
        && matches!(&map.pathname, MMapPath::Path(path)
            if path.as_os_str().as_bytes().starts_with(b"/anon_hugepage"))
}

/// Returns false for `[vsyscall]`, which is listed but belongs to no process's address space.
fn in_address_space(map: &MemoryMap) -> bool {
    map.address.1 <= 1 << 63
}

#[cfg(test)]
mod tests {
    use procfs::process::MemoryMaps;
    use procfs::FromBufRead;

    use super::*;

    #[test]
    fn reads_as_procfs_does() {
        let lines = [
            "55b1554d0000-55b1554d2000 r-xp 0001f000 fe:01 1234 /usr/sbin/nginx (deleted)",
            "7f5bfd97a000-7f5bfd97b000 rw-s 00000000 00:01 7 /dev/zero (deleted)",
            "7f5bfd97a000-7f5bfd97b000 rw-s 00000000 00:01 32769 /SYSV0000abcd (deleted)",
            "7f5bfd97c000-7f5bfd97d000 ---p 00000000 00:00 0 ",
            "55b155500000-55b155600000 rw-p 00000000 00:00 0 [heap]",
            "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]",
            "7ffd00030000-7ffd00032000 r-xp 00000000 00:00 0 [vdso]",
            "7f5bfd97a000-7f5bfd97b000 rw-p 00000000 00:00 0 [anon: a name]",
            "7f5bfd97a000-7f5bfd97b000 rw-p 00000000 00:00 0 anon_inode:[io_uring]",
            "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]",
        ];
        for line in lines {
            let theirs = MemoryMaps::from_buf_read(format!("{line}\n").as_bytes()).unwrap();
            assert_eq!(parse(line.as_bytes()).as_ref(), theirs.0.first(), "{line}");
        }
        let table = [
            ("/SYSV", MMapPath::Path("/SYSV".into())),
            ("/SYSV0000abc\u{e4}", MMapPath::Path("/SYSV0000abc\u{e4}".into())),
        ];
        for (path, expected) in table {
            assert_eq!(pathname(path.as_bytes()), expected, "{path}");
        }
        for line in
            ["", "1-2", "1-2 r-xp", "g-2 r-xp 0 0:0 0 ", "1-2 rwx 0 0:0 0 x", "1-2 r-xp 0 0:0"]
        {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn reads_in_steps_what_a_single_read_gives() {
        let mut reader = MapsReader::open().unwrap();
        let spent = Budget::new(std::time::Duration::ZERO);
        let mut steps = 1;
        while reader.step(&spent).unwrap() == Progress::More {
            steps += 1;
        }
        let maps = reader.finish();
        assert!(steps > 1);
        assert!(maps.windows(2).all(|pair| pair[0].address.1 <= pair[1].address.0));
        let here = reads_in_steps_what_a_single_read_gives as *const () as usize;
        let code = maps.iter().find(|map| range(map).contains(&here)).unwrap();
        assert!(code.perms.contains(MMPermissions::EXECUTE) && has_file(code) && !is_shared(code));
        let size: u64 = maps.iter().map(|map| map.address.1 - map.address.0).sum();
        let status = procfs::process::Process::myself().unwrap().status().unwrap();
        let difference = size.abs_diff(status.vmsize.unwrap() * 1024);
        assert!(difference < 64 << 20, "other test threads map and unmap, but not {difference}");
    }
}

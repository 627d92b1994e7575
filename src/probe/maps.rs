//! The mappings of this process, from `/proc/self/maps`, read in steps.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;

use procfs::process::{MMPermissions, MemoryMap, MemoryMaps};
use procfs::FromBufRead;

use super::budget::{Budget, Progress};

/// Reads the mappings; call [`MapsReader::step`] until it is done.
#[derive(Debug)]
pub struct MapsReader {
    file: File,
    /// Bytes of a line that the last read cut.
    tail: Vec<u8>,
    maps: Vec<MemoryMap>,
}

impl MapsReader {
    /// Opens the file. The kernel goes on by address from read to read, so a mapping made or gone
    /// in the middle is there or not, but none is torn.
    pub fn open() -> io::Result<Self> {
        Ok(MapsReader { file: File::open("/proc/self/maps")?, tail: Vec::new(), maps: Vec::new() })
    }

    /// Reads on.
    pub fn step(&mut self, budget: &Budget) -> io::Result<Progress> {
        let mut buffer = [0; 16 * 1024];
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

    /// The mappings, by address.
    pub fn finish(self) -> Vec<MemoryMap> {
        self.maps
    }

    fn parse_lines(&mut self, all: bool) -> io::Result<()> {
        let whole = match self.tail.iter().rposition(|byte| *byte == b'\n') {
            _ if all => self.tail.len(),
            Some(newline) => newline + 1,
            None => return Ok(()),
        };
        let rest = self.tail.split_off(whole);
        let lines = String::from_utf8_lossy(&self.tail);
        let maps = MemoryMaps::from_buf_read(lines.as_bytes()).map_err(io::Error::other)?;
        self.maps.extend(maps.0.into_iter().filter(in_address_space));
        self.tail = rest;
        Ok(())
    }
}

/// The addresses of a mapping.
pub fn range(map: &MemoryMap) -> Range<usize> {
    map.address.0 as usize..map.address.1 as usize
}

/// Whether a mapping is shared between processes.
pub fn is_shared(map: &MemoryMap) -> bool {
    map.perms.contains(MMPermissions::SHARED)
}

/// Whether a mapping has a file behind it: a real one, or one of the kernel's for shared memory.
pub fn has_file(map: &MemoryMap) -> bool {
    map.inode != 0 || is_shared(map)
}

/// `[vsyscall]` is listed but is no part of any process's address space.
fn in_address_space(map: &MemoryMap) -> bool {
    map.address.1 <= 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! Finds the writable data of a loaded object through its program headers in memory.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;

use crate::sys::memory::{half, word, Memory};

const PT_LOAD: u32 = 1;
const PF_W: u32 = 2;
const EHDR: usize = 64;
const PHDR: usize = 56;

/// Returns the writable segments of the 64-bit ELF object loaded at `base`. Its first segment must
/// be at `base`, as in libraries.
pub fn writable_segments(memory: &impl Memory, base: usize) -> io::Result<Vec<Range<usize>>> {
    let unknown = || io::Error::from(io::ErrorKind::InvalidData);
    let mut header = [0u8; EHDR];
    memory.read(base, &mut header)?;
    let (phoff, sizes) = (word(&header, 32), half(&header, 54));
    let (phentsize, phnum) = (sizes & 0xffff, sizes >> 16);
    if !header.starts_with(b"\x7fELF\x02") || phentsize as usize != PHDR || phnum > 64 {
        return Err(unknown());
    }
    let mut table = vec![0u8; phnum as usize * PHDR];
    memory.read(base.checked_add(phoff).ok_or_else(unknown)?, &mut table)?;
    let segments = table
        .chunks_exact(PHDR)
        .filter(|entry| half(entry, 0) == PT_LOAD && half(entry, 4) & PF_W != 0);
    segments
        .map(|entry| {
            let start = base.checked_add(word(entry, 16)).ok_or_else(unknown)?;
            let end = start.checked_add(word(entry, 40)).ok_or_else(unknown)?;
            Ok(start..end)
        })
        .collect()
}

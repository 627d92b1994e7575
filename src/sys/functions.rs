//! Lists where the functions of a loaded object start, from its table for unwinding.
//!
//! Every object has this table, stripped or not: `.eh_frame_hdr`, as described in the Linux
//! Standard Base.
#![cfg_attr(not(test), forbid(unsafe_code))]

use super::image::Image;

/// The header that GNU's and LLVM's linkers write: version 1, then the encodings of the pointer (4
/// bytes, relative to itself), of the count (4 bytes) and of the table (pairs of 4 bytes, relative
/// to the header).
const HEADER: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

/// The maximum number of functions to read from one object.
const MOST: usize = 1 << 20;

/// Returns the starts of the object's functions in ascending order; empty if the table cannot be
/// read.
pub fn starts(image: &Image) -> Vec<usize> {
    read(image).unwrap_or_default()
}

fn read(image: &Image) -> Option<Vec<usize>> {
    let header = image.object.unwind?;
    if image.bytes(header, 4)? != HEADER {
        return None;
    }
    let count = u32::from_ne_bytes(*image.bytes(header.checked_add(8)?, 4)?.first_chunk()?);
    let count = (count as usize).min(MOST);
    let table = image.bytes(header.checked_add(12)?, count.checked_mul(8)?)?;
    let start = |pair: &[u8]| {
        let offset = i32::from_ne_bytes(*pair.first_chunk()?);
        Some(header.wrapping_add_signed(offset as isize))
    };
    let mut starts: Vec<usize> = table.chunks_exact(8).filter_map(start).collect();
    starts.sort_unstable();
    Some(starts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::elf::objects;
    use crate::sys::symbol;

    #[test]
    fn of_the_c_library() {
        let objects = objects();
        let getpid = symbol::address(c"getpid").unwrap();
        let libc = objects.iter().find(|object| object.contains(getpid)).unwrap();
        // SAFETY: the C library stays loaded (rule 1 of `image`).
        let starts = starts(&unsafe { Image::new(libc) });
        assert!(starts.len() > 1000, "{}", starts.len());
        assert!(starts.binary_search(&getpid).is_ok());
        assert!(starts.is_sorted());
    }
}

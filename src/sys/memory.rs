//! Reads this process's memory at addresses that may be invalid.
//!
//! An address found in a data structure of another program may have been unmapped by another thread
//! since, or may never have been an address. [`OwnMemory`] makes the kernel copy
//! (`process_vm_readv` on this same process), so a bad address is an error and not a signal.
//!
//! Invariants of the unsafe code:
//!
//! 1. The kernel writes at most as many bytes as the local vector allows, and into the local vector
//!    only.
//! 2. The local vector describes one `&mut` slice of plain bytes, exclusive for the call.
//! 3. Remote addresses are numbers to the kernel, which checks each one.
//! 4. Bytes that are read through a [`Direct`] within its range are mapped and readable at that
//!    moment, and nobody writes to them meanwhile. The caller of [`Direct::new`] guarantees it.
//! 5. A prefetch is a hint: it has no effect that the program can see, and no address makes it
//!    fail.

use std::io;

/// The size of a record in bytes: a chunk header and the words behind it. See
/// [`Memory::read_each`].
pub const RECORD: usize = 32;

/// [`RECORD`] bytes.
pub type Record = [u8; RECORD];

/// A source of bytes at addresses.
pub trait Memory {
    /// The average distance in bytes up to which records are read faster together with everything
    /// between them. 0 if a record is read at the speed of the memory.
    const BULK: usize = 0;

    /// Announces that an address will be read soon.
    fn ahead(&self, _at: usize) {}

    /// Fills `into` from address `at`, completely or not at all.
    fn read(&self, at: usize, into: &mut [u8]) -> io::Result<()>;

    /// Reads a record at each address, at most [`BATCH`] in one call. Returns the number of records
    /// in front of the first unreadable one, or an error if reading is not possible at all.
    fn read_each(&self, at: &[usize], into: &mut [Record]) -> io::Result<usize>;
}

/// The maximum number of records read by one call.
pub const BATCH: usize = 128;

/// The memory of this process, read by the kernel. A call takes about 1.4 us, and each record 0.6
/// us.
#[derive(Debug, Clone, Copy, Default)]
pub struct OwnMemory;

/// Returns the error for a range that could not be read completely.
fn unreadable() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}

impl OwnMemory {
    fn vector(local: &mut [u8], remote: &[libc::iovec]) -> io::Result<usize> {
        let wanted = libc::iovec { iov_base: local.as_mut_ptr().cast(), iov_len: local.len() };
        // SAFETY: there is one local vector over an exclusive slice (2), and it is written within
        // its length (1). The remote vectors, a slice of the given length, are read as numbers (3).
        let read = unsafe {
            libc::process_vm_readv(
                libc::getpid(),
                &wanted,
                1,
                remote.as_ptr(),
                remote.len() as libc::c_ulong,
                0,
            )
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

impl Memory for OwnMemory {
    const BULK: usize = 8192;

    fn read(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        let remote = [libc::iovec { iov_base: at as *mut libc::c_void, iov_len: into.len() }];
        if OwnMemory::vector(into, &remote)? == into.len() {
            Ok(())
        } else {
            Err(unreadable())
        }
    }

    fn read_each(&self, at: &[usize], into: &mut [Record]) -> io::Result<usize> {
        let count = at.len().min(into.len()).min(BATCH);
        let mut remote = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: RECORD }; BATCH];
        for (vector, at) in remote.iter_mut().zip(at) {
            vector.iov_base = *at as *mut libc::c_void;
        }
        let (Some(remote), Some(into)) = (remote.get(..count), into.get_mut(..count)) else {
            return Ok(0);
        };
        if count == 0 {
            return Ok(0);
        }
        match OwnMemory::vector(into.as_flattened_mut(), remote) {
            Ok(bytes) => Ok(bytes / RECORD),
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// Like [`OwnMemory`], but reads one range directly, without the kernel: about 50 ns per record.
#[derive(Debug, Clone)]
pub struct Direct {
    range: std::ops::Range<usize>,
}

impl Direct {
    /// Makes a source that reads `range` directly.
    ///
    /// # Safety
    ///
    /// Every byte of `range` that is read through this value must be mapped and readable at that
    /// moment, and no other thread may change the mapping or its contents. If the addresses come
    /// from data that cannot be trusted, all of `range` must stay mapped as long as the value
    /// lives.
    pub unsafe fn new(range: std::ops::Range<usize>) -> Direct {
        Direct { range }
    }

    fn copy(&self, at: usize, into: &mut [u8]) -> bool {
        let end = at.checked_add(into.len());
        if at < self.range.start || end.is_none_or(|end| end > self.range.end) {
            return false;
        }
        // SAFETY: the bytes lie in the range, so they are readable and nobody writes to them;
        // `into` is exclusive. A raw copy is used because the bytes may overlap `into` or be
        // uninitialised (4).
        unsafe { std::ptr::copy(at as *const u8, into.as_mut_ptr(), into.len()) };
        true
    }
}

impl Memory for Direct {
    fn ahead(&self, at: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: any address may be prefetched (5).
        unsafe {
            use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
            _mm_prefetch::<_MM_HINT_T0>(at as *const i8);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    fn read(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        if self.copy(at, into) {
            Ok(())
        } else {
            OwnMemory.read(at, into)
        }
    }

    fn read_each(&self, at: &[usize], into: &mut [Record]) -> io::Result<usize> {
        let mut both = at.iter().zip(into).take(BATCH);
        let asked = at.len().min(BATCH);
        Ok(both.position(|(at, record)| !self.copy(*at, record)).unwrap_or(asked))
    }
}

/// Returns the 64-bit word at a byte offset; 0 past the end.
pub fn word(bytes: &[u8], at: usize) -> usize {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |word| usize::from_ne_bytes(*word))
}

/// Returns the 32-bit word at a byte offset; 0 past the end.
pub fn half(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_itself_and_survives_bad_addresses() {
        let text = *b"0123456789abcdef0123456789ABCDEF";
        let mut copy = [0u8; 16];
        OwnMemory.read(text.as_ptr() as usize, &mut copy).unwrap();
        assert_eq!(copy, text[..16]);
        assert!(OwnMemory.read(8, &mut copy).is_err());
        assert!(OwnMemory.read(usize::MAX - 7, &mut copy).is_err());

        let good = text.as_ptr() as usize;
        let mut records = [[0u8; RECORD]; 4];
        assert_eq!(OwnMemory.read_each(&[good, good, 8, good], &mut records).unwrap(), 2);
        assert_eq!(records[1], text);
        assert_eq!(OwnMemory.read_each(&[8, good], &mut records).unwrap(), 0);
        assert_eq!(OwnMemory.read_each(&[], &mut records).unwrap(), 0);
        let many = [good; 300];
        let mut records = [[0u8; RECORD]; 300];
        assert_eq!(OwnMemory.read_each(&many, &mut records).unwrap(), BATCH);
    }

    #[test]
    fn words_past_the_end_are_zero() {
        let bytes = 7u64.to_ne_bytes();
        assert_eq!(word(&bytes, 0), 7);
        assert_eq!(word(&bytes, 1), 0);
        assert_eq!(half(&bytes, 0), 7);
        assert_eq!(half(&bytes, 100), 0);
    }
}

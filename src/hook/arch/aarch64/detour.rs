//! Plans detours on aarch64.
//!
//! A branch replaces one instruction of the function, which moves to the detour's block. This is
//! refused if the instruction refers to an address by its distance. A landing mark (`bti`,
//! `paciasp`) stays in place.
//!
//! Not tested on a real machine yet: the tests check the code that is written.
//!
//! Source: Arm Architecture Reference Manual, "A64 instruction set encoding".
#![forbid(unsafe_code)]

use crate::hook::arch::{Detour, BLOCK};

/// The greatest distance of the block from the function, in bytes.
pub const REACH: usize = 0x7f0_0000;

/// `ldr x17, .+8`, `br x17`, followed by the address.
const FAR_JUMP: [u32; 2] = [0x5800_0051, 0xd61f_0220];

/// The offset in the block of the moved instruction.
const MOVED: usize = 16;

/// Plans the detour of the function whose whole `code` is at `address`, to the function at `hook`,
/// with its block at `block`. Returns `None` if the first instruction cannot be moved, or if the
/// block is too far away.
pub fn plan(code: &[u8], address: u64, hook: u64, block: u64) -> Option<Detour> {
    let word = |index: usize| {
        let bytes = code.get(index.checked_mul(4)?..)?.get(..4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let index = usize::from(is_landing(word(0)?));
    let (moved, _next) = (word(index)?, word(index + 1)?);
    if is_relative(moved) || ends(moved) {
        return None;
    }
    let skip = index * 4;
    let start = address.checked_add(skip as u64)?;
    let moved_at = block.checked_add(MOVED as u64)?;
    let mut bytes = Vec::new();
    bytes.extend(FAR_JUMP.iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend(hook.to_le_bytes());
    bytes.extend(moved.to_le_bytes());
    bytes.extend(branch(moved_at.checked_add(4)?, start.checked_add(4)?)?.to_le_bytes());
    let patch = branch(start, block)?.to_le_bytes().to_vec();
    (bytes.len() <= BLOCK).then_some(Detour {
        skip,
        patch,
        block: bytes,
        original: MOVED,
        calls: false,
    })
}

/// Encodes a `b` from one address to another. Returns `None` if it does not reach that far.
fn branch(from: u64, to: u64) -> Option<u32> {
    let words = (to.wrapping_sub(from) as i64) >> 2;
    ((-(1 << 25)..1 << 25).contains(&words) && to % 4 == from % 4)
        .then_some(0x1400_0000 | (words as u32 & 0x03ff_ffff))
}

/// Returns whether the instruction is a landing mark: `bti` in all its forms, `paciasp`, `pacibsp`.
fn is_landing(word: u32) -> bool {
    matches!(word, 0xd503_241f | 0xd503_245f | 0xd503_249f | 0xd503_24df)
        || matches!(word, 0xd503_233f | 0xd503_237f)
}

/// Returns whether the instruction refers to an address by its distance: `adr`, `adrp`; `b`, `bl`;
/// `b.cond`; `cbz`, `cbnz`, `tbz`, `tbnz`; loads of a literal.
fn is_relative(word: u32) -> bool {
    word & 0x1f00_0000 == 0x1000_0000
        || word & 0x7c00_0000 == 0x1400_0000
        || word & 0xfe00_0000 == 0x5400_0000
        || word & 0x7c00_0000 == 0x3400_0000
        || word & 0x3b00_0000 == 0x1800_0000
}

/// Returns whether the instruction may end the function: `br`, `ret` and similar ones. The code
/// after it may belong to another function.
fn ends(word: u32) -> bool {
    word & 0xfe00_0000 == 0xd600_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0xaaaa_0000_1000;
    const HOOK: u64 = 0xffff_1234_5678;
    const NEAR: u64 = AT - 0x10_0000;
    /// `stp x29, x30, [sp, #-32]!`
    const STP: u32 = 0xa9be_7bfd;
    const RET: u32 = 0xd65f_03c0;

    fn code(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Returns the target of a `b` at an address.
    fn target(word: &[u8], at: u64) -> u64 {
        let word = u32::from_le_bytes(word.try_into().unwrap());
        assert_eq!(word >> 26, 0b00_0101);
        at.wrapping_add((i64::from((word << 6) as i32 >> 6) * 4) as u64)
    }

    #[test]
    fn moves_one_instruction() {
        for (landing, skip) in [(None, 0), (Some(0xd503_245f), 4), (Some(0xd503_233f), 4)] {
            let words: Vec<u32> = landing.into_iter().chain([STP, RET]).collect();
            let detour = plan(&code(&words), AT, HOOK, NEAR).unwrap();
            assert_eq!((detour.skip, detour.original), (skip, 16));
            let start = AT + skip as u64;
            assert_eq!(target(&detour.patch, start), NEAR);
            assert_eq!(detour.block[..8], code(&FAR_JUMP));
            assert_eq!(detour.block[8..16], HOOK.to_le_bytes());
            assert_eq!(detour.block[16..20], STP.to_le_bytes());
            assert_eq!(target(&detour.block[20..24], NEAR + 20), start + 4);
        }
    }

    #[test]
    fn refused() {
        for word in [
            0x1000_0000,
            0x9000_0013, // adr, adrp
            0x1400_0001,
            0x9400_0001, // b, bl
            0x5400_0040,
            0x5400_0051, // b.eq, bc.ne
            0xb400_0060,
            0x3500_0060, // cbz, cbnz
            0x3600_0060,
            0xb700_0060, // tbz, tbnz
            0x5800_0051,
            0x1800_0051,
            0x9800_0040,
            0x1c00_0040,
            0xd800_0040, // ldr, prfm
            RET,
            0xd61f_0220, // ret, br
        ] {
            assert_eq!(plan(&code(&[word, RET]), AT, HOOK, NEAR), None, "{word:x}");
        }
        assert_eq!(plan(&code(&[STP]), AT, HOOK, NEAR), None);
        assert_eq!(plan(&[], AT, HOOK, NEAR), None);
        let words = code(&[STP, RET]);
        for block in [AT + 0x800_0000, AT - 0x800_0010, NEAR + 2] {
            assert_eq!(plan(&words, AT, HOOK, block), None, "{block:x}");
        }
        for block in [AT + REACH as u64, AT - REACH as u64] {
            assert!(plan(&words, AT, HOOK, block).is_some());
        }
    }
}

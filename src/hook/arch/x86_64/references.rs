//! Finds the places that x86_64 machine code refers to.
#![forbid(unsafe_code)]

use crate::hook::arch::references::{CodeReference, ReferenceKind};

/// Calls `found` for each instruction that calls a place, jumps to it or loads its address, where
/// the place is given by its distance from the instruction. Code is searched byte by byte and not
/// decoded: a reference may be false, but none is missed.
pub fn references(code: &[u8], at: usize, mut found: impl FnMut(CodeReference)) {
    for start in 0..code.len() {
        let (length, kind) = match code.get(start..) {
            Some([0xe8, ..]) => (1, ReferenceKind::Call),
            Some([0xe9, ..]) => (1, ReferenceKind::Address),
            Some([0x0f, 0x80..=0x8f, ..]) => (2, ReferenceKind::Address),
            Some([0x48 | 0x4c, 0x8d, modrm, ..]) if modrm & 0xc7 == 5 => {
                (3, ReferenceKind::Address)
            }
            Some([0xff, 0x15, ..]) => (2, ReferenceKind::CallBySlot),
            Some([0xff, 0x25, ..]) => (2, ReferenceKind::JumpBySlot),
            _ => continue,
        };
        let Some(offset) = code.get(start + length..).and_then(|rest| rest.first_chunk()) else {
            continue;
        };
        let behind = at.wrapping_add(start + length + 4);
        let to = behind.wrapping_add_signed(i32::from_le_bytes(*offset) as isize);
        found(CodeReference { kind, start: at.wrapping_add(start), behind, to });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let code = [
            0x90, 0xe8, 0x10, 0, 0, 0, // call 0x1016
            0xe9, 0xf4, 0xff, 0xff, 0xff, // jmp 0xfff
            0x0f, 0x84, 0, 0, 0, 0, // jz 0x1011
            0x48, 0x8d, 0x3d, 1, 0, 0, 0, // lea rdi, [0x1019]
            0xff, 0x15, 2, 0, 0, 0, // call [0x1020]
            0xff, 0x25, 3, 0, 0, 0, // jmp [0x1027]
            0xe8, 0x10, // cut
        ];
        let mut all = Vec::new();
        references(&code, 0x1000, |found| all.push((found.kind, found.behind, found.to)));
        let expected = [
            (ReferenceKind::Call, 0x1006, 0x1016),
            (ReferenceKind::Address, 0x100b, 0xfff),
            (ReferenceKind::Address, 0x1011, 0x1011),
            (ReferenceKind::Address, 0x1018, 0x1019),
            (ReferenceKind::CallBySlot, 0x101e, 0x1020),
            (ReferenceKind::JumpBySlot, 0x1024, 0x1027),
        ];
        assert_eq!(all, expected);
    }
}

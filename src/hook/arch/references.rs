//! References from machine code to other places.
#![forbid(unsafe_code)]

/// The way in which code refers to a place.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "nothing is found there"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceKind {
    /// Calls the place.
    Call,
    /// Jumps to the place, or loads its address.
    Address,
    /// Calls the address that is stored at the place.
    CallBySlot,
    /// Jumps to the address that is stored at the place.
    JumpBySlot,
}

/// A reference from an instruction to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeReference {
    /// The way in which the instruction refers to the place.
    pub kind: ReferenceKind,
    /// The address of the instruction, not counting prefixes.
    pub start: usize,
    /// The address after the instruction, to which a call returns.
    pub behind: usize,
    /// The address of the place.
    pub to: usize,
}

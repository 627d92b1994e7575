//! What machine code refers to.
#![forbid(unsafe_code)]

/// How code refers to a place.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "nothing is found there"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It calls it.
    Call,
    /// It jumps there, or loads its address.
    Address,
    /// It calls what the word there leads to.
    CallBySlot,
    /// It jumps to what the word there leads to.
    JumpBySlot,
}

/// A reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Of what kind.
    pub kind: Kind,
    /// Where the instruction starts, apart from prefixes.
    pub start: usize,
    /// Where it ends: what a call returns to.
    pub behind: usize,
    /// The place.
    pub to: usize,
}

//! The model of the server, and what is computed with it.
//!
//! `model` is the data. `balance` closes the sum of one process, `shrink` makes it fit into its slot,
//! `naming` names who creates pools; `merge` and `assemble` make one reply of all processes;
//! `narrow` and `fields` leave out of it what was not asked for.
#![forbid(unsafe_code)]

pub mod assemble;
pub mod balance;
pub mod fields;
pub mod merge;
pub mod model;
pub mod naming;
pub mod narrow;
#[cfg(test)]
mod roundtrip;
#[cfg(test)]
pub(crate) mod sample;
pub mod shrink;

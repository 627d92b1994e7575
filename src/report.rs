//! The model of the server and the computations on it.
//!
//! `model` has the data. `balance` makes the entries of one process add up, `shrink` makes its
//! snapshot fit into a slot, `naming` names the creators of pools. `merge` and `assemble` combine
//! all processes into one reply. `narrow` and `fields` remove the parts that were not requested.
//! `units` and `who` write figures and names of processes for people.
#![forbid(unsafe_code)]

pub mod assemble;
pub mod balance;
pub mod fields;
pub mod merge;
pub mod model;
pub mod naming;
pub mod narrow;
pub mod peak;
#[cfg(test)]
mod roundtrip;
#[cfg(test)]
pub(crate) mod sample;
pub mod shrink;
pub(crate) mod units;
pub(crate) mod who;

//! The model of one reply: what `GET /memstat` reports about a server and each of its processes. It
//! is data only; the other modules of `report` compute with it.
//!
//! Every type serializes in two ways. In a human-readable format (JSON) it has the shape that the
//! schema describes. In a binary format (the shared snapshots) it also deserializes, so no field
//! may be skipped depending on its value.
//!
//! All sizes are in bytes. `None` is written as `null` and means *unknown*; a [`Note`] has the reason.
#![forbid(unsafe_code)]

pub mod breakdown;
pub mod container;
pub mod health;
pub mod hooks;
pub mod lua;
pub mod mappings;
pub mod named;
pub mod note;
pub mod peak;
pub mod pools;
pub mod process;
pub mod server;
pub mod shares;
pub mod sharing;
pub mod zones;

pub use breakdown::{Breakdown, Category, Region};
pub use container::{Container, ContainerReading};
pub use hooks::{HookState, Hooks};
pub use named::Named;
pub use note::Note;
pub use process::{
    Allocator, ModuleCost, Process, ProcessKind, ProcessState, Published, PublishedRef, Stacks,
    System, Text, TextObject,
};
pub use server::{AnsweredBy, Server, Totals, MODULE, SCHEMA};

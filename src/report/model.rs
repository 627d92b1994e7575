//! The model of one reply: what `GET /memstat` says about a server and each of its processes. Data
//! only; the modules beside this one compute with it.
//!
//! Every type here serializes in two ways. In a human-readable format (JSON) it has the shape that
//! the schema describes. In a binary format (the shared snapshots) it also deserializes, so nothing
//! here may skip a field depending on its value.
//!
//! All sizes are bytes. `None` is written as `null` and means *not known*; `notes` says why.
#![forbid(unsafe_code)]

pub mod breakdown;
pub mod lua;
pub mod mappings;
pub mod named;
pub mod pools;
pub mod process;
pub mod server;
pub mod shares;
pub mod sharing;
pub mod zones;

pub use breakdown::{Breakdown, Category, Region};
pub use named::Named;
pub use process::{
    Allocator, Hooks, Kind, Object, Own, Process, Published, Stacks, State, System, Text,
};
pub use server::{AnsweredBy, Server, Totals, MODULE, SCHEMA};

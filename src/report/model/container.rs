//! The memory of the container: the control group that limits the server.
#![forbid(unsafe_code)]

pub use crate::sys::cgroup::{Container, ContainerReading, Pressure, Stall};

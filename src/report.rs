//! From what the probes read to the model of the server.
#![forbid(unsafe_code)]

pub mod model;

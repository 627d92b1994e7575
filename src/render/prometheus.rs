//! The reply as metrics for Prometheus: the classic text format, and OpenMetrics.
//!
//! A figure that is not known is left out; it is never 0. Labels have no process ids, so a worker
//! that is replaced goes on with its series, and their number is bounded: see [`groups`] for
//! processes, [`pools`] for creators, [`zones`] for zones.
#![forbid(unsafe_code)]

mod family;
mod groups;
mod lua;
mod pools;
mod processes;
mod server;
mod zones;

use std::fmt;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

use crate::report::model::Server;
use family::Families;

/// What all names begin with.
const PREFIX: &str = "nginx_memstat";

/// The metrics in the text format of Prometheus, version 0.0.4.
pub fn classic(server: &Server) -> Result<String, fmt::Error> {
    let mut out = String::new();
    prometheus_text::encode(&mut out, &registry(server))?;
    Ok(out)
}

/// The metrics in the text format of OpenMetrics 1.0.
pub fn open_metrics(server: &Server) -> Result<String, fmt::Error> {
    let mut out = String::new();
    text::encode(&mut out, &registry(server))?;
    Ok(out)
}

fn registry(server: &Server) -> Registry {
    let mut families = Families::default();
    let groups = groups::groups(&server.processes);
    server::server(&mut families, server);
    processes::processes(&mut families, &groups);
    pools::pools(&mut families, &groups);
    lua::lua(&mut families, &groups);
    zones::zones(&mut families, &server.shared_zones);
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(families));
    registry
}

#[cfg(test)]
mod tests;

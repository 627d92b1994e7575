//! The reply as metrics for Prometheus: the classic text format and OpenMetrics.
//!
//! An unknown figure is left out; it is never written as 0. Labels contain no process ids, so the
//! replacement of a worker continues its series, and the number of series is bounded: see
//! [`groups`] for processes, [`pools`] for creators, [`zones`] for zones.
#![forbid(unsafe_code)]

mod container;
mod family;
mod groups;
mod lua;
mod pools;
mod processes;
mod server;
mod zones;

use std::collections::VecDeque;
use std::fmt;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

use crate::budget::Progress;
use crate::report::model::Server;
use family::{Families, Family};
use groups::ProcessGroup;

/// The prefix of all names.
const PREFIX: &str = "nginx_memstat";

/// Adds metric families of a server.
type Source = fn(&mut Families, &Server, &[ProcessGroup]);

/// All sources, in the order of the metrics.
const SOURCES: [Source; 11] = [
    |families, server, _| server::server(families, server),
    |families, server, _| container::container(families, server),
    |families, _, groups| processes::system(families, groups),
    |families, _, groups| processes::resident_categories(families, groups),
    |families, _, groups| processes::reserved_categories(families, groups),
    |families, _, groups| processes::allocator(families, groups),
    |families, _, groups| processes::module(families, groups),
    |families, _, groups| pools::pools(families, groups),
    |families, _, groups| lua::lua(families, groups),
    |families, server, _| zones::zones(families, &server.shared_zones),
    |families, server, _| zones::slots(families, &server.shared_zones),
];

/// Writes the metrics in pieces: a source makes its families, then each of these is a piece.
pub(super) struct Metrics {
    /// Whether the format is OpenMetrics 1.0 instead of the text format of Prometheus, version
    /// 0.0.4.
    is_open: bool,
    sources: std::slice::Iter<'static, Source>,
    families: VecDeque<Family>,
}

impl Metrics {
    pub(super) fn classic() -> Self {
        Metrics { is_open: false, sources: SOURCES.iter(), families: VecDeque::new() }
    }

    pub(super) fn open() -> Self {
        Metrics { is_open: true, ..Metrics::classic() }
    }

    /// Writes the next piece.
    pub(super) fn piece(
        &mut self,
        server: &Server,
        out: &mut Vec<u8>,
    ) -> Result<Progress, fmt::Error> {
        let mut text = String::new();
        let progress = if let Some(family) = self.families.pop_front() {
            let mut registry = Registry::with_prefix(PREFIX);
            registry.register_collector(Box::new(family));
            match self.is_open {
                false => prometheus_text::encode(&mut text, &registry)?,
                true => text::encode_registry(&mut text, &registry)?,
            }
            Progress::More
        } else if let Some(source) = self.sources.next() {
            let mut families = Families::default();
            source(&mut families, server, &groups::groups(&server.processes));
            self.families = families.0.into();
            Progress::More
        } else {
            if self.is_open {
                text::encode_eof(&mut text)?;
            }
            Progress::Done
        };
        out.extend(text.into_bytes());
        Ok(progress)
    }
}

#[cfg(test)]
mod tests;

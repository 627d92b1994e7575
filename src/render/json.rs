//! The reply as JSON; `schema/memstat.schema.json` describes its shape.
#![forbid(unsafe_code)]

use std::mem::take;
use std::vec::IntoIter;

use serde::Serialize;

use crate::budget::Progress;
use crate::report::fields::Fields;
use crate::report::model::health::Verdict;
use crate::report::model::zones::ZoneVersions;
use crate::report::model::{Process, Server};

/// A typical size of a process in JSON, in bytes. Room is reserved ahead, because growing the buffer
/// for many processes would take longer than writing.
const TYPICAL: usize = 8 * 1024;

/// Writes one line of compact JSON in pieces: the part before the verdicts, the verdicts, the part
/// before the processes, each process, the part before the zones, each zone, and the rest. It has all
/// fields, or only `fields`.
pub(super) struct Json {
    fields: Option<Fields>,
    head: String,
    verdicts: IntoIter<Verdict>,
    before_processes: String,
    processes: IntoIter<Process>,
    middle: String,
    zones: IntoIter<(String, ZoneVersions)>,
    tail: String,
}

impl Json {
    /// Prepares the pieces and reserves room for them in `out`.
    pub(super) fn begin(
        mut server: Server,
        fields: Option<&Fields>,
        out: &mut Vec<u8>,
    ) -> Result<Self, serde_json::Error> {
        let mut verdicts = take(&mut server.health.verdicts);
        let mut processes = take(&mut server.processes);
        let mut zones = take(&mut server.shared_zones.0);
        let frame = match fields {
            None => serde_json::to_string(&server)?,
            Some(fields) => {
                // A `Value` sorts its properties by name.
                zones.sort_by(|(one, _), (other, _)| one.cmp(other));
                let mut reply = serde_json::to_value(&server)?;
                fields.narrow(&mut reply);
                serde_json::to_string(&reply)?
            }
        };
        // No string can contain this, because quotes in strings are escaped.
        let (head, rest) = open(frame, "\"verdicts\":[]");
        if head.is_empty() {
            verdicts.clear();
        }
        let (before_processes, rest) = open(rest, "\"processes\":[]");
        if before_processes.is_empty() {
            processes.clear();
        }
        let (middle, tail) = open(rest, "\"shared_zones\":{}");
        if middle.is_empty() {
            zones.clear();
        }
        out.reserve(processes.len().saturating_mul(TYPICAL));
        let fields = fields.cloned();
        let verdicts = verdicts.into_iter();
        let (processes, zones) = (processes.into_iter(), zones.into_iter());
        Ok(Json { fields, head, verdicts, before_processes, processes, middle, zones, tail })
    }

    /// Writes the next piece.
    pub(super) fn piece(&mut self, out: &mut Vec<u8>) -> Result<Progress, serde_json::Error> {
        out.extend(take(&mut self.head).into_bytes());
        if let Some(verdict) = self.verdicts.next() {
            if out.last() != Some(&b'[') {
                out.push(b',');
            }
            match self.fields {
                // As elsewhere in a narrowed reply, the properties are sorted by name.
                Some(_) => serde_json::to_writer(&mut *out, &serde_json::to_value(&verdict)?)?,
                None => serde_json::to_writer(&mut *out, &verdict)?,
            }
            return Ok(Progress::More);
        }
        out.extend(take(&mut self.before_processes).into_bytes());
        if let Some(process) = self.processes.next() {
            if out.last() != Some(&b'[') {
                out.push(b',');
            }
            self.element(out, "processes", &process)?;
            return Ok(Progress::More);
        }
        out.extend(take(&mut self.middle).into_bytes());
        if let Some((name, zone)) = self.zones.next() {
            if out.last() != Some(&b'{') {
                out.push(b',');
            }
            serde_json::to_writer(&mut *out, &name)?;
            out.push(b':');
            self.element(out, "shared_zones", &zone)?;
            return Ok(Progress::More);
        }
        out.extend(take(&mut self.tail).into_bytes());
        out.push(b'\n');
        Ok(Progress::Done)
    }

    fn element(
        &self,
        out: &mut Vec<u8>,
        of: &str,
        element: &impl Serialize,
    ) -> Result<(), serde_json::Error> {
        let Some(fields) = &self.fields else { return serde_json::to_writer(out, element) };
        let mut value = serde_json::to_value(element)?;
        fields.narrow_below(of, &mut value);
        serde_json::to_writer(out, &value)
    }
}

/// Splits `frame` before the closing bracket of an `empty` list, which occurs once or not at all.
/// If it does not occur, the first part is empty.
fn open(mut frame: String, empty: &str) -> (String, String) {
    let end = frame.find(empty).and_then(|at| at.checked_add(empty.len())?.checked_sub(1));
    let rest = match end {
        Some(end) if frame.is_char_boundary(end) => frame.split_off(end),
        _ => take(&mut frame),
    };
    (frame, rest)
}

#[cfg(test)]
mod tests;

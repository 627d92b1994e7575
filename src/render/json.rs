//! The reply as JSON, which `schema/memstat.schema.json` describes.
#![forbid(unsafe_code)]

use crate::query::fields::Fields;
use crate::report::model::Server;

/// One line of compact JSON, with all fields or with these.
pub fn json(server: &Server, fields: Option<&Fields>) -> Result<Vec<u8>, serde_json::Error> {
    /// What a process takes. With many, to grow takes longer than to write.
    const TYPICAL: usize = 8 * 1024;
    let many = server.processes.len() > 16;
    let mut out = Vec::with_capacity(if many { server.processes.len() * TYPICAL } else { 0 });
    match fields {
        None => serde_json::to_writer(&mut out, server)?,
        Some(fields) => {
            let mut reply = serde_json::to_value(server)?;
            fields.narrow(&mut reply);
            serde_json::to_writer(&mut out, &reply)?;
        }
    }
    out.push(b'\n');
    Ok(out)
}

#[cfg(test)]
mod tests;

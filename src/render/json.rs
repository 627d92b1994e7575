//! The reply as JSON, which `schema/memstat.schema.json` describes.
#![forbid(unsafe_code)]

use crate::report::model::Server;

/// One line of compact JSON.
pub fn json(server: &Server) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = serde_json::to_vec(server)?;
    out.push(b'\n');
    Ok(out)
}

#[cfg(test)]
mod tests;

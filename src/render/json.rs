//! The reply as JSON, which `schema/memstat.schema.json` describes.
#![forbid(unsafe_code)]

use crate::query::fields::Fields;
use crate::report::model::Server;

/// One line of compact JSON, with all fields or with these.
pub fn json(server: &Server, fields: Option<&Fields>) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = match fields {
        None => serde_json::to_vec(server)?,
        Some(fields) => {
            let mut reply = serde_json::to_value(server)?;
            fields.narrow(&mut reply);
            serde_json::to_vec(&reply)?
        }
    };
    out.push(b'\n');
    Ok(out)
}

#[cfg(test)]
mod tests;

//! Renderers: they write the model of the server as the body of the reply.
#![forbid(unsafe_code)]

pub mod html;
pub mod json;
mod layout;
mod order;
pub mod prometheus;
pub mod text;
mod writing;

pub use writing::Writing;

use crate::budget::Budget;
use crate::format::Media;
use crate::report::fields::Fields;
use crate::report::model::Server;
use crate::report::{units, who};

/// The error of a body that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// Writing JSON failed.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Writing metrics failed.
    #[error(transparent)]
    Metrics(#[from] std::fmt::Error),
}

/// Writes the whole body of the reply at once. `fields` narrows JSON and text.
pub fn render(
    media: Media,
    server: &Server,
    fields: Option<&Fields>,
) -> Result<Vec<u8>, RenderError> {
    let mut writing = Writing::begin(media, server.clone(), fields)?;
    writing.step(&Budget::unlimited())?;
    Ok(writing.into_body())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn bodies() {
        let server = sample::small();
        let table: [(Media, &[u8]); 5] = [
            (Media::Json, b"{\"schema\":1,"),
            (Media::Html, b"<!DOCTYPE html>"),
            (Media::Text, b"Health: red; 2 verdicts"),
            (Media::Classic, b"# HELP nginx_memstat_"),
            (Media::OpenMetrics, b"# HELP nginx_memstat_"),
        ];
        for (media, begin) in table {
            assert!(render(media, &server, None).unwrap().starts_with(begin), "{media:?}");
            let (ty, subty, versions) = media.essence();
            let begin = match versions.first() {
                None => format!("{ty}/{subty}"),
                Some(version) => format!("{ty}/{subty}; version={version}"),
            };
            assert!(media.content_type().starts_with(&begin), "{media:?}");
        }
    }
}

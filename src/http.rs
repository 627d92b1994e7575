//! HTTP requests and replies: the query string, the format, and the reply.

#[cfg(feature = "module")]
pub(crate) mod answer;
pub mod negotiate;
pub mod query;
#[cfg(feature = "module")]
pub(crate) mod reply;

//! One HTTP request: what it asks, and how the reply is sent.

pub mod negotiate;
pub mod query;
#[cfg(feature = "module")]
pub(crate) mod reply;

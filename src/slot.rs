//! The shared snapshot.

//! What is said about a hook.
#![forbid(unsafe_code)]

use std::fmt;

use super::refusal::Refusal;

/// Whether a hook is in place. Displays as `on` or `off: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nobody has asked for it.
    NotInstalled,
    /// In place.
    On,
    /// Not in place, or not everywhere.
    Off(Refusal),
}

impl From<&Result<(), Refusal>> for State {
    fn from(result: &Result<(), Refusal>) -> Self {
        match result {
            Ok(()) => State::On,
            Err(refusal) => State::Off(refusal.clone()),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::NotInstalled => f.write_str("off: not installed"),
            State::On => f.write_str("on"),
            State::Off(refusal) => write!(f, "off: {refusal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_in_the_reply() {
        assert_eq!(State::NotInstalled.to_string(), "off: not installed");
        assert_eq!(State::from(&Ok(())).to_string(), "on");
        assert_eq!(
            State::from(&Err(Refusal::Key)).to_string(),
            "off: no thread-specific key is left"
        );
    }
}

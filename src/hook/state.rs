//! The state of a hook.
#![forbid(unsafe_code)]

use super::refusal::Refusal;
use crate::report::model::HookState;

/// Whether a hook is in place, and if not, why. Converts to [`HookState`], which the reply
/// contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hooked {
    /// Installation was not requested.
    NotInstalled,
    /// The hook is in place.
    On,
    /// The hook is missing in some or all places.
    Off(Refusal),
}

impl From<&Result<(), Refusal>> for Hooked {
    fn from(result: &Result<(), Refusal>) -> Self {
        match result {
            Ok(()) => Hooked::On,
            Err(refusal) => Hooked::Off(refusal.clone()),
        }
    }
}

impl From<&Hooked> for HookState {
    fn from(hooked: &Hooked) -> Self {
        match hooked {
            Hooked::NotInstalled => HookState::Off("not installed".to_owned()),
            Hooked::On => HookState::On,
            Hooked::Off(refusal) => HookState::Off(refusal.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_in_the_reply() {
        let text = |hooked: Hooked| HookState::from(&hooked).to_string();
        assert_eq!(text(Hooked::NotInstalled), "off: not installed");
        assert_eq!(text(Hooked::from(&Ok(()))), "on");
        assert_eq!(text(Hooked::from(&Err(Refusal::Key))), "off: no thread-specific key is left");
    }
}

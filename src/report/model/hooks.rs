//! Which hooks are in place.
#![forbid(unsafe_code)]

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whether a hook is in place. Written as `on` or `off: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookState {
    /// In place.
    On,
    /// Not in place, or not everywhere, for this reason.
    Off(String),
}

const ON: &str = "on";
const OFF: &str = "off: ";

impl HookState {
    /// Why the hook is not in place.
    pub fn reason(&self) -> Option<&str> {
        match self {
            HookState::On => None,
            HookState::Off(reason) => Some(reason),
        }
    }
}

impl fmt::Display for HookState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HookState::On => f.write_str(ON),
            HookState::Off(reason) => write!(f, "{OFF}{reason}"),
        }
    }
}

impl Serialize for HookState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HookState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix(OFF) {
            Some(reason) => Ok(HookState::Off(reason.to_owned())),
            None if text == ON => Ok(HookState::On),
            None => Err(D::Error::custom("neither on nor off")),
        }
    }
}

/// The state of each hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// nginx's pool allocator.
    pub pool: HookState,
    /// nginx's slab allocator.
    pub slab: HookState,
    /// LuaJIT's allocators.
    pub lua: HookState,
    /// Thread creation.
    pub thread: HookState,
    /// The master's sleep, in which it answers; `null` if there is no master.
    pub master: Option<HookState>,
}

impl Hooks {
    /// The names of the hooks, in the order in which they are listed.
    pub const NAMES: [&'static str; 5] = ["pool", "slab", "lua", "thread", "master"];

    /// The hooks with their names; without that of the master where there is no master.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &HookState)> {
        let all = [
            Some(&self.pool),
            Some(&self.slab),
            Some(&self.lua),
            Some(&self.thread),
            self.master.as_ref(),
        ];
        Hooks::NAMES.into_iter().zip(all).filter_map(|(name, state)| Some((name, state?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_in_the_reply() {
        for (state, json) in [
            (HookState::On, r#""on""#),
            (HookState::Off("no, \"really\": not".to_owned()), r#""off: no, \"really\": not""#),
        ] {
            assert_eq!(serde_json::to_string(&state).unwrap(), json);
            assert_eq!(serde_json::from_str::<HookState>(json).unwrap(), state);
            let bytes = postcard::to_stdvec(&state).unwrap();
            assert_eq!(postcard::from_bytes::<HookState>(&bytes).unwrap(), state);
        }
        assert!(serde_json::from_str::<HookState>(r#""odd""#).is_err());
    }
}

//! Finds the names of creators, each once.
//!
//! Invariants of the unsafe code:
//!
//! 1. The code of a creator, and so its object, stays loaded as long as it can create pools. nginx
//!    unloads no module of the cycle during a call.

use crate::hook::creators;
use crate::report::model::pools::PoolKind;
use crate::report::naming::{kind, name, KnownCode};
use crate::sys::elf::{objects, LoadedObject};
use crate::sys::{exports, symbol};
use crate::tally::pools::{CreatorTally, Origin};

/// The name of a creator.
#[derive(Debug, Clone)]
pub struct CreatorName {
    /// See [`crate::report::model::pools::Creator::creator`].
    pub creator: Option<String>,
    /// See [`crate::report::model::pools::Creator::object`].
    pub object: String,
    /// The purpose of its pools.
    pub kind: PoolKind,
}

/// The names found so far, each with the key that it was found for.
#[derive(Debug, Default)]
pub struct CreatorNames(Vec<((Origin, bool), CreatorName)>);

impl CreatorNames {
    /// Returns the names of all creators, in the same order.
    pub fn of(&mut self, creators: &[CreatorTally]) -> Vec<CreatorName> {
        let mut loaded = None;
        let is_new = |(index, creator): (usize, &CreatorTally)| {
            self.0.get(index).is_none_or(|(found_for, _)| *found_for != key(creator))
        };
        if self.0.len() > creators.len() || creators.iter().enumerate().any(is_new) {
            let objects = loaded.get_or_insert_with(objects);
            let names = creators.iter().map(|creator| (key(creator), find(creator, objects)));
            self.0 = names.collect();
        }
        self.0.iter().map(|(_, name)| name.clone()).collect()
    }
}

fn key(creator: &CreatorTally) -> (Origin, bool) {
    (creator.origin, creator.of_cycles)
}

fn find(creator: &CreatorTally, objects: &[LoadedObject]) -> CreatorName {
    let call = creator.address.wrapping_sub(1);
    let object = objects.iter().find(|object| object.contains(call));
    let neighbours = match object {
        // SAFETY: the object contains the creator's code, so it stays loaded during the call (1).
        Some(object) if !creator.origin.is_exact() => unsafe {
            exports::around(object, call, creator.origin.function)
        },
        _ => exports::Neighbours::default(),
    };
    let text = |symbol: symbol::Symbol| symbol.name.to_string_lossy().into_owned();
    let function = match creator.origin.function {
        0 => None,
        function => symbol::with(function, text),
    };
    let code = creators::name(creator.address);
    let known = KnownCode {
        code: code.as_deref(),
        offset: call.wrapping_sub(neighbours.below_at),
        function: function.as_deref(),
        calls: creator.origin.calls,
        between: neighbours.between,
        below: neighbours.below.as_deref(),
        above: neighbours.above.as_deref(),
        object: object.map_or("", |object| &object.name),
        of_cycles: creator.of_cycles,
        first_size: creator.first_size,
    };
    CreatorName { creator: name(&known), object: known.object.to_owned(), kind: kind(&known) }
}

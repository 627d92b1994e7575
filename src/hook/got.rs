//! Putting a function of ours into the slots through which objects call an imported one.
//!
//! What the unsafe code below relies on, and [`patch`] and [`restore`] demand of their callers:
//!
//! 1. The objects are loaded, and no other thread loads or unloads objects meanwhile.
//! 2. The replacement may be called in place of the function, from now on and for as long as the
//!    process lives: the object it is in is pinned.
//! 3. No other thread changes the protection of the pages the slots are on.

use std::ffi::{c_void, CStr};
use std::sync::atomic::{AtomicPtr, Ordering};

use super::imports::{imports, Import};
use super::protect::{Failure, Protections};
use super::refusal::Refusal;
use crate::sys::elf::LoadedObject;

/// What came of patching. The names are those of objects, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Patched {
    /// Objects patched now.
    pub now: Vec<String>,
    /// Objects patched before, with nothing left to do.
    pub before: Vec<String>,
    /// Why some slots are as they were.
    pub refusals: Vec<Refusal>,
}

impl Patched {
    /// Whether any slot leads to the replacement.
    pub fn any(&self) -> bool {
        !self.now.is_empty() || !self.before.is_empty()
    }

    /// The first refusal as an error.
    pub fn complete(&self) -> Result<(), Refusal> {
        self.refusals.first().cloned().map_or(Ok(()), Err)
    }
}

/// A slot and the object it is in.
struct Slot<'a> {
    object: &'a LoadedObject,
    import: Import,
}

impl Slot<'_> {
    fn refusal(&self, failure: Failure) -> Refusal {
        let object = self.object.name.clone();
        match failure {
            Failure::Changed => Refusal::Changed { object },
            Failure::Page => Refusal::Page { object },
            Failure::Protect(errno) => Refusal::Protect(errno),
        }
    }

    /// Whether the slot leads to the code that looks the function up at the first call.
    fn is_unbound(&self) -> bool {
        self.import.lazy
            && !self.import.defined
            && self.object.executable().any(|r| r.contains(&self.import.value))
    }
}

/// Makes all `objects` that import `symbol` call `replacement` instead. The function they called
/// before is in `original` before the first slot changes. If `original` is set already, it is kept;
/// a slot that leads to yet another function is left as it is, with a refusal.
///
/// What is patched already is left as it is, so this may be called again when objects were added.
///
/// # Safety
///
/// 1 to 3 above hold. `original` belongs to this `symbol` and `replacement` only.
pub unsafe fn patch<'a>(
    objects: impl IntoIterator<Item = &'a LoadedObject>,
    symbol: &CStr,
    replacement: *const c_void,
    original: &AtomicPtr<c_void>,
) -> Result<Patched, Refusal> {
    let mut patched = Patched::default();
    // SAFETY: the caller's contract.
    let slots = unsafe { slots(objects, symbol, &mut patched.refusals) };
    let stubs: Vec<usize> = slots.iter().filter_map(|slot| slot.import.stub).collect();
    let (before, todo): (Vec<_>, Vec<_>) =
        slots.into_iter().partition(|slot| slot.import.value == replacement as usize);
    if !todo.is_empty() {
        let protections = Protections::read()?;
        let definition = definition(symbol, &stubs);
        let target = |slot: &Slot| {
            if stubs.contains(&slot.import.value) || slot.is_unbound() {
                return definition;
            }
            Some(slot.import.value)
        };
        if original.load(Ordering::Acquire).is_null() {
            let mut targets = todo.iter().filter_map(target);
            let first = targets.next();
            let chosen = match definition {
                Some(definition) if targets.any(|target| target == definition) => Some(definition),
                _ => first,
            };
            original.store(chosen.unwrap_or(0) as *mut c_void, Ordering::Release);
        }
        let original = original.load(Ordering::Acquire) as usize;
        for slot in &todo {
            let name = || slot.object.name.clone();
            match target(slot) {
                None => patched.refusals.push(Refusal::Unresolved { symbol: text(symbol) }),
                Some(target) if target != original => {
                    patched.refusals.push(Refusal::Foreign { symbol: text(symbol), object: name() })
                }
                Some(_) => {
                    let (at, from) = (slot.import.slot, slot.import.value);
                    // SAFETY: the caller's contract: the object is loaded (1), the replacement is
                    // one (2), protections keep still (3); `imports` finds aligned slots only.
                    match unsafe { protections.swap(at, from, replacement as usize) } {
                        Ok(()) => add(&mut patched.now, name()),
                        Err(failure) => patched.refusals.push(slot.refusal(failure)),
                    }
                }
            }
        }
    }
    for slot in before.iter().filter(|slot| !patched.now.contains(&slot.object.name)) {
        add(&mut patched.before, slot.object.name.clone());
    }
    Ok(patched)
}

/// Undoes [`patch`] where a slot still holds `replacement`: it gets `original`. Returns the names
/// of the objects, in [`Patched::now`]. Calls that are under way still return through the
/// replacement.
///
/// # Safety
///
/// 1 and 3 above hold, and `original` is what [`patch`] found for `symbol`.
pub unsafe fn restore<'a>(
    objects: impl IntoIterator<Item = &'a LoadedObject>,
    symbol: &CStr,
    replacement: *const c_void,
    original: *const c_void,
) -> Result<Patched, Refusal> {
    let mut restored = Patched::default();
    // SAFETY: the caller's contract.
    let mut slots = unsafe { slots(objects, symbol, &mut restored.refusals) };
    slots.retain(|slot| slot.import.value == replacement as usize);
    if slots.is_empty() {
        return Ok(restored);
    }
    let protections = Protections::read()?;
    for slot in &slots {
        let (at, from) = (slot.import.slot, slot.import.value);
        // SAFETY: the caller's contract, as in `patch`.
        match unsafe { protections.swap(at, from, original as usize) } {
            Ok(()) => add(&mut restored.now, slot.object.name.clone()),
            Err(failure) => restored.refusals.push(slot.refusal(failure)),
        }
    }
    Ok(restored)
}

/// All slots of `symbol`.
///
/// # Safety
///
/// 1 above holds.
unsafe fn slots<'a>(
    objects: impl IntoIterator<Item = &'a LoadedObject>,
    symbol: &CStr,
    refusals: &mut Vec<Refusal>,
) -> Vec<Slot<'a>> {
    let mut slots = Vec::new();
    for object in objects {
        // SAFETY: the caller's contract.
        match unsafe { imports(object, symbol) } {
            Ok(found) => slots.extend(found.into_iter().map(|import| Slot { object, import })),
            Err(refusal) => refusals.push(refusal),
        }
    }
    slots
}

/// The function itself, as the loader finds it; not a stub of an object that imports it.
fn definition(symbol: &CStr, stubs: &[usize]) -> Option<usize> {
    // SAFETY: looks a NUL-terminated name up, without effect.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) } as usize;
    (found != 0 && !stubs.contains(&found)).then_some(found)
}

fn add(names: &mut Vec<String>, name: String) {
    if !names.contains(&name) {
        names.push(name);
    }
}

fn text(symbol: &CStr) -> String {
    symbol.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;

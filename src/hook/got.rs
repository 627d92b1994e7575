//! Puts a function of ours into the slots through which objects call an imported function.
//!
//! What the unsafe code below relies on, and [`patch`] and [`restore`] require of their callers:
//!
//! 1. The objects are loaded, and no other thread loads or unloads objects meanwhile.
//! 2. The replacement may be called in place of the function, from now on and as long as the
//!    process lives: the object that contains it is pinned.
//! 3. No other thread changes the protection of the pages that contain the slots.

use std::ffi::{c_void, CStr};
use std::sync::atomic::{AtomicPtr, Ordering};

use super::imports::{imports, Import};
use super::protect::{Failure, Protections};
use super::refusal::Refusal;
use crate::sys::elf::LoadedObject;

/// The result of patching. The names are those of objects, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Patched {
    /// Objects patched now.
    pub now: Vec<String>,
    /// Objects patched before, with nothing left to do.
    pub before: Vec<String>,
    /// The reasons why some slots stayed unchanged.
    pub refusals: Vec<Refusal>,
}

impl Patched {
    /// Returns whether any slot leads to the replacement.
    pub fn any(&self) -> bool {
        !self.now.is_empty() || !self.before.is_empty()
    }

    /// Returns the first refusal as an error.
    pub fn complete(&self) -> Result<(), Refusal> {
        self.refusals.first().cloned().map_or(Ok(()), Err)
    }
}

/// A slot, and the object that contains it.
struct GotSlot<'a> {
    object: &'a LoadedObject,
    import: Import,
}

impl GotSlot<'_> {
    fn refusal(&self, failure: Failure) -> Refusal {
        let object = self.object.name.clone();
        match failure {
            Failure::Changed => Refusal::Changed { object },
            Failure::Page => Refusal::Page { object },
            Failure::Protect(errno) => Refusal::Protect(errno),
        }
    }

    /// Returns whether the slot still leads to the code that looks the function up at the first
    /// call.
    fn is_unbound(&self) -> bool {
        self.import.lazy
            && !self.import.defined
            && self.object.executable().any(|r| r.contains(&self.import.value))
    }
}

/// Makes all `objects` that import `symbol` call `replacement` instead. The function that they
/// called before is stored in `original` before the first slot changes. If `original` is set
/// already, it is kept. A slot that leads to yet another function stays unchanged, and its object
/// is reported as a refusal.
///
/// Slots that are patched already stay unchanged, so this may be called again after objects were
/// loaded.
///
/// # Safety
///
/// Rules 1 to 3 above hold. `original` is used only for this `symbol` and `replacement`.
pub unsafe fn patch<'a>(
    objects: impl IntoIterator<Item = &'a LoadedObject>,
    symbol: &CStr,
    replacement: *const c_void,
    original: &AtomicPtr<c_void>,
) -> Result<Patched, Refusal> {
    let mut patched = Patched::default();
    // SAFETY: the objects are loaded and stay so, by contract (1).
    let slots = unsafe { slots(objects, symbol, &mut patched.refusals) };
    let stubs: Vec<usize> = slots.iter().filter_map(|slot| slot.import.stub).collect();
    let (before, todo): (Vec<_>, Vec<_>) =
        slots.into_iter().partition(|slot| slot.import.value == replacement as usize);
    if !todo.is_empty() {
        let protections = Protections::read()?;
        let definition = definition(symbol, &stubs);
        let target = |slot: &GotSlot| {
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
                    // SAFETY: by contract, the object is loaded (1), the function may be replaced
                    // (2), and nobody else changes protections (3); `imports` finds only aligned
                    // slots (1).
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

/// Undoes [`patch`]: slots that still hold `replacement` get `original`. Returns the names of their
/// objects in [`Patched::now`]. A call that is in progress still returns through the replacement.
///
/// # Safety
///
/// Rules 1 and 3 above hold, and `original` is the function that [`patch`] found for `symbol`.
pub unsafe fn restore<'a>(
    objects: impl IntoIterator<Item = &'a LoadedObject>,
    symbol: &CStr,
    replacement: *const c_void,
    original: *const c_void,
) -> Result<Patched, Refusal> {
    let mut restored = Patched::default();
    // SAFETY: the objects are loaded and stay so, by contract (1).
    let mut slots = unsafe { slots(objects, symbol, &mut restored.refusals) };
    slots.retain(|slot| slot.import.value == replacement as usize);
    if slots.is_empty() {
        return Ok(restored);
    }
    let protections = Protections::read()?;
    for slot in &slots {
        let (at, from) = (slot.import.slot, slot.import.value);
        // SAFETY: by contract, the object is loaded (1), the original may be called (2), and nobody
        // else changes protections (3).
        match unsafe { protections.swap(at, from, original as usize) } {
            Ok(()) => add(&mut restored.now, slot.object.name.clone()),
            Err(failure) => restored.refusals.push(slot.refusal(failure)),
        }
    }
    Ok(restored)
}

/// Returns all slots of `symbol`.
///
/// # Safety
///
/// Rule 1 above holds.
unsafe fn slots<'a>(
    objects: impl IntoIterator<Item = &'a LoadedObject>,
    symbol: &CStr,
    refusals: &mut Vec<Refusal>,
) -> Vec<GotSlot<'a>> {
    let mut slots = Vec::new();
    for object in objects {
        // SAFETY: the object is loaded and stays so, by contract (1).
        match unsafe { imports(object, symbol) } {
            Ok(found) => slots.extend(found.into_iter().map(|import| GotSlot { object, import })),
            Err(refusal) => refusals.push(refusal),
        }
    }
    slots
}

/// Returns the function itself, as the loader finds it; not a stub of an object that imports it.
fn definition(symbol: &CStr, stubs: &[usize]) -> Option<usize> {
    // SAFETY: the lookup has no effect, and the name ends in NUL (1).
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

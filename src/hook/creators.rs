//! Finds the places in the code that create pools, and names for them. This is done once, in a
//! forked child, from the machine code and the files it was loaded from.
//!
//! A name is, in this order: that of an exported function; one from `.symtab`, in the file, in its
//! file of debugging information or in its `.gnu_debugdata`; or else one that is derived from the
//! code itself, see [`file`].
//!
//! What the unsafe code below relies on:
//!
//! 1. The process has one thread: the loaded objects stay loaded during the search, and in its
//!    child.

mod file;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use serde::{Deserialize, Serialize};

use super::arch::references;
use super::arch::references::ReferenceKind;
use super::engine::trial;
use super::imports::imports;
use crate::report::naming::prefix;
use crate::sys::elf::{objects, LoadedObject};
use crate::sys::exports::{self, Export};
use crate::sys::image::Image;
use crate::sys::{functions, status, symbol, symbols};

use file::{NameSource, NamedFunction, ObjectFunctions};

/// The maximum number of named places, and the maximum length of a name.
const PLACES: usize = 256;
const NAME: usize = 64;

/// A place: the return address of its call, and its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CallSite {
    address: usize,
    name: String,
}

#[derive(Debug)]
struct FoundSites {
    /// The objects that were searched: their names and addresses.
    objects: Vec<(String, usize)>,
    places: Vec<CallSite>,
}

static FOUND: RwLock<FoundSites> =
    RwLock::new(FoundSites { objects: Vec::new(), places: Vec::new() });

/// Finds the creators in the loaded objects, unless the same objects were searched before.
///
/// Does nothing while the process has other threads, as a single process may have after a reload.
pub fn find() {
    let loaded = objects();
    let key: Vec<_> = loaded.iter().map(|object| (object.name.clone(), object.bias)).collect();
    let Ok(mut found) = FOUND.write() else { return };
    if found.objects == key {
        return;
    }
    if status::own().map_or(true, |reading| reading.threads != 1) {
        return;
    }
    let places: Vec<CallSite> = trial::run(|| Ok(search(&loaded))).unwrap_or_default();
    *found = FoundSites { objects: key, places };
}

/// Returns the name of the creator whose call returns to an address.
pub fn name(address: usize) -> Option<String> {
    let found = FOUND.read().ok()?;
    let place = found.places.iter().find(|place| place.address == address)?;
    Some(place.name.clone())
}

fn search(loaded: &[LoadedObject]) -> Vec<CallSite> {
    let Some(create) = symbol::address(c"ngx_create_pool") else { return Vec::new() };
    let mut places = Vec::new();
    for (index, object) in loaded.iter().enumerate() {
        // SAFETY: the objects stay loaded during the search (1).
        places.extend(unsafe { places_of(object, index == 0, create) }.unwrap_or_default());
    }
    places.truncate(PLACES);
    places
}

/// Returns the places in an object.
///
/// # Safety
///
/// The object is loaded, and stays so during the call.
unsafe fn places_of(
    object: &LoadedObject,
    is_executable: bool,
    create: usize,
) -> Option<Vec<CallSite>> {
    // SAFETY: the object is loaded and stays so, by contract (1).
    let (image, slots) = unsafe {
        let slots = imports(object, c"ngx_create_pool").ok().unwrap_or_default();
        (Image::new(object), slots)
    };
    let slots: Vec<usize> = slots.iter().map(|import| import.slot).collect();
    let has_it = object.contains(create);
    if slots.is_empty() && !has_it {
        return None;
    }
    let code: Vec<(usize, &[u8])> = object
        .executable()
        .filter_map(|range| Some((range.start, image.bytes(range.start, range.len())?)))
        .collect();
    // The stubs by which an object calls imported functions. An instruction may precede the jump.
    let mut targets: Vec<usize> = if has_it { vec![create] } else { Vec::new() };
    for (at, bytes) in &code {
        references(bytes, *at, |found| {
            if found.kind == ReferenceKind::JumpBySlot && slots.contains(&found.to) {
                targets.extend((0..=5).map(|before| found.start.wrapping_sub(before)));
            }
        });
    }
    let mut calls = Vec::new();
    let mut functions =
        ObjectFunctions { starts: functions::starts(&image), ..ObjectFunctions::default() };
    for (at, bytes) in &code {
        references(bytes, *at, |found| {
            let creates = match found.kind {
                ReferenceKind::Call => targets.contains(&found.to),
                ReferenceKind::CallBySlot => slots.contains(&found.to),
                _ => false,
            };
            if creates {
                calls.push(found.behind);
            }
            let is_near = matches!(found.kind, ReferenceKind::Call | ReferenceKind::Address);
            if is_near && functions.starts.binary_search(&found.to).is_ok() {
                functions.references.push((found.to, found.start));
            }
        });
    }
    if calls.is_empty() {
        return None;
    }
    functions.references.sort_unstable();
    // SAFETY: the object is loaded and stays so, by contract (1).
    let exports = unsafe { exports::all(object) };
    let head = image.bytes(object.segments.first()?.range.start, HEAD)?;
    let file = path(object, is_executable).map(|path| symbols::of(&path, head));
    functions.named = named(&image, &exports, &functions.starts, file.unwrap_or_default());
    // In a file that nginx loads, all code belongs to the file's modules.
    let of_modules = modules(&exports)
        .map(|(name, _)| name.to_owned())
        .reduce(|one, other| prefix(&one, &other).unwrap_or_default().to_owned());
    let of_modules = of_modules.filter(|name| !is_executable && !name.is_empty());
    let place = |address: usize| {
        let call = address.wrapping_sub(1);
        let exported = exports.iter().find(|export| {
            export.is_function
                && call.checked_sub(export.address).is_some_and(|at| at < export.size)
        });
        let name = exported.map(|export| export.name.clone()).or_else(|| functions.name(call));
        let name = name.or_else(|| Some(format!("{}_*", of_modules.clone()?)))?;
        Some(CallSite { address, name: name.chars().take(NAME).collect() })
    };
    Some(calls.into_iter().filter_map(place).collect())
}

/// The number of bytes at the start of a file that identify it: its headers.
const HEAD: usize = 512;

/// Returns the path of an object's file.
fn path(object: &LoadedObject, is_executable: bool) -> Option<PathBuf> {
    if is_executable {
        return Some(PathBuf::from("/proc/self/exe"));
    }
    let start = object.segments.first()?.range.start;
    let path = symbol::file(start)?;
    Some(Path::new(OsStr::from_bytes(&path)).to_owned())
}

/// Returns the functions that have a name, or whose source file has one.
fn named(
    image: &Image,
    exports: &[Export],
    starts: &[usize],
    file: Vec<symbols::Function>,
) -> Vec<NamedFunction> {
    let bias = image.object.bias;
    let own = exports.iter().filter(|export| export.is_function && export.size > 0);
    let own = own.map(|e| NamedFunction {
        start: e.address,
        name: e.name.clone(),
        of: NameSource::Exported,
    });
    let local = file.into_iter().map(|function| NamedFunction {
        start: bias.wrapping_add(function.address),
        name: function.name,
        of: NameSource::Local,
    });
    let of_modules = modules(exports).flat_map(|(name, address)| {
        let functions = functions_of_module(image, address).unwrap_or_default();
        let is_start = |at: &usize| starts.binary_search(at).is_ok();
        functions.into_iter().filter(is_start).map(|start| NamedFunction {
            start,
            name: name.to_owned(),
            of: NameSource::File,
        })
    });
    let mut named: Vec<NamedFunction> = own.chain(local).chain(of_modules).collect();
    // Of several names for one function, keep the first: an exported name, one of the file's, the
    // module's.
    named.sort_by_key(|named| (named.start, named.of));
    named.dedup_by_key(|named| named.start);
    named
}

/// Returns the modules that an object exports: their names without `_module`, and their addresses.
fn modules(exports: &[Export]) -> impl Iterator<Item = (&str, usize)> {
    let modules = exports.iter().filter(|export| !export.is_function && export.size == MODULE);
    modules.filter_map(|module| Some((module.name.strip_suffix("_module")?, module.address)))
}

/// The size of `ngx_module_t`, and the offsets of its fields, in bytes.
const MODULE: usize = 200;
const CONTEXT: usize = 56;
const COMMANDS: usize = 64;
const TYPE: usize = 72;
const CALLBACKS: std::ops::Range<usize> = 80..136;

/// The size of `ngx_command_t`, the offset of its function, and that of the data for this function,
/// in bytes.
const COMMAND: usize = 56;
const SET: usize = 24;
const POST: usize = 48;

/// The maximum number of a module's commands to read.
const MOST_COMMANDS: usize = 1024;

/// Returns the functions that a module passes to nginx: its callbacks, those of its context, and
/// those of its directives. The static ones among them belong to the module's source file.
fn functions_of_module(image: &Image, module: usize) -> Option<Vec<usize>> {
    let word = |at: usize| image.word(at).map(|word| word as usize);
    let mut found: Vec<usize> = CALLBACKS.step_by(8).filter_map(|at| word(module + at)).collect();
    let (context, kind) = (word(module + CONTEXT)?, word(module + TYPE)?);
    let words = match &(kind as u32).to_le_bytes() {
        // `CORE`: the name, then two functions. `HTTP`: eight functions.
        b"CORE" => 2..4,
        b"HTTP" => 0..8,
        _ => 0..0,
    };
    if context != 0 {
        found.extend(words.filter_map(|index| word(context.wrapping_add(index * 8))));
    }
    let mut command = word(module + COMMANDS)?;
    for _ in 0..MOST_COMMANDS {
        if command == 0 || word(command)? == 0 {
            break;
        }
        found.extend([SET, POST].iter().filter_map(|at| word(command.wrapping_add(*at))));
        command = command.wrapping_add(COMMAND);
    }
    Some(found)
}

//! Reports how much code the program and each of its libraries have mapped.
#![forbid(unsafe_code)]

use procfs::process::{MMapPath, MemoryMap};

use crate::report::model::{Text, TextObject};
use crate::sys::elf::LoadedObject;
use crate::sys::maps;

/// Returns the executable mappings of the loaded objects, the largest first.
pub fn text(objects: &[LoadedObject], maps: &[MemoryMap]) -> Text {
    let object = |object: &LoadedObject| TextObject {
        path: file_name(object, maps).unwrap_or_else(|| object.name.clone()),
        bytes: object.executable().map(|range| range.len() as u64).sum(),
    };
    let mut objects: Vec<TextObject> = objects.iter().map(object).collect();
    objects.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    Text { bytes: objects.iter().map(|object| object.bytes).sum(), objects }
}

/// Returns the base name of an object's file; the object's own name may be that of a link to it.
fn file_name(object: &LoadedObject, maps: &[MemoryMap]) -> Option<String> {
    let start = object.executable().next()?.start;
    let map = maps.get(maps.partition_point(|map| maps::range(map).end <= start))?;
    let MMapPath::Path(path) = &map.pathname else { return None };
    let name = path.file_name()?.to_string_lossy();
    Some(name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned())
}

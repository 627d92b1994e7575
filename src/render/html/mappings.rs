//! The table of the largest mappings without an owner.
#![forbid(unsafe_code)]

use maud::Markup;

use super::cells::{Cell, HtmlTable, Row};
use crate::report::model::mappings::Mapping;
use crate::report::model::{Category, Process};

/// The mappings of a process.
pub(super) fn process(process: &Process) -> Markup {
    let lists = process
        .mappings
        .iter()
        .flat_map(|m| [(Category::FileOther, &m.file_other), (Category::AnonOther, &m.anon_other)]);
    let rows = lists.flat_map(|(category, mappings)| {
        mappings.iter().enumerate().map(move |(place, mapping)| row(category, place, mapping))
    });
    HtmlTable {
        id: format!("mappings-{}", process.pid),
        caption: "Largest mappings of file_other and anon_other",
        heads: &["Path", "Entry", "Permissions", "Reserved", "Resident", "Mappings"],
        rows: rows.collect(),
    }
    .markup()
}

fn row(category: Category, place: usize, mapping: &Mapping) -> Row {
    let path = mapping.path.clone();
    let key = match &path {
        Some(path) => format!("{} {path} {}", category.name(), mapping.perms),
        None => format!("{} {place}", category.name()),
    };
    Row(
        key,
        vec![
            Cell::Name(path.unwrap_or_else(|| "(no name)".to_owned())),
            Cell::Text(category.name().to_owned()),
            Cell::Name(mapping.perms.clone()),
            Cell::Size(Some(mapping.reserved)),
            Cell::Size(mapping.resident),
            Cell::Count(Some(mapping.count)),
        ],
    )
}

//! The CSS class and the label of each category, the same everywhere. The colours are in
//! `colours.css`.
#![forbid(unsafe_code)]

use crate::report::model::Category;

/// The CSS classes of all sectors that one application-level pie can have.
#[cfg(test)]
pub(super) const APPLICATION: &[&str] = &[
    "heap",
    "lua-http",
    "lua-stream",
    "lua-other",
    "lua-code",
    "other-code",
    "shm",
    "text",
    "data",
    "stacks",
    "file",
    "anon",
    "unattributed",
];

/// The CSS classes of the system-level pie.
#[cfg(test)]
pub(super) const SYSTEM: &[&str] = &["sys-resident", "sys-swap", "sys-rest"];

/// The CSS class of a category, which determines its colour. The allocators share a class, because
/// a process has only one of them.
pub(super) fn class(category: Category) -> &'static str {
    match category {
        Category::GlibcHeap
        | Category::Jemalloc
        | Category::Tcmalloc
        | Category::Mimalloc
        | Category::MuslHeap => "heap",
        Category::HttpLuajit => "lua-http",
        Category::StreamLuajit => "lua-stream",
        Category::OtherLuajit => "lua-other",
        Category::LuajitMcode => "lua-code",
        Category::OtherMcode => "other-code",
        Category::NginxShm => "shm",
        Category::Text => "text",
        Category::Data => "data",
        Category::Stacks => "stacks",
        Category::FileOther => "file",
        Category::AnonOther => "anon",
    }
}

/// The label of a category.
pub(super) fn label(category: Category) -> &'static str {
    match category {
        Category::GlibcHeap => "malloc (glibc)",
        Category::Jemalloc => "malloc (jemalloc)",
        Category::Tcmalloc => "malloc (tcmalloc)",
        Category::Mimalloc => "malloc (mimalloc)",
        Category::MuslHeap => "malloc (musl)",
        Category::HttpLuajit => "LuaJIT of http",
        Category::StreamLuajit => "LuaJIT of stream",
        Category::OtherLuajit => "LuaJIT of other modules",
        Category::LuajitMcode => "LuaJIT machine code",
        Category::OtherMcode => "other machine code",
        Category::NginxShm => "nginx shared memory",
        Category::Text => "code",
        Category::Data => "data of executables",
        Category::Stacks => "thread stacks",
        Category::FileOther => "other file pages",
        Category::AnonOther => "other anonymous pages",
    }
}

#[cfg(test)]
mod tests;

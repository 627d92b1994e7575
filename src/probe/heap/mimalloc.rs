//! mimalloc, by `mi_process_info` and `mi_version`.
//!
//! It gives one figure at a price that an event loop can pay: the bytes it has committed, which is
//! `reserved` here. What of it is in use, it does not tell without a walk over all its pages.
//!
//! Invariants:
//! 1. The functions have the types of `mimalloc.h`, 1.7 and later.
#![allow(unsafe_code)]

use std::ffi::c_int;

use super::pace::{self, Pace};
use super::symbols::Object;
use super::HeapReading;
use crate::report::model::{Allocator, Category};

type ProcessInfo = extern "C" fn(
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
    *mut usize,
);

/// The probe of mimalloc.
pub struct Mimalloc {
    process_info: Option<ProcessInfo>,
    version: Option<String>,
    pace: Pace<usize>,
}

impl Mimalloc {
    /// mimalloc, if `object` is it.
    pub fn of(object: Object) -> Option<Mimalloc> {
        // SAFETY: the header's type (1).
        let version: extern "C" fn() -> c_int = unsafe { object.function(c"mi_version") }?;
        Some(Mimalloc {
            // SAFETY: the header's type (1).
            process_info: unsafe { object.function(c"mi_process_info") },
            version: name_of(version()),
            pace: Pace::default(),
        })
    }

    fn committed(&self) -> Option<usize> {
        let [mut elapsed, mut user, mut system, mut rss, mut peak_rss] = [0; 5];
        let [mut commit, mut peak_commit, mut faults] = [0; 3];
        (self.process_info?)(
            &mut elapsed,
            &mut user,
            &mut system,
            &mut rss,
            &mut peak_rss,
            &mut commit,
            &mut peak_commit,
            &mut faults,
        );
        // Its counter is signed and has been seen to go below 0.
        (commit <= isize::MAX as usize && commit != 0).then_some(commit)
    }

    /// The figures; `forced` whatever they cost.
    pub fn read_all(&mut self, forced: bool) -> HeapReading {
        let mut pace = std::mem::take(&mut self.pace);
        let last = pace.ask(forced, || self.committed());
        let mut notes = Vec::new();
        if pace.stale() {
            notes.push(pace::note("mimalloc"));
        }
        self.pace = pace;
        notes.push(
            "mimalloc: it tells what it has committed, not what of it is in use; which pages are \
             its own is not known, so they are part of anon_other"
                .to_owned(),
        );
        let committed = last.map(|(committed, _)| committed as u64);
        HeapReading {
            allocator: Allocator {
                name: "mimalloc".to_owned(),
                version: self.version.clone(),
                reserved: committed,
                in_use: None,
                free: None,
                mmapped: None,
                arenas: None,
                measured_ms_ago: last.map(|(_, age)| age),
            },
            category: Some(Category::Mimalloc),
            ranges: Vec::new(),
            resident: None,
            reserved: None,
            notes,
        }
    }
}

/// `MI_MALLOC_VERSION`: a digit each, or since 3.2 two digits each but the first.
fn name_of(version: c_int) -> Option<String> {
    let by = match version {
        100..=999 => 10,
        10_000..=99_999 => 100,
        _ => return None,
    };
    Some(format!("{}.{}.{}", version / (by * by), version / by % by, version % by))
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn names_versions() {
        assert_eq!(name_of(209).as_deref(), Some("2.0.9"));
        assert_eq!(name_of(30_201).as_deref(), Some("3.2.1"));
        assert_eq!(name_of(7), None);
    }
}

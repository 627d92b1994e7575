//! Makes the breakdown: reserved bytes and bytes in RAM per part, and the rest of the kernel's
//! totals.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::Snapshot;
use crate::hook;
use crate::probe::layout::CountedRange;
use crate::report::balance::{close, CategoryPart};
use crate::report::model::lua::LuaVms;
use crate::report::model::{Breakdown, Category, Note, Region, Stacks, System};
use crate::sys::{maps, ranges};

impl Snapshot {
    /// Returns the stacks. They are known if the hook saw the creation of every thread but the main
    /// one.
    pub(super) fn stacks(&mut self, threads: Option<u64>) -> Stacks {
        let unseen = threads.map(|threads| threads.saturating_sub(self.layout.threads_seen));
        if unseen == Some(0) && !self.targets.is_empty() {
            let mine = |target: &&CountedRange| target.category == Some(Category::Stacks);
            return Stacks {
                threads,
                reserved: Some(ranges::bytes(&self.layout.stacks)),
                resident: Some(self.targets.iter().filter(mine).map(CountedRange::bytes).sum()),
            };
        }
        if let Some(unseen) = unseen.filter(|unseen| *unseen > 0) {
            self.notes.push(Note::of(
                &["stacks"],
                format!(
                    "the creation of {unseen} threads was not observed; their stacks are in \
                 anon_other"
                ),
            ));
        }
        Stacks { threads, reserved: None, resident: None }
    }

    /// Combines the parts so that they add up to the kernel's totals.
    pub(super) fn close(&mut self, system: &System, stacks: &Stacks) -> Option<Breakdown> {
        let mut parts = vec![
            self.part(Category::Text, &self.layout.text),
            self.part(Category::Data, &self.layout.data),
        ];
        if stacks.reserved.is_some() {
            parts.push(self.part(Category::Stacks, &self.layout.stacks));
        }
        let mut unknown = Vec::new();
        if !self.layout.code.is_empty() {
            parts.push(self.part(Category::LuajitMcode, &self.layout.code));
        }
        if !self.layout.other_code.is_empty() {
            parts.push(self.part(Category::OtherMcode, &self.layout.other_code));
        }
        for (category, ranges) in &self.layout.lua.mappings {
            match ranges {
                Some(ranges) => parts.push(self.part(*category, ranges)),
                None => unknown.push(*category),
            }
        }
        if let Some(heap) = &self.heap {
            match (heap.category, heap.resident) {
                (Some(category), None)
                    if !heap.ranges.is_empty() || !self.layout.huge.is_empty() =>
                {
                    parts.push(self.part(category, &heap.ranges));
                    let reserved = ranges::bytes(&self.layout.huge);
                    parts.push(CategoryPart { category, reserved, anon: 0, file: 0, shmem: 0 });
                }
                (Some(category), Some(resident)) => {
                    let others: u64 = parts.iter().map(|part| part.anon).sum();
                    let room = system.resident_anon.unwrap_or(0).saturating_sub(others);
                    let reserved = heap.reserved.unwrap_or(resident);
                    let anon = resident.min(room);
                    parts.push(CategoryPart { category, reserved, anon, file: 0, shmem: 0 });
                }
                (Some(category), None) => unknown.push(category),
                (None, _) => {}
            }
        }
        if stacks.reserved.is_none() {
            unknown.push(Category::Stacks);
        }
        // Zones may have gigabytes. Unless all of them were counted in this snapshot, the kernel's
        // shared memory that is not counted elsewhere is assigned to nginx.
        let shmem = match self.touched {
            Some(touched) => touched,
            None => {
                let elsewhere = self.targets.iter().filter(|t| t.shmem).map(|t| t.resident.file);
                system.resident_shmem?.saturating_sub(elsewhere.sum())
            }
        };
        parts.push(CategoryPart {
            category: Category::NginxShm,
            reserved: ranges::bytes(&self.layout.shared),
            anon: 0,
            file: 0,
            shmem,
        });
        let file_other_reserved = self
            .maps
            .iter()
            .filter(|map| maps::has_file(map))
            .map(|map| ranges::bytes(&ranges::subtract(&maps::range(map), &self.layout.claimed)))
            .sum();
        let (breakdown, notes) = close(system, &parts, file_other_reserved);
        self.notes.extend(notes);
        breakdown.map(|mut breakdown| {
            breakdown.0.extend(unknown.into_iter().map(|category| (category, Region::default())));
            breakdown.0.sort_by_key(|(category, _)| *category);
            breakdown
        })
    }

    fn part(&self, category: Category, ranges: &[Range<usize>]) -> CategoryPart {
        let mut part =
            CategoryPart { category, reserved: ranges::bytes(ranges), anon: 0, file: 0, shmem: 0 };
        for target in self.targets.iter().filter(|t| t.category == Some(category)) {
            part.anon += target.resident.anon;
            *if target.shmem { &mut part.shmem } else { &mut part.file } += target.resident.file;
        }
        part
    }

    /// Returns the figures of the Lua VMs with their bytes in RAM; `None` if VMs are not hooked.
    pub(super) fn lua(&mut self) -> Option<Vec<LuaVms>> {
        self.notes.append(&mut self.layout.lua.notes);
        let mut all = std::mem::take(&mut self.layout.lua.subsystems);
        for lua in &mut all {
            let category = Some(lua.subsystem.category());
            let mine = self.targets.iter().filter(|target| target.category == category);
            lua.resident = lua.reserved.map(|_| mine.map(CountedRange::bytes).sum());
        }
        (!all.is_empty() || hook::lua::sees_all()).then_some(all)
    }
}

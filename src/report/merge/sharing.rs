//! Merges the pages that several processes map, so that each page counts once.
//!
//! A process publishes which of its pages other processes also map: anonymous pages by address,
//! because a page that has been shared since the fork has the same address in the master and in its
//! workers, and file pages by file and offset. The union of these sets plus the pages that only one
//! process maps is the memory that the server takes.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::pages::Spans;
use crate::report::model::sharing::Sharing;
use crate::report::model::{Process, ProcessKind, System};

impl Sharing {
    /// Sets the shared bytes, which are `age` milliseconds old, and the private bytes: the rest of
    /// what is resident now.
    pub fn fill_in(&self, system: &mut System, age: u64) {
        system.resident_shared = system.resident.map(|resident| resident.min(self.shared));
        system.resident_private =
            system.resident.map(|resident| resident.saturating_sub(self.shared));
        system.shared_ms_ago = Some(age);
    }
}

/// The age in milliseconds above which figures of shared pages count as uncertain.
const STALE_MS: u64 = 10_000;

/// The figures of one process that published its pages, in bytes.
#[derive(Debug, Clone, Copy)]
struct SharingFigures {
    anon_shared: u64,
    file_private: u64,
    shmem_private: u64,
    pss_file: Option<u64>,
}

/// The pages of several processes, each once.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    /// Shared anonymous pages, by generation.
    anon: Vec<(Option<u64>, Spans)>,
    files: Spans,
    shmem: Spans,
    known: HashMap<i32, SharingFigures>,
}

/// A number of bytes and its largest possible error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// The figure.
    pub bytes: u64,
    /// The true number differs from `bytes` by at most this many bytes.
    pub error: u64,
}

impl Merged {
    /// Adds the pages that a process published.
    pub fn add(&mut self, pid: i32, generation: Option<u64>, sharing: &Sharing) {
        let known = SharingFigures {
            anon_shared: sharing.anon_shared,
            file_private: sharing.file_private,
            shmem_private: sharing.shmem_private,
            pss_file: sharing.pss_file,
        };
        if self.known.insert(pid, known).is_some() {
            return;
        }
        let anon = sharing.anon.spans();
        match self.anon.iter_mut().find(|(of, _)| *of == generation) {
            Some((_, spans)) => *spans = std::mem::take(spans).union(anon),
            None => self.anon.push((generation, anon)),
        }
        self.files = std::mem::take(&mut self.files).union(sharing.files.spans());
        self.shmem = std::mem::take(&mut self.shmem).union(sharing.shmem.spans());
    }
}

/// The bytes that these processes take together, or why they are not known. `shared_memory` is the
/// number of bytes of nginx's shared memory.
pub fn unique(
    processes: &[Process],
    merged: &Merged,
    shared_memory: Option<u64>,
    page_size: u64,
) -> Result<Estimate, String> {
    let bytes = |spans: &Spans| spans.estimate(page_size);
    let shared_memory = shared_memory.ok_or("totals.shared_memory is not known")?;
    let newest = processes.iter().filter_map(|process| process.generation).max();
    let mut sum = Estimate { bytes: shared_memory, error: 0 };
    let mut master = None;
    let mut files = Files::default();
    for process in processes {
        let system = &process.system;
        let missing = || format!("the kernel's figures of process {} are not known", process.pid);
        let anon = system.resident_anon.ok_or_else(missing)?;
        let file = system.resident_file.ok_or_else(missing)?;
        match merged.known.get(&process.pid) {
            Some(known) => {
                let age = system.shared_ms_ago.unwrap_or(0).saturating_add(process.age_ms);
                // Since then other processes may have ended or written to these pages.
                let error = if age > STALE_MS { known.anon_shared } else { 0 };
                sum.add(anon.saturating_sub(known.anon_shared), error);
                sum.add(known.shmem_private, 0);
                files.add(file, known);
            }
            // The pages that others share are also the master's: its figure includes them.
            None if process.kind == ProcessKind::Master => {
                master = Some(anon);
                files.unknown = files.unknown.saturating_add(file);
            }
            None => {
                sum.add(anon, anon);
                files.unknown = files.unknown.saturating_add(file);
            }
        }
    }
    let all = merged.anon.iter().fold(Spans::default(), |all, (_, spans)| all.union(spans.clone()));
    let all = bytes(&all);
    match master {
        None => sum.add(all.bytes, all.error),
        Some(master) => {
            let current = merged.anon.iter().find(|(generation, _)| *generation == newest);
            let current = current.map(|(_, spans)| bytes(spans)).unwrap_or_default();
            // Pages of old workers to which the master has written since.
            let left = all.bytes.saturating_sub(current.bytes);
            sum.add(master.max(current.bytes).saturating_add(left), all.error);
        }
    }
    let shmem = bytes(&merged.shmem);
    sum.add(shmem.bytes, shmem.error);
    let files = files.finish(bytes(&merged.files));
    sum.add(files.bytes, files.error);
    Ok(sum)
}

impl Estimate {
    fn add(&mut self, bytes: u64, error: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.error = self.error.saturating_add(error);
    }
}

/// Bytes of file pages: of one process, of several processes, and the share of other programs.
#[derive(Debug, Default)]
struct Files {
    /// Pages that only one process maps.
    private: u64,
    /// Resident pages of the processes that did not publish their pages.
    unknown: u64,
    /// Pages that several processes map, counted once for each process that published them.
    several: u64,
    /// `several` of the processes whose `Pss_File` is known, and the share of it that `Pss_File`
    /// assigns to these processes.
    divided: (u64, u64),
}

impl Files {
    fn add(&mut self, resident: u64, known: &SharingFigures) {
        let several = resident.saturating_sub(known.file_private);
        self.private = self.private.saturating_add(known.file_private);
        self.several = self.several.saturating_add(several);
        if let Some(pss) = known.pss_file {
            self.divided.0 = self.divided.0.saturating_add(several);
            self.divided.1 = self.divided.1.saturating_add(pss.saturating_sub(known.file_private));
        }
    }

    /// The sum. `shared` is the union of the pages that several processes map.
    fn finish(self, shared: Estimate) -> Estimate {
        let Files { private, unknown, several, divided } = self;
        let (of, pss) = (u128::from(divided.0), u128::from(divided.1));
        // The kernel's division of the processes where it is known is applied to the others, too.
        let part = pss.saturating_mul(several.into()).checked_div(of);
        let part =
            part.and_then(|part| u64::try_from(part).ok()).filter(|part| *part < shared.bytes);
        let error = match part {
            Some(_) if divided.0 == several => 0,
            Some(part) => shared.bytes.saturating_sub(part),
            // Other programs may also map all of the shared pages.
            None => shared.bytes.saturating_add(shared.error),
        };
        // Unpublished pages may be among the published ones: half of them count, give or take half.
        Estimate {
            bytes: private.saturating_add(part.unwrap_or(shared.bytes)).saturating_add(unknown / 2),
            error: error.saturating_add(unknown.div_ceil(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::sharing::PageSet;
    use crate::report::sample::bare;

    fn set(pages: std::ops::Range<u64>) -> PageSet {
        let mut spans = Spans::default();
        pages.for_each(|page| spans.insert(page));
        spans.pack(1000)
    }

    fn process(
        kind: ProcessKind,
        pid: i32,
        generation: Option<u64>,
        anon: u64,
        file: u64,
    ) -> Process {
        let system =
            System { resident_anon: Some(anon), resident_file: Some(file), ..System::default() };
        Process { kind, pid, generation, system, ..bare() }
    }

    /// Anonymous pages shared at these addresses, and a file.
    fn sharing(anon: std::ops::Range<u64>, files: std::ops::Range<u64>) -> Sharing {
        Sharing {
            anon_shared: anon.end - anon.start,
            anon: set(anon),
            files: set(files),
            ..Sharing::default()
        }
    }

    fn of(all: &[(Process, Option<Sharing>)]) -> Estimate {
        let mut merged = Merged::default();
        for (process, sharing) in all {
            if let Some(sharing) = sharing {
                merged.add(process.pid, process.generation, sharing);
            }
        }
        let processes: Vec<_> = all.iter().map(|(process, _)| process.clone()).collect();
        unique(&processes, &merged, Some(1000), 1).unwrap()
    }

    #[test]
    fn what_workers_share_counts_once() {
        // The master has 100 pages; one worker has written to 30 of them, and both have 5 of their
        // own.
        let one = process(ProcessKind::Worker, 2, Some(1), 105, 50);
        let other = process(ProcessKind::Worker, 3, Some(1), 105, 40);
        let published = vec![
            (process(ProcessKind::Master, 1, Some(1), 100, 20), Some(sharing(0..100, 0..20))),
            (one.clone(), Some(sharing(0..100, 0..50))),
            (other.clone(), Some(sharing(30..100, 10..50))),
        ];
        assert_eq!(of(&published), Estimate { bytes: 1000 + 100 + 5 + 35 + 50, error: 50 });
        // The master's own figure replaces the pages that it does not publish.
        let mut silent = published;
        silent[0] = (process(ProcessKind::Master, 1, None, 100, 20), None);
        assert_eq!(of(&silent), Estimate { bytes: 1000 + 100 + 5 + 35 + 50 + 10, error: 50 + 10 });
    }

    #[test]
    fn old_figures_may_be_wrong() {
        let mut old = process(ProcessKind::Worker, 2, Some(1), 80, 0);
        old.system.shared_ms_ago = Some(9_000);
        let of = |process: &Process| of(&[(process.clone(), Some(sharing(0..50, 0..0)))]);
        assert_eq!(of(&old), Estimate { bytes: 1000 + 80, error: 0 });
        old.age_ms = 2_000;
        assert_eq!(of(&old), Estimate { bytes: 1000 + 80, error: 50 });
    }

    #[test]
    fn old_workers_have_pages_that_the_master_has_written_to() {
        let all = [
            (process(ProcessKind::Master, 1, None, 100, 0), None),
            (process(ProcessKind::Worker, 2, Some(1), 80, 0), Some(sharing(0..80, 0..0))),
            (process(ProcessKind::Worker, 3, Some(1), 80, 0), Some(sharing(0..80, 0..0))),
            (process(ProcessKind::Worker, 4, Some(2), 100, 0), Some(sharing(50..150, 0..0))),
        ];
        assert_eq!(of(&all).bytes, 1000 + 100 + 50);
    }

    #[test]
    fn other_programs_have_their_part_of_files() {
        let half = Sharing { pss_file: Some(25), ..sharing(0..0, 0..100) };
        let all = [
            (process(ProcessKind::Worker, 2, Some(1), 0, 100), Some(half.clone())),
            (process(ProcessKind::Worker, 3, Some(1), 0, 100), Some(half)),
        ];
        assert_eq!(of(&all), Estimate { bytes: 1000 + 50, error: 0 });
        // A process that is too large for `Pss_File` is divided as the others are.
        let mut some = all.clone();
        some[1].1 = Some(sharing(0..0, 0..100));
        assert_eq!(of(&some), Estimate { bytes: 1000 + 50, error: 50 });
        // Pages that only one of them maps are not divided.
        let large = Sharing { file_private: 7000, ..sharing(0..0, 0..100) };
        some[1] = (process(ProcessKind::Worker, 3, Some(1), 0, 7100), Some(large));
        assert_eq!(of(&some), Estimate { bytes: 1000 + 50 + 7000, error: 50 });
        let nobody = [(all[0].0.clone(), Some(sharing(0..0, 0..100)))];
        assert_eq!(of(&nobody), Estimate { bytes: 1000 + 100, error: 100 });
    }

    #[test]
    fn unknown_is_said() {
        let unknown = Process { system: System::default(), ..bare() };
        let why = unique(&[unknown], &Merged::default(), Some(0), 1).unwrap_err();
        assert_eq!(why, "the kernel's figures of process 1 are not known");
        assert!(unique(&[], &Merged::default(), None, 1).is_err());
    }

    #[test]
    fn private_is_the_rest() {
        let sharing = Sharing { shared: 70, ..Sharing::default() };
        let mut system = System { resident: Some(100), ..System::default() };
        sharing.fill_in(&mut system, 9);
        let figures = (system.resident_private, system.resident_shared, system.shared_ms_ago);
        assert_eq!(figures, (Some(30), Some(70), Some(9)));
        system.resident = Some(60);
        sharing.fill_in(&mut system, 9);
        assert_eq!((system.resident_private, system.resident_shared), (Some(0), Some(60)));
    }
}

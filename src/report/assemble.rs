//! Makes the whole reply from the collected processes and zones.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use super::merge::sharing::{self, Merged};
use super::merge::zones::{self, Reported};
use super::model::health::Health;
use super::model::zones::SharedZones;
use super::model::{
    AnsweredBy, ContainerReading, Note, Process, ProcessState, Server, Totals, MODULE, SCHEMA,
};

/// The properties of a reply itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The version of nginx, such as `1.22.1`.
    pub nginx: String,
    /// The executable's own name and version, or why they are not known.
    pub product: Result<String, String>,
    /// The time of the reply: seconds since the epoch, and milliseconds within that second.
    pub time: (u64, u64),
    /// The size of a page in bytes.
    pub page_size: u64,
    /// The process that answers.
    pub answered_by: AnsweredBy,
    /// From the arrival of the request to this reply, in microseconds.
    pub elapsed_us: u64,
    /// The container, as the process that answers has read it.
    pub container: ContainerReading,
}

/// Makes the reply: `processes` in order, the zones that they `reported`, and the totals. `merged`
/// has the pages that the processes share. Its health is not known yet.
pub fn assemble(
    facts: Facts,
    mut processes: Vec<Process>,
    reported: Vec<Reported>,
    merged: &Merged,
) -> Server {
    processes.sort_by_key(|p| (p.kind, p.id.is_none(), p.id, p.generation, p.pid));
    let shared_zones = zones::merge(reported, &processes);
    let shared_memory = shared_memory(&shared_zones, &mut processes, facts.answered_by.pid);
    let mut totals = totals(&processes, shared_memory);
    let unique = sharing::unique(&processes, merged, shared_memory, facts.page_size);
    let unique = known(unique, "totals.resident_unique", &mut processes, facts.answered_by.pid);
    totals.resident_unique = unique.map(|unique| unique.bytes);
    totals.resident_unique_error = unique.map(|unique| unique.error);
    let product = known(facts.product, "product", &mut processes, facts.answered_by.pid);
    let ContainerReading { container, notes } = facts.container;
    let own = processes.iter_mut().find(|process| process.pid == facts.answered_by.pid);
    if let Some(own) = own {
        own.notes.extend(notes.into_iter().map(|(fields, why)| Note::of(fields, why)));
    }
    Server {
        schema: SCHEMA,
        module: MODULE.to_owned(),
        nginx: facts.nginx,
        product,
        time: timestamp(facts.time.0, facts.time.1),
        page_size: facts.page_size,
        answered_by: facts.answered_by,
        elapsed_us: facts.elapsed_us,
        health: Health::default(),
        processes,
        shared_zones,
        totals,
        container,
        narrowed: false,
    }
}

/// Bytes of nginx's shared memory in RAM, each mapping counted once. If the sum is unknown, the
/// reason is added to the notes of the answering process.
fn shared_memory(zones: &SharedZones, processes: &mut [Process], answered_by: i32) -> Option<u64> {
    let newest = processes.iter().filter_map(|process| process.generation).max();
    // A process from before a reload may have mappings that no other process has.
    let is_old = |p: &Process| {
        p.state == ProcessState::ShuttingDown || (p.generation.is_some() && p.generation != newest)
    };
    let counted = match processes.iter().filter(|p| is_old(p)).find_map(zones::hides) {
        Some(why) => Err(why),
        None => zones::resident(zones),
    };
    known(counted, "totals.shared_memory", processes, answered_by)
}

/// Returns the value of `found`. An error becomes a note on `field` of the answering process.
fn known<T>(
    found: Result<T, String>,
    field: &'static str,
    processes: &mut [Process],
    answered_by: i32,
) -> Option<T> {
    found
        .map_err(|why| {
            let own = processes.iter_mut().find(|process| process.pid == answered_by);
            if let Some(own) = own {
                own.notes.push(Note::of(&[field], why));
            }
        })
        .ok()
}

/// Sums over `processes`. A sum is unknown if one of its parts is.
fn totals(processes: &[Process], shared_memory: Option<u64>) -> Totals {
    let sum = |figure: fn(&Process) -> Option<u64>| {
        processes.iter().try_fold(0u64, |sum, process| sum.checked_add(figure(process)?))
    };
    Totals {
        processes: u64::try_from(processes.len()).unwrap_or(u64::MAX),
        resident: sum(|p| p.system.resident),
        resident_unique: None,
        resident_unique_error: None,
        swap: sum(|p| p.system.swap),
        shared_memory,
    }
}

/// Formats a time as RFC 3339 in UTC with milliseconds, `2026-01-31T12:00:00.000Z`. Later times
/// than the end of the year 9999 become that time.
pub fn timestamp(seconds: u64, milliseconds: u64) -> String {
    /// The last second of the year 9999.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since =
        Duration::from_secs(seconds).saturating_add(Duration::from_millis(milliseconds)).min(LAST);
    let mut text = String::new();
    if let Some(time) = UNIX_EPOCH.checked_add(since) {
        // Fails only beyond the year 9999.
        let _ = write!(text, "{}", humantime::format_rfc3339_millis(time));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::zones::SharedZone;
    use crate::report::model::{Container, ProcessKind, System};
    use crate::report::sample;

    fn facts() -> Facts {
        Facts {
            nginx: "1.22.1".to_owned(),
            product: Ok("openresty/1.22.1.3".to_owned()),
            time: (1_767_225_600, 7),
            page_size: 4096,
            answered_by: AnsweredBy { pid: 11, id: Some(0) },
            elapsed_us: 180,
            container: ContainerReading::default(),
        }
    }

    fn process(kind: ProcessKind, id: Option<u32>, generation: Option<u64>, pid: i32) -> Process {
        let system = System {
            resident: Some(100),
            resident_anon: Some(60),
            resident_file: Some(10),
            resident_shmem: Some(30),
            swap: Some(5),
            ..System::default()
        };
        Process { kind, id, generation, pid, system, ..sample::bare() }
    }

    #[test]
    fn order() {
        let sorted = [
            process(ProcessKind::Master, None, Some(2), 9),
            process(ProcessKind::Single, None, Some(2), 1),
            process(ProcessKind::Worker, Some(0), Some(1), 20),
            process(ProcessKind::Worker, Some(0), Some(2), 8),
            process(ProcessKind::Worker, Some(2), Some(1), 4),
            process(ProcessKind::Worker, Some(10), Some(1), 3),
            process(ProcessKind::Worker, None, Some(1), 2),
            process(ProcessKind::PrivilegedAgent, None, None, 7),
            process(ProcessKind::CacheManager, None, Some(1), 6),
            process(ProcessKind::CacheLoader, None, Some(1), 5),
            process(ProcessKind::Other, None, None, 21),
            process(ProcessKind::Other, None, None, 22),
        ];
        let mut random = sample::Random::new(2);
        for _ in 0..100 {
            let mut shuffled = sorted.to_vec();
            for i in (1..shuffled.len()).rev() {
                shuffled.swap(i, random.below(i as u64 + 1) as usize);
            }
            assert_eq!(
                assemble(facts(), shuffled, Vec::new(), &Merged::default()).processes,
                sorted
            );
        }
    }

    fn one_zone(resident: Option<u64>) -> Vec<Reported> {
        let zone = SharedZone { resident, ..SharedZone::default() };
        vec![Reported { generation: None, zones: vec![("one".to_owned(), zone)] }]
    }

    #[test]
    fn sums() {
        let two = vec![
            process(ProcessKind::Master, None, None, 1),
            process(ProcessKind::Worker, Some(0), None, 2),
        ];
        let expected = Totals {
            processes: 2,
            resident: Some(200),
            resident_unique: Some(60 + 60 + 10 + 64),
            // The worker's pages may be the master's, and both may map the same file pages.
            resident_unique_error: Some(60 + 10),
            swap: Some(10),
            shared_memory: Some(64),
        };
        assert_eq!(
            assemble(facts(), two.clone(), one_zone(Some(64)), &Merged::default()).totals,
            expected
        );
        let unknown = Totals { resident_unique: None, resident_unique_error: None, ..expected };
        assert_eq!(
            assemble(facts(), two.clone(), one_zone(None), &Merged::default()).totals,
            Totals { shared_memory: None, ..unknown }
        );
        let with = |change: fn(&mut System)| {
            let mut processes = two.clone();
            change(&mut processes[1].system);
            assemble(facts(), processes, one_zone(Some(64)), &Merged::default()).totals
        };
        assert_eq!(with(|s| s.resident = None), Totals { resident: None, ..expected });
        assert_eq!(with(|s| s.resident_anon = None), unknown);
        assert_eq!(with(|s| s.resident_file = None), unknown);
        assert_eq!(with(|s| s.swap = None), Totals { swap: None, ..expected });
        assert_eq!(with(|s| s.swap = Some(u64::MAX)).swap, None);
        let nobody = assemble(facts(), Vec::new(), one_zone(Some(1)), &Merged::default());
        assert_eq!(nobody.totals.resident_unique, Some(1));
    }

    #[test]
    fn zones_that_are_not_known_are_not_summed() {
        let old = |state, generation| {
            let mut processes = vec![
                process(ProcessKind::Worker, Some(0), Some(2), 11),
                process(ProcessKind::Worker, Some(0), generation, 12),
            ];
            processes[0].zones = Some(Default::default());
            processes[1].state = state;
            assemble(facts(), processes, one_zone(Some(64)), &Merged::default())
        };
        assert_eq!(old(ProcessState::Active, Some(2)).totals.shared_memory, Some(64));
        assert_eq!(
            old(ProcessState::Active, None).totals.shared_memory,
            Some(64),
            "it has just begun"
        );
        for server in [old(ProcessState::Active, Some(1)), old(ProcessState::ShuttingDown, None)] {
            assert_eq!(server.totals.shared_memory, None);
            let note = Note::of(&["totals.shared_memory"], "the zones of process 12 are not known");
            let unique = Note::of(&["totals.resident_unique"], "totals.shared_memory is not known");
            let answering = server.processes.iter().find(|process| process.pid == 11).unwrap();
            assert_eq!(answering.notes, [note, unique]);
        }
    }

    #[test]
    fn facts_are_kept() {
        let server = assemble(facts(), Vec::new(), Vec::new(), &Merged::default());
        assert_eq!((server.schema, server.module.as_str()), (1, env!("CARGO_PKG_VERSION")));
        assert_eq!(
            (server.nginx.as_str(), server.page_size, server.elapsed_us),
            ("1.22.1", 4096, 180)
        );
        assert_eq!(server.product.as_deref(), Some("openresty/1.22.1.3"));
        assert_eq!(server.time, "2026-01-01T00:00:00.007Z");
        assert_eq!(server.answered_by, facts().answered_by);
    }

    #[test]
    fn the_process_that_answers_notes_an_unknown_product() {
        let product = Err("the executable has no line".to_owned());
        let processes = [10, 11].map(|pid| process(ProcessKind::Worker, None, None, pid)).to_vec();
        let server =
            assemble(Facts { product, ..facts() }, processes, Vec::new(), &Merged::default());
        assert_eq!(server.product, None);
        let note = Note::of(&["product"], "the executable has no line");
        assert_eq!(server.processes[0].notes, []);
        assert_eq!(server.processes[1].notes, [note]);
    }

    #[test]
    fn the_process_that_answers_notes_what_is_unknown_of_the_container() {
        let container = ContainerReading {
            container: Some(Container { usage: Some(7), ..Container::default() }),
            notes: vec![(&["container.limit"], "no".to_owned())],
        };
        let processes = [10, 11].map(|pid| process(ProcessKind::Worker, None, None, pid)).to_vec();
        let server =
            assemble(Facts { container, ..facts() }, processes, Vec::new(), &Merged::default());
        assert_eq!(server.container.and_then(|container| container.usage), Some(7));
        assert_eq!(server.processes[0].notes, []);
        assert_eq!(server.processes[1].notes, [Note::of(&["container.limit"], "no")]);
    }

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_782_400, 120), "2000-02-29T00:00:00.120Z");
        assert_eq!(timestamp(1, 1999), "1970-01-01T00:00:02.999Z");
        assert_eq!(timestamp(253_402_300_799, 0), "9999-12-31T23:59:59.000Z");
        assert_eq!(timestamp(u64::MAX, u64::MAX), "9999-12-31T23:59:59.000Z");
    }
}

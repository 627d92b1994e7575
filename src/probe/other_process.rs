//! Reports a process that does not answer for itself, with figures from `/proc`.
//!
//! Such a process does not run this module's code, has no slot, or has a slot that cannot be read.
#![forbid(unsafe_code)]

pub mod title;

use crate::probe::uses::not_counted;
use crate::probe::zones::ZoneMapping;
use crate::report::model::zones::ZoneUse;
use crate::report::model::{Named, Note, Process, ProcessKind, ProcessState};
use crate::sys::{life, limits, status};

/// The figures that only the process itself knows.
const UNKNOWN: [&str; 11] = [
    "generation",
    "breakdown",
    "allocator",
    "pools",
    "peak",
    "zones",
    "lua",
    "text",
    "stacks",
    "hooks",
    "self",
];
/// The same for the master, whose zones its children know.
const UNKNOWN_OF_MASTER: [&str; 9] =
    ["generation", "breakdown", "allocator", "pools", "peak", "text", "stacks", "hooks", "self"];

/// Reads a process that does not answer for itself, for this `reason`.
///
/// `zones` returns the mappings that this process shares with the `master`. Returns `None` if the
/// process is gone, or is neither the master nor its child.
pub fn read(
    pid: i32,
    state: ProcessState,
    reason: &str,
    master: Option<i32>,
    zones: impl FnOnce() -> Vec<ZoneMapping>,
) -> Option<Process> {
    let is_master = master == Some(pid);
    let untitled = if is_master { ProcessKind::Master } else { ProcessKind::Other };
    let titled = if is_master { None } else { title::read(pid) };
    let (kind, titled_state) = titled.unwrap_or((untitled, ProcessState::Active));
    // A child with the master's title is about to start its own work, or is the master of a new
    // binary.
    if (kind == ProcessKind::Master) != is_master {
        return None;
    }
    let mut notes = vec![Note::of(&UNKNOWN, reason.to_owned())];
    let master_zones = is_master.then(|| {
        Named(zones().into_iter().map(|zone| (zone.name.clone(), zone.uses_by_master())).collect())
    });
    let is_uncounted = |(_, uses): &(String, ZoneUse)| uses.allocations.is_none();
    if is_master {
        notes = vec![
            Note::of(&UNKNOWN_OF_MASTER, reason.to_owned()),
            Note::of(&["zones", "touched"], reason.to_owned()),
        ];
        if master_zones.as_ref().is_some_and(|zones| zones.0.iter().any(is_uncounted)) {
            notes.push(not_counted());
        }
    }
    let system = match status::of(pid) {
        Ok(reading) if reading.ended => return None,
        Ok(reading) if !is_master && Some(reading.parent) != master => return None,
        Ok(reading) => reading.system,
        Err(_) if !life::exists(pid) => return None,
        Err(error) => {
            notes.push(Note::of(&["system"], error.to_string()));
            Default::default()
        }
    };
    Some(Process {
        kind,
        id: None,
        pid,
        generation: None,
        state: state.max(titled_state),
        age_ms: 0,
        uptime_s: status::uptime_s(pid),
        system,
        breakdown: None,
        mappings: None,
        limits: limits::of(pid).ok().map(Named),
        allocator: None,
        pools: None,
        peak: None,
        zones: master_zones,
        lua: None,
        text: None,
        stacks: None,
        hooks: None,
        own: None,
        notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_by_what_the_kernel_says() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (pid, me) = (child.id() as i32, std::process::id() as i32);
        let of = |master| read(pid, ProcessState::Unresponsive, "it is stopped", master, Vec::new);
        let process = of(Some(me)).unwrap();
        assert_eq!((process.kind, process.state), (ProcessKind::Other, ProcessState::Unresponsive));
        assert!(process.system.resident.is_some_and(|bytes| bytes > 0), "{process:?}");
        let note =
            "generation, breakdown, allocator, pools, peak, zones, lua, text, stacks, hooks, self: \
                    it is stopped";
        assert_eq!(process.notes.len(), 1);
        assert_eq!(process.notes[0].to_string(), note);
        assert_eq!((process.breakdown, process.zones), (None, None));

        assert_eq!(of(Some(1)), None, "another's child");
        let master = of(Some(pid)).unwrap();
        assert_eq!((master.kind, master.zones), (ProcessKind::Master, Some(Named::default())));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(of(Some(me)), None);
    }
}

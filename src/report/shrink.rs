//! Shortens a snapshot that is too long for its slot.
#![forbid(unsafe_code)]

use super::model::{Note, Published};

/// The fields of a part and the function that removes it.
type OptionalPart = (&'static [&'static str], fn(&mut Published));

/// The parts that can be left out: the longest and least important first.
const PARTS: [OptionalPart; 9] = [
    (&["zones"], |published| {
        published.zones = Vec::new();
        published.process.zones = None;
    }),
    (&["mappings"], |published| published.process.mappings = None),
    (&["text"], |published| published.process.text = None),
    (&["pools.oldest", "pools.largest"], |published| {
        if let Some(pools) = &mut published.process.pools {
            (pools.oldest, pools.largest) = (Vec::new(), Vec::new());
        }
    }),
    (&["pools.by_server", "pools.by_upstream", "pools.by_listener"], |published| {
        if let Some(pools) = &mut published.process.pools {
            (pools.by_server, pools.by_upstream, pools.by_listener) = (None, None, None);
        }
    }),
    (&["peak.pools"], |published| {
        if let Some(peak) = &mut published.process.peak {
            peak.pools = None;
        }
    }),
    (&["notes"], |published| published.process.notes = Vec::new()),
    (&["totals.resident_unique"], |published| published.sharing = None),
    (&["pools"], |published| published.process.pools = None),
];

/// Removes one part after the other until `fits` returns true. Returns false if it never does.
pub fn until(mut published: Published, mut fits: impl FnMut(&Published) -> bool) -> bool {
    let mut left_out: Vec<&str> = Vec::new();
    PARTS.iter().any(|(fields, leave_out)| {
        leave_out(&mut published);
        left_out.extend(*fields);
        published.process.notes.push(Note::of(&left_out, "left out, the snapshot was too long"));
        let is_enough = fits(&published);
        published.process.notes.pop();
        is_enough
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::ProcessKind;
    use crate::report::sample::full;

    fn published() -> Published {
        Published {
            process: full(ProcessKind::Worker, Some(0), 11),
            zones: Vec::new(),
            sharing: None,
        }
    }

    #[test]
    fn no_more_than_needed() {
        let mut tries = 0;
        assert!(until(published(), |published| {
            tries += 1;
            let process = &published.process;
            assert_eq!((process.zones.is_none(), process.mappings.is_none()), (true, tries > 1));
            let note = ["zones", "zones, mappings"]
                .map(|parts| format!("{parts}: left out, the snapshot was too long"));
            assert_eq!(process.notes.last().unwrap().to_string(), note[tries - 1]);
            assert!(process.pools.as_ref().is_some_and(|pools| !pools.oldest.is_empty()));
            tries == 2
        }));
        assert_eq!(tries, 2);
    }

    #[test]
    fn in_the_end_all_of_it() {
        let mut last = None;
        assert!(!until(published(), |published| {
            last = Some(published.clone());
            false
        }));
        let process = last.unwrap().process;
        assert_eq!((process.pools, process.text, process.zones), (None, None, None));
        let note = "zones, mappings, text, pools.oldest, pools.largest, pools.by_server, pools.by_upstream, \
                    pools.by_listener, peak.pools, notes, totals.resident_unique, pools: left out, the snapshot was too long";
        assert_eq!(process.notes.len(), 1);
        assert_eq!(process.notes[0].to_string(), note);
    }
}

use super::*;
use crate::report::model::ProcessKind;
use crate::report::sample;

fn zone(generation: Option<u64>, size: u64, resident: Option<u64>) -> SharedZone {
    SharedZone { generation, size, resident, ..SharedZone::default() }
}

fn uses(generation: Option<u64>, mapped: u64) -> ZoneUse {
    let (touched, counted) = (Some(1), Some(0));
    ZoneUse {
        generation,
        mapped,
        touched,
        touched_ms_ago: touched,
        allocations: counted,
        frees: counted,
        failures: counted,
        bytes_requested: counted,
    }
}

fn process(pid: i32, generation: Option<u64>, zones: &[(&str, ZoneUse)]) -> Process {
    let zones = zones.iter().map(|(name, uses)| ((*name).to_owned(), *uses)).collect();
    let zones = Some(Named(zones));
    Process { kind: ProcessKind::Worker, pid, generation, zones, ..sample::bare() }
}

fn reported(generation: u64, zones: &[(&str, SharedZone)]) -> Reported {
    let zones = zones.iter().map(|(name, zone)| ((*name).to_owned(), zone.clone())).collect();
    Reported { generation: Some(generation), zones }
}

/// Name, generation, whether it is current, and the generations of the older mappings.
type Shape<'a> = (&'a str, Option<u64>, bool, Vec<Option<u64>>);

fn shape(zones: &SharedZones) -> Vec<Shape<'_>> {
    zones
        .0
        .iter()
        .map(|(name, zone)| {
            let older = zone.older.iter().map(|zone| zone.generation).collect();
            (name.as_str(), zone.newest.generation, zone.newest.current, older)
        })
        .collect()
}

#[test]
fn one_generation() {
    let processes = [process(1, Some(1), &[("one", uses(Some(1), 10))])];
    let zones = merge(vec![reported(1, &[("one", zone(Some(1), 10, Some(4)))])], &processes);
    assert_eq!(shape(&zones), [("one", Some(1), true, vec![])]);
    assert_eq!(resident(&zones), Ok(4));
    assert!(zones.get("one").unwrap().newest.notes.is_empty());
}

#[test]
fn a_reload_that_changes_one_drops_one_and_adds_one() {
    let old = [("kept", uses(Some(1), 5)), ("one", uses(Some(1), 10)), ("gone", uses(Some(1), 7))];
    let new = [("kept", uses(Some(1), 5)), ("one", uses(Some(2), 20)), ("more", uses(Some(2), 1))];
    let processes = [process(1, Some(1), &old), process(2, Some(2), &new)];
    let full = |uses: &[(&'static str, ZoneUse)]| -> Vec<(&'static str, SharedZone)> {
        uses.iter().map(|(n, u)| (*n, zone(u.generation, u.mapped, Some(u.mapped)))).collect()
    };
    let all = [
        ("one", Some(2), true, vec![Some(1)]),
        ("more", Some(2), true, vec![]),
        ("kept", Some(1), true, vec![]),
        ("gone", Some(1), false, vec![]),
    ];
    // The order of the reports does not matter.
    for order in [[2, 1], [1, 2]] {
        let by =
            |generation| reported(generation, &full(if generation == 1 { &old } else { &new }));
        let zones = merge(order.into_iter().map(by).collect(), &processes);
        assert_eq!(shape(&zones), all);
        assert_eq!(resident(&zones), Ok(5 + 10 + 20 + 7 + 1));
    }
    // The old worker does not report: its zones are listed, and their figures are unknown.
    let zones = merge(vec![reported(2, &full(&new))], &processes);
    assert_eq!(shape(&zones), all);
    let gone = &zones.get("gone").unwrap().newest;
    assert_eq!((gone.size, gone.resident, gone.notes.len()), (7, None, 1));
    assert!(resident(&zones).unwrap_err().contains("zone one"));
}

#[test]
fn what_may_be_hidden() {
    assert_eq!(hides(&process(1, Some(1), &[("one", uses(Some(1), 10))])), None);
    assert_eq!(hides(&process(1, Some(1), &[("one", uses(None, 10))])), None, "it is watched");
    let unseen = ZoneUse { allocations: None, ..uses(None, 10) };
    let why = hides(&process(7, Some(1), &[("one", unseen)])).unwrap();
    assert!(why.contains("zone one of process 7"), "{why}");
    assert!(hides(&sample::bare()).unwrap().contains("process 1 "));
}

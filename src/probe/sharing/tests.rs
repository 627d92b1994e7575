use super::*;
use crate::sys::maps::MapsReader;

const PATIENCE: Duration = Duration::from_secs(600);

fn read(probe: &mut SharingProbe, all: bool, budget: &Budget) -> usize {
    read_as_member(probe, all, 0, PATIENCE, budget)
}

fn read_as_member(
    probe: &mut SharingProbe,
    all: bool,
    membership: u64,
    patience: Duration,
    budget: &Budget,
) -> usize {
    let mut reader = MapsReader::open().unwrap();
    reader.step(&Budget::unlimited()).unwrap();
    let maps = reader.finish();
    let map = PageMap::open().unwrap();
    probe.begin(&maps, &AddressLayout::find(&maps, &[]), all, membership, patience);
    let mut steps = 1;
    while probe.step(&map, budget).unwrap() == Progress::More {
        steps += 1;
    }
    steps
}

#[test]
fn reads_in_steps_and_remembers() {
    let mut probe = SharingProbe::default();
    assert!(probe.finish().is_none());
    let steps = read(&mut probe, false, &Budget::new(Duration::ZERO));
    assert!(steps > 1);
    let (first, _) = probe.finish().unwrap();
    let system = status::own().unwrap().system;
    let resident = system.resident.unwrap();
    assert!(first.shared > 0 && first.shared <= resident, "{} {resident}", first.shared);
    assert!(first.files.spans().estimate(page_size() as u64).bytes > 0);
    // Recent figures are used as they are, once the processes that just started or exited have
    // settled.
    settle(&mut probe);
    let unlimited = Budget::unlimited();
    assert_eq!(read(&mut probe, false, &unlimited), 1);
    assert_eq!(probe.finish().unwrap().0, first);
    assert!(probe.reading.is_none());
    let since = probe.known.as_ref().unwrap().1;
    read(&mut probe, true, &unlimited);
    assert!(probe.known.as_ref().unwrap().1 > since);
}

/// Pretends that the last reading took place some time after the last change.
fn settle(probe: &mut SharingProbe) {
    if let (Some((_, since)), Some((_, changed))) = (&probe.known, &mut probe.membership) {
        *changed = *since - SETTLES;
    }
}

#[test]
fn who_starts_or_leaves_makes_figures_stale() {
    let mut probe = SharingProbe::default();
    let unlimited = Budget::unlimited();
    let since = |probe: &SharingProbe| probe.known.as_ref().map(|(_, since)| *since);
    read_as_member(&mut probe, false, 1, PATIENCE, &unlimited);
    settle(&mut probe);
    let first = since(&probe);
    read_as_member(&mut probe, false, 1, PATIENCE, &unlimited);
    assert_eq!(since(&probe), first);
    read_as_member(&mut probe, false, 2, PATIENCE, &unlimited);
    let second = since(&probe);
    assert!(second > first);
    // The other processes may need a moment to exit.
    read_as_member(&mut probe, false, 2, PATIENCE, &unlimited);
    assert!(since(&probe) > second);
}

#[test]
fn patience_ends_and_the_next_snapshot_goes_on() {
    let mut probe = SharingProbe::default();
    let unlimited = Budget::unlimited();
    read_as_member(&mut probe, false, 1, Duration::ZERO, &unlimited);
    let since = |probe: &SharingProbe| probe.known.as_ref().map(|(_, since)| *since);
    let first = since(&probe);
    assert!(first.is_some(), "the first figures are waited for");
    assert_eq!(read_as_member(&mut probe, false, 2, Duration::ZERO, &unlimited), 1);
    assert_eq!(since(&probe), first);
    assert!(probe.reading.is_some());
    read_as_member(&mut probe, false, 2, PATIENCE, &unlimited);
    assert!(since(&probe) > first);
}

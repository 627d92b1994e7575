//! Reports memory that no part of the breakdown claims: its largest mappings, huge pages.
#![forbid(unsafe_code)]

use procfs::process::MMPermissions;

use super::{Probes, Snapshot};
use crate::report::model::mappings::Mappings;
use crate::report::model::{Note, System};
use crate::sys::{maps, ranges};

/// Returns whether the kernel makes no transparent huge pages.
fn has_no_huge_pages() -> bool {
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    enabled.is_ok_and(|modes| modes.contains("[never]"))
}

impl Snapshot {
    /// Starts to count the mappings that nothing claims.
    pub(super) fn begin_unclaimed(&mut self, probes: &mut Probes) {
        let heap = self.heap.as_ref().map(|heap| heap.ranges.as_slice()).unwrap_or_default();
        let layout = &self.layout;
        let taken = [&layout.claimed, &layout.code, &layout.other_code].into_iter().flatten();
        let taken = ranges::normalize(taken.chain(heap).cloned().collect());
        let unnamed = !self.hides_its_mappings();
        probes.mappings.begin(&self.maps, &taken, unnamed, probes.refresh_zones);
    }

    /// Returns whether unnamed anonymous mappings may belong to the allocator, which has its own
    /// entry.
    fn hides_its_mappings(&self) -> bool {
        self.heap.as_ref().is_some_and(|heap| heap.ranges.is_empty() && heap.resident.is_some())
    }

    /// Returns the mappings. Completes `system` with figures that `/proc/self/status` lacks.
    pub(super) fn unclaimed(&mut self, system: &mut System, probes: &Probes) -> Option<Mappings> {
        let pages = self.pages.as_ref()?;
        let huge = probes.mappings.huge().and_then(|huge| huge.checked_add(self.huge));
        system.resident_huge = match pages.scans() {
            true => huge,
            false => has_no_huge_pages().then_some(0),
        };
        // A kernel before Linux 6.7 has no PAGEMAP_SCAN to count them with: nothing is wrong with a
        // server there, so it has no note. (`smaps` says it, in one call of 20 us a megabyte; the bits
        // of `pagemap` do not, those of `kpageflags` are root's.)
        if system.resident_huge.is_none() && pages.scans() {
            let fields = ["system", "resident_huge"];
            self.notes.push(Note::of(&fields, "not all of it was counted yet"));
        }
        let mappings = probes.mappings.finish();
        let mut all = mappings.file_other.iter().chain(&mappings.anon_other);
        if all.any(|mapping| mapping.resident.is_none()) {
            self.notes.push(Note::of(&["mappings", "resident"], "not all were counted yet"));
        }
        if self.hides_its_mappings() {
            self.notes.push(Note::of(
                &["mappings", "anon_other"],
                "mappings without a name are left out, because they may be the allocator's",
            ));
        }
        Some(mappings)
    }

    /// Assigns mappings of huge pages that malloc has made (`glibc.malloc.hugetlb=2`) to malloc.
    pub(super) fn claim_huge_pages(&mut self) {
        let Some((heap, pages)) = self.heap.as_mut().zip(self.pages.as_ref()) else { return };
        if heap.allocator.name != "glibc" {
            return;
        }
        let reserved = heap.allocator.reserved;
        let missing = reserved.map(|r| r.saturating_sub(ranges::bytes(&heap.ranges)));
        let both = MMPermissions::READ | MMPermissions::WRITE;
        let is_candidate = |map: &&procfs::process::MemoryMap| {
            maps::is_hugetlb(map) && !maps::is_shared(map) && map.perms.contains(both)
        };
        let candidates = self.maps.iter().filter(is_candidate).map(maps::range);
        let found =
            crate::probe::heap::in_huge_pages(candidates, pages, missing.unwrap_or(u64::MAX));
        let bytes = ranges::bytes(&found);
        if bytes == 0 {
            return;
        }
        if Some(bytes) == missing {
            // All memory that malloc was missing has been found.
            heap.unlocated.clear();
        }
        heap.notes.push(Note::of(
            &["breakdown", "glibc_heap"],
            format!("{bytes} bytes of it are huge pages (HugetlbPages), which resident excludes"),
        ));
        let claimed = self.layout.claimed.iter().chain(&found).cloned().collect();
        self.layout.claimed = ranges::normalize(claimed);
        self.layout.huge = found;
    }
}

//! Random figures, texts and processes.
#![forbid(unsafe_code)]

use super::shares;
use crate::report::model::lua::{self, Gc, LuaMappings, LuaVms, Subsystem};
use crate::report::model::pools::{self, Creator, LivePool, PoolSizes, Pools};
use crate::report::model::*;

/// A deterministic source of random figures (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A figure below `limit`, which must not be 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// A figure of any magnitude, including the extremes.
    pub(crate) fn figure(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            _ => self.bits() >> self.below(64),
        }
    }

    pub(super) fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(3) > 0).then(|| make(self))
    }

    pub(super) fn maybe_figure(&mut self) -> Option<u64> {
        self.maybe(Self::figure)
    }

    /// Text with characters that are hard to print.
    pub(crate) fn text(&mut self) -> String {
        let chars =
            ['a', 'Z', '0', ' ', '"', '\\', '\n', '\0', '\u{1b}', '\u{7f}', 'ä', '\u{202e}', '😀'];
        let long = if self.below(20) == 0 { 300 } else { 12 };
        (0..self.below(long)).map(|_| chars[self.below(chars.len() as u64) as usize]).collect()
    }

    pub(super) fn note(&mut self) -> Note {
        Note { fields: self.many(|r| r.text().into()), reason: self.text().into() }
    }

    pub(super) fn many<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(5)).map(|_| make(self)).collect()
    }

    /// Any process, even an impossible one.
    pub(crate) fn process(&mut self) -> Process {
        let kinds = [
            ProcessKind::Master,
            ProcessKind::Single,
            ProcessKind::Worker,
            ProcessKind::PrivilegedAgent,
            ProcessKind::CacheManager,
            ProcessKind::CacheLoader,
            ProcessKind::Other,
        ];
        let states = [ProcessState::Active, ProcessState::ShuttingDown, ProcessState::Unresponsive];
        Process {
            kind: kinds[self.below(7) as usize],
            id: self.maybe(|r| r.bits() as u32),
            pid: self.bits() as i32,
            generation: self.maybe_figure(),
            state: states[self.below(3) as usize],
            age_ms: self.figure(),
            uptime_s: self.maybe_figure(),
            system: System {
                virtual_: self.maybe_figure(),
                resident: self.maybe_figure(),
                resident_anon: self.maybe_figure(),
                resident_file: self.maybe_figure(),
                resident_shmem: self.maybe_figure(),
                swap: self.maybe_figure(),
                peak_resident: self.maybe_figure(),
                page_tables: self.maybe_figure(),
                hugetlb: self.maybe_figure(),
                data: self.maybe_figure(),
                resident_huge: self.maybe_figure(),
                resident_private: self.maybe_figure(),
                resident_shared: self.maybe_figure(),
                shared_ms_ago: self.maybe_figure(),
            },
            breakdown: self.maybe(|r| {
                let mut entries = Vec::new();
                for category in Category::ALL {
                    let remainder = matches!(category, Category::FileOther | Category::AnonOther);
                    if remainder || r.below(2) == 0 {
                        let region =
                            Region { reserved: r.maybe_figure(), resident: r.maybe_figure() };
                        entries.push((category, region));
                    }
                }
                Breakdown(entries)
            }),
            mappings: self.maybe(Self::mappings),
            limits: self.maybe(|r| {
                let names = ["address_space", "data"].into_iter().take(r.below(3) as usize);
                Named(names.map(|name| (name.to_owned(), r.figure())).collect())
            }),
            allocator: self.maybe(|r| Allocator {
                name: ["glibc", "jemalloc", "tcmalloc", "mimalloc", "musl", "unknown"]
                    [r.below(6) as usize]
                    .to_owned(),
                version: r.maybe(Self::text),
                reserved: r.maybe_figure(),
                in_use: r.maybe_figure(),
                free: r.maybe_figure(),
                mmapped: r.maybe_figure(),
                pools: r.maybe_figure(),
                nginx: Named(
                    r.maybe_figure().map(|n| ("connections".to_owned(), n)).into_iter().collect(),
                ),
                arenas: r.maybe_figure(),
                measured_ms_ago: r.maybe_figure(),
                measured_over_ms: r.maybe_figure(),
            }),
            pools: self.maybe(Self::pools),
            peak: self.maybe(Self::peak),
            zones: self.maybe(|r| {
                let names = r.names();
                Named(names.into_iter().map(|name| (name, r.zone_use())).collect())
            }),
            lua: self.maybe(|r| r.many(Self::lua)),
            text: self.maybe(|r| Text {
                bytes: r.figure(),
                objects: r.many(|r| TextObject { path: r.text(), bytes: r.figure() }),
            }),
            stacks: self.maybe(|r| Stacks {
                threads: r.maybe_figure(),
                reserved: r.maybe_figure(),
                resident: r.maybe_figure(),
            }),
            hooks: self.maybe(|r| {
                let hook = |r: &mut Self| match r.below(2) {
                    0 => HookState::On,
                    _ => HookState::Off(format!("because {}", r.text())),
                };
                Hooks {
                    pool: hook(r),
                    slab: hook(r),
                    lua: hook(r),
                    thread: hook(r),
                    master: r.maybe(hook),
                }
            }),
            own: self.maybe(|r| ModuleCost {
                bytes: r.figure(),
                snapshot_us: r.figure(),
                longest_slice_us: r.figure(),
            }),
            notes: self.many(Self::note),
        }
    }
}

impl Random {
    pub(super) fn kind(&mut self) -> pools::PoolKind {
        pools::PoolKind::ALL[self.below(8) as usize]
    }

    fn pools(&mut self) -> Pools {
        Pools {
            live: self.figure(),
            created: self.figure(),
            destroyed: self.figure(),
            reset: self.figure(),
            bytes: self.figure(),
            unused: self.figure(),
            large_bytes: self.figure(),
            large_count: self.figure(),
            by_creator: self.many(|r| Creator {
                creator: r.maybe(Self::text),
                object: r.text(),
                kind: r.kind(),
                live: r.figure(),
                created: r.figure(),
                destroyed: r.figure(),
                reset: r.figure(),
                bytes: r.figure(),
                unused: r.figure(),
                large_bytes: r.figure(),
                large_count: r.figure(),
                peak_bytes: r.figure(),
                sizes: PoolSizes((0..r.below(4)).map(|class| (1 << class, r.figure())).collect()),
            }),
            cycles: self.many(Self::live_pool),
            oldest: self.many(Self::live_pool),
            largest: self.many(Self::live_pool),
            idle: shares::sum(self),
            by_server: self.maybe(shares::shares),
            by_upstream: self.maybe(shares::shares),
            by_listener: self.maybe(shares::shares),
        }
    }

    pub(super) fn live_pool(&mut self) -> LivePool {
        LivePool {
            creator: self.maybe(Self::text),
            kind: self.kind(),
            age_s: self.figure(),
            bytes: self.figure(),
            large_bytes: self.figure(),
            generation: self.maybe_figure(),
            server_name: self.maybe(Self::text),
            request: self.maybe(Self::text),
        }
    }

    fn lua(&mut self) -> LuaVms {
        let mappings = |r: &mut Self| LuaMappings { count: r.figure(), bytes: r.figure() };
        LuaVms {
            subsystem: Subsystem::ALL[self.below(3) as usize],
            vms: self.figure(),
            gc_bytes: self.maybe_figure(),
            allocated_bytes: self.figure(),
            peak_bytes: self.figure(),
            allocations: self.figure(),
            resizes: self.figure(),
            frees: self.figure(),
            failures: self.figure(),
            sizes: lua::BlockSizes(std::array::from_fn(|_| self.figure())),
            reserved: self.maybe_figure(),
            resident: self.maybe_figure(),
            segments: self.maybe(mappings),
            direct: self.maybe(mappings),
            overhead_bytes: self.maybe_figure(),
            free_bytes: self.maybe_figure(),
            largest_free: self.maybe_figure(),
            gc: self.maybe(|r| Gc {
                running: r.maybe(|r| r.below(2) == 0),
                pause: r.maybe_figure(),
                stepmul: r.maybe_figure(),
                gc64: r.maybe(|r| r.below(2) == 0),
                limit_bytes: r.maybe_figure(),
            }),
        }
    }
}

//! Reads the live pools of this process: a walk over all of them, in slices.
//!
//! Pools are created and destroyed between slices. Each pool is counted at most once, with the
//! memory that it held when it was read. The counts of creators are those at the end of the walk.
//!
//! Invariants of the unsafe code:
//!
//! 1. A pool that [`hook::pool::with`] passes on is live and has the layout of
//!    [`pool`](crate::abi::pool) until that call returns. A watched pool stays so until the watch
//!    ends.

mod names;
mod top;
mod whose;

use std::ops::ControlFlow;

use crate::abi::pool::{PoolContents, PoolReading};
use crate::budget::{Budget, Progress};
use crate::hook;
use crate::report::model::note::Note;
use crate::report::model::peak::PeakPools;
use crate::report::model::pools::{Creator, LivePool, PoolKind, PoolSizes, Pools};
use crate::tally::pools::{self as tally, Pool};

use names::{CreatorName, CreatorNames};
use top::Top;
use whose::Whose;
pub use whose::{Owner, Traced, Tracer};

/// The number of oldest and of largest pools to report.
const LISTED: usize = 10;

/// The number of blocks and large allocations read between two checks of the budget.
const PIECES: usize = 256;

/// The cost of finding a pool's owner, as a number of pieces.
const TRACE: usize = 16;

/// The number of connections examined between two checks of the budget.
const CONNECTIONS: usize = 512;

/// What a walk has read.
#[derive(Debug)]
pub struct PoolsRead {
    /// The figures.
    pub pools: Pools,
    /// The largest pool of a request.
    pub request: Option<LivePool>,
    /// Notes about the figures.
    pub notes: Vec<Note>,
}

impl PoolsRead {
    /// What is remembered of it, if this is the worst moment.
    pub fn moment(&self) -> PeakPools {
        PeakPools::of(&self.pools, self.request.clone())
    }
}

/// The state kept from one walk to the next, and the walk in progress.
#[derive(Debug, Default)]
pub struct PoolsProbe {
    names: CreatorNames,
    walk: Option<PoolWalk>,
}

#[derive(Debug)]
struct PoolWalk {
    /// The place at which the walk continues.
    place: usize,
    /// The pool being read, and its partial reading.
    reading: Option<(Pool, PoolReading)>,
    /// The memory held by the pools of each creator.
    held: Vec<PoolContents>,
    tracer: Box<dyn Tracer>,
    is_prepared: bool,
    /// The purpose of the pools of each creator.
    kinds: Vec<PoolKind>,
    whose: Whose,
    cycles: Top,
    oldest: Top,
    largest: Top,
    largest_request: Top,
    now: u32,
}

impl PoolsProbe {
    /// Starts a walk. `tracer` finds the owners of pools.
    pub fn begin(&mut self, tracer: Box<dyn Tracer>) {
        // An error is ignored here: `finish` returns the reason.
        let _ = hook::pool::with(tally::PoolTally::settle);
        self.walk = Some(PoolWalk {
            place: 0,
            reading: None,
            held: Vec::new(),
            tracer,
            is_prepared: false,
            kinds: Vec::new(),
            whose: Whose::default(),
            cycles: Top::new(LISTED),
            oldest: Top::new(LISTED),
            largest: Top::new(LISTED),
            largest_request: Top::new(1),
            now: hook::pool::now(),
        });
    }

    /// Continues until the budget is spent or all pools are read.
    pub fn step(&mut self, budget: &Budget) -> Progress {
        let Some(walk) = &mut self.walk else { return Progress::Done };
        let names = &mut self.names;
        while !walk.is_prepared {
            walk.is_prepared = walk.tracer.prepare(CONNECTIONS);
            if budget.spent() {
                return Progress::More;
            }
        }
        loop {
            match hook::pool::with(|pools| walk.some(pools, names)) {
                Ok(ControlFlow::Continue(())) if !budget.spent() => continue,
                Ok(ControlFlow::Continue(())) => return Progress::More,
                Ok(ControlFlow::Break(())) | Err(_) => return Progress::Done,
            }
        }
    }

    /// Returns what the walk has read, or the reason why there are none. `requests`
    /// selects whether request lines are included.
    pub fn finish(&mut self, requests: bool) -> Result<PoolsRead, &'static str> {
        let walk = self.walk.take().ok_or("the pools were not read")?;
        let names = &mut self.names;
        hook::pool::with(|pools| walk.finish(pools, names, requests))
    }
}

impl PoolWalk {
    /// Reads up to [`PIECES`] blocks and large allocations.
    fn some(&mut self, pools: &mut tally::PoolTally, names: &mut CreatorNames) -> ControlFlow<()> {
        let mut left = PIECES;
        while left > 0 {
            if let Some((pool, mut reading)) = self.reading.take() {
                if pools.live().watched() == Some(pool.address) {
                    // SAFETY: the pool is still watched, so it has been neither destroyed nor reset
                    // (1).
                    if unsafe { reading.step(left) } {
                        if self.kinds.len() <= pool.creator {
                            let named = names.of(pools.creators());
                            self.kinds = named.iter().map(|name| name.kind).collect();
                        }
                        self.count(pool, reading.held, pools.generation(pool).is_some());
                        left = left.saturating_sub(TRACE);
                    } else {
                        self.reading = Some((pool, reading));
                        return ControlFlow::Continue(());
                    }
                }
                left = left.saturating_sub(1);
            }
            let Some((pool, next)) = pools.live().next(self.place) else {
                return ControlFlow::Break(());
            };
            self.place = next;
            pools.live().watch(pool.address);
            // SAFETY: the table of live pools contains the pool during this call (1).
            self.reading = Some((pool, unsafe { PoolReading::of(pool.address) }));
        }
        ControlFlow::Continue(())
    }

    fn count(&mut self, pool: Pool, held: PoolContents, of_a_cycle: bool) {
        if self.held.len() <= pool.creator {
            self.held.resize(pool.creator.saturating_add(1), PoolContents::default());
        }
        if let Some(sum) = self.held.get_mut(pool.creator) {
            sum.add(&held);
        }
        let kind = self.kinds.get(pool.creator).copied().unwrap_or(PoolKind::Other);
        let is_idle = self.whose.count(pool.address, kind, &held, &*self.tracer);
        let age = self.now.wrapping_sub(pool.created).into();
        if of_a_cycle {
            self.cycles.offer(age, pool, held);
        } else if !is_idle {
            self.oldest.offer(age, pool, held);
        }
        if kind == PoolKind::Request {
            self.largest_request.offer(held.size(), pool, held);
        }
        self.largest.offer(held.size(), pool, held);
    }

    fn finish(
        mut self,
        pools: &mut tally::PoolTally,
        names: &mut CreatorNames,
        requests: bool,
    ) -> PoolsRead {
        pools.settle();
        for top in [&self.cycles, &self.oldest, &self.largest] {
            for (pool, held) in top.iter() {
                pools.see(pool.creator, held.size());
            }
        }
        self.held.resize(pools.creators().len(), PoolContents::default());
        let named = names.of(pools.creators());
        let mut report = Pools::default();
        for ((creator, held), name) in pools.creators().iter().zip(&self.held).zip(&named) {
            add(&mut report, creator, held, name);
        }
        report
            .by_creator
            .sort_by_key(|c| std::cmp::Reverse((c.bytes.saturating_add(c.large_bytes), c.created)));
        let mut list = |top: &Top| -> Vec<LivePool> {
            let live =
                top.iter().filter(|(pool, _)| pools.live().find(pool.address) == Some(**pool));
            let live: Vec<_> = live.collect();
            live.into_iter()
                .map(|(pool, held)| {
                    let name = named.get(pool.creator);
                    let kind = name.map_or(PoolKind::Other, |name| name.kind);
                    let Owner { server_name, request } =
                        self.tracer.owner(pool.address, kind, requests);
                    LivePool {
                        creator: name.and_then(|name| name.creator.clone()),
                        kind,
                        age_s: tally::seconds_since(pool.created, self.now),
                        bytes: held.bytes,
                        large_bytes: held.large_bytes,
                        generation: pools.generation(*pool),
                        server_name,
                        request,
                    }
                })
                .collect()
        };
        report.cycles = list(&self.cycles);
        report.oldest = list(&self.oldest);
        report.largest = list(&self.largest);
        let request = list(&self.largest_request).pop();
        report.idle = self.whose.idle;
        let [by_server, by_upstream, by_listener] = self.whose.finish().map(Some);
        report = Pools { by_server, by_upstream, by_listener, ..report };
        let unrecorded = (pools.unrecorded() > 0).then(|| {
            let unrecorded = pools.unrecorded();
            Note::of(&["pools"], format!("{unrecorded} could not be recorded and are not counted"))
        });
        let peaks = hook::pool::peaks_refused().map(|refusal| {
            let reason = format!(
                "measured when a pool is destroyed or reset and in replies, but not before a pool \
                 frees a large allocation: {refusal}"
            );
            Note::of(&["pools.by_creator.peak_bytes"], reason)
        });
        let notes = unrecorded.into_iter().chain(peaks).collect();
        PoolsRead { pools: report, request, notes }
    }
}

/// Adds the counts and the memory of a creator; creators with the same name are merged.
fn add(report: &mut Pools, tally: &tally::CreatorTally, held: &PoolContents, name: &CreatorName) {
    if tally.created() == 0 {
        return;
    }
    let same =
        |c: &Creator| (&c.creator, &c.object, c.kind) == (&name.creator, &name.object, name.kind);
    let index = report.by_creator.iter().position(same).unwrap_or_else(|| {
        report.by_creator.push(Creator {
            creator: name.creator.clone(),
            object: name.object.clone(),
            kind: name.kind,
            live: 0,
            created: 0,
            destroyed: 0,
            reset: 0,
            bytes: 0,
            unused: 0,
            large_bytes: 0,
            large_count: 0,
            peak_bytes: 0,
            sizes: PoolSizes::default(),
        });
        report.by_creator.len() - 1
    });
    let Some(creator) = report.by_creator.get_mut(index) else { return };
    let sum = |to: &mut u64, bytes: u64| *to = to.saturating_add(bytes);
    for (to, count) in [
        (&mut creator.live, tally.live),
        (&mut creator.created, tally.created()),
        (&mut creator.destroyed, tally.destroyed),
        (&mut creator.reset, tally.reset),
        (&mut creator.bytes, held.bytes),
        (&mut creator.unused, held.unused),
        (&mut creator.large_bytes, held.large_bytes),
        (&mut creator.large_count, held.large_count),
        (&mut report.live, tally.live),
        (&mut report.created, tally.created()),
        (&mut report.destroyed, tally.destroyed),
        (&mut report.reset, tally.reset),
        (&mut report.bytes, held.bytes),
        (&mut report.unused, held.unused),
        (&mut report.large_bytes, held.large_bytes),
        (&mut report.large_count, held.large_count),
    ] {
        sum(to, count);
    }
    creator.peak_bytes = creator.peak_bytes.max(tally.peak);
    for (class, count) in tally.sizes.iter().enumerate().filter(|(_, count)| **count > 0) {
        let bound = 1u64 << class;
        match creator.sizes.0.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, to)) => sum(to, *count),
            None => creator.sizes.0.push((bound, *count)),
        }
    }
    creator.sizes.0.sort_unstable();
}

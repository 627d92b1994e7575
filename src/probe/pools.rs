//! The live pools of this process: a walk over all of them, in slices.
//!
//! Pools come and go between slices. Each is counted at most once, with what it held when it was
//! read; the counts of creators are those at the end of the walk.
//!
//! What the unsafe code below relies on:
//!
//! 1. A pool that [`hook::pool::with`] tells is live and of the layout of [`pool`](crate::abi::pool)
//!    until that returns, and so is one that is watched until it is not any more.

mod names;
mod top;
mod whose;

use std::ops::ControlFlow;

use crate::abi::pool::{Held, Reading};
use crate::budget::{Budget, Progress};
use crate::hook;
use crate::report::model::pools::{Creator, Kind, LivePool, Pools, Sizes};
use crate::tally::pools::{self as tally, Pool};

use names::{Name, Names};
use top::Top;
use whose::Whose;
pub use whose::{Owner, Traced, Tracer};

/// How many of the oldest and of the largest pools are told.
const TOLD: usize = 10;

/// Blocks and large allocations that are read between two looks at the clock.
const PIECES: usize = 256;

/// What it takes to find out whose a pool is, in pieces.
const TRACE: usize = 16;

/// Connections that are looked at between two looks at the clock.
const CONNECTIONS: usize = 512;

/// What outlasts a walk.
#[derive(Debug, Default)]
pub struct PoolsProbe {
    names: Names,
    walk: Option<Walk>,
}

#[derive(Debug)]
struct Walk {
    /// Where the walk goes on.
    place: usize,
    /// The pool that is read in pieces.
    reading: Option<(Pool, Reading)>,
    /// What the pools of each creator hold.
    held: Vec<Held>,
    tracer: Box<dyn Tracer>,
    is_prepared: bool,
    /// What the pools of each creator are for.
    kinds: Vec<Kind>,
    whose: Whose,
    cycles: Top,
    oldest: Top,
    largest: Top,
    now: u32,
}

impl PoolsProbe {
    /// Begins a walk, on which `tracer` says whose pools are.
    pub fn begin(&mut self, tracer: Box<dyn Tracer>) {
        // Why not, if not, is told in the end.
        let _ = hook::pool::with(tally::Pools::settle);
        self.walk = Some(Walk {
            place: 0,
            reading: None,
            held: Vec::new(),
            tracer,
            is_prepared: false,
            kinds: Vec::new(),
            whose: Whose::default(),
            cycles: Top::new(TOLD),
            oldest: Top::new(TOLD),
            largest: Top::new(TOLD),
            now: hook::pool::now(),
        });
    }

    /// Goes on until the budget is spent or all pools are read.
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

    /// The figures, and notes about them; why there are none. `requests`: whether request lines are
    /// wanted.
    pub fn finish(&mut self, requests: bool) -> Result<(Pools, Vec<String>), &'static str> {
        let walk = self.walk.take().ok_or("they were not read")?;
        let names = &mut self.names;
        hook::pool::with(|pools| walk.finish(pools, names, requests))
    }
}

impl Walk {
    /// Reads some pools.
    fn some(&mut self, pools: &mut tally::Pools, names: &mut Names) -> ControlFlow<()> {
        let mut left = PIECES;
        while left > 0 {
            if let Some((pool, mut reading)) = self.reading.take() {
                if pools.live().watched() == Some(pool.address) {
                    // SAFETY: 1.
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
            // SAFETY: 1.
            self.reading = Some((pool, unsafe { Reading::of(pool.address) }));
        }
        ControlFlow::Continue(())
    }

    fn count(&mut self, pool: Pool, held: Held, of_a_cycle: bool) {
        if self.held.len() <= pool.creator {
            self.held.resize(pool.creator.saturating_add(1), Held::default());
        }
        if let Some(sum) = self.held.get_mut(pool.creator) {
            sum.add(&held);
        }
        let kind = self.kinds.get(pool.creator).copied().unwrap_or(Kind::Other);
        let is_idle = self.whose.count(pool.address, kind, &held, &*self.tracer);
        let age = self.now.wrapping_sub(pool.created).into();
        if of_a_cycle {
            self.cycles.offer(age, pool, held);
        } else if !is_idle {
            self.oldest.offer(age, pool, held);
        }
        self.largest.offer(held.size(), pool, held);
    }

    fn finish(
        mut self,
        pools: &mut tally::Pools,
        names: &mut Names,
        requests: bool,
    ) -> (Pools, Vec<String>) {
        pools.settle();
        for top in [&self.cycles, &self.oldest, &self.largest] {
            for (pool, held) in top.iter() {
                pools.see(pool.creator, held.size());
            }
        }
        self.held.resize(pools.creators().len(), Held::default());
        let named = names.of(pools.creators());
        let mut report = Pools::default();
        for ((creator, held), name) in pools.creators().iter().zip(&self.held).zip(&named) {
            add(&mut report, creator, held, name);
        }
        report
            .by_creator
            .sort_by_key(|c| std::cmp::Reverse((c.bytes.saturating_add(c.large_bytes), c.created)));
        let mut told = |top: &Top| -> Vec<LivePool> {
            let live =
                top.iter().filter(|(pool, _)| pools.live().find(pool.address) == Some(**pool));
            let live: Vec<_> = live.collect();
            live.into_iter()
                .map(|(pool, held)| {
                    let name = named.get(pool.creator);
                    let kind = name.map_or(Kind::Other, |name| name.kind);
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
        report.cycles = told(&self.cycles);
        report.oldest = told(&self.oldest);
        report.largest = told(&self.largest);
        report.idle = self.whose.idle;
        let [by_server, by_upstream, by_listener] = self.whose.finish().map(Some);
        report = Pools { by_server, by_upstream, by_listener, ..report };
        let unrecorded = (pools.unrecorded() > 0).then(|| {
            format!("pools: {} could not be recorded and are not counted", pools.unrecorded())
        });
        let peaks = hook::pool::peaks_refused().map(|refusal| {
            format!(
                "pools.by_creator.peak_bytes: the largest pool seen at its end, at a reset or in a \
                 reply, not before it gave something back: {refusal}"
            )
        });
        let notes = unrecorded.into_iter().chain(peaks).collect();
        (report, notes)
    }
}

/// Adds what a creator did and holds; creators with the same name are one.
fn add(report: &mut Pools, tally: &tally::Creator, held: &Held, name: &Name) {
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
            sizes: Sizes::default(),
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

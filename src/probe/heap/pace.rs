//! Decides when to query an allocator's statistics, based on the cost of earlier queries.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use rustix::time::{clock_gettime, ClockId};

use crate::report::model::Note;

/// The time that one query may take on the event loop.
const MOST: Duration = Duration::from_millis(1);
/// After this many expensive queries in a row, the allocator is queried less often. A single one
/// may be an accident.
const EXPENSIVE: u32 = 2;
/// The pause after an expensive query, as a multiple of its duration.
const PAUSE: u32 = 1000;
/// An allocator whose query takes longer stalls the event loop and is not queried again.
const STALL: Duration = Duration::from_millis(20);
/// Figures older than this are reported as old.
const OLD: Duration = Duration::from_secs(5);

/// The last answer, and the cost of queries.
#[derive(Debug, Clone)]
pub struct Pace<T> {
    last: Option<(T, Instant, u32)>,
    expensive: u32,
    /// The duration of the last query.
    took: Duration,
    pause: u32,
    old: Duration,
}

impl<T> Default for Pace<T> {
    fn default() -> Self {
        Pace { last: None, expensive: 0, took: Duration::ZERO, pause: PAUSE, old: OLD }
    }
}

impl<T: Clone> Pace<T> {
    /// Queries the allocator if that is affordable or `forced`. Returns the last answer of this
    /// process and its age in milliseconds.
    pub fn ask(&mut self, forced: bool, ask: impl FnOnce() -> Option<T>) -> Option<(T, u64)> {
        if forced || self.is_affordable() {
            let start = cpu_time();
            let answer = ask();
            self.took = cpu_time().saturating_sub(start);
            self.expensive = if self.took > MOST { self.expensive.saturating_add(1) } else { 0 };
            self.last = answer.map(|answer| (answer, Instant::now(), std::process::id()));
        }
        let (answer, at, pid) = self.last.as_ref()?;
        let mine = *pid == std::process::id();
        mine.then(|| (answer.clone(), at.elapsed().as_millis() as u64))
    }

    fn is_affordable(&self) -> bool {
        let rested = |(_, at, _): &(T, Instant, u32)| at.elapsed() >= self.took * self.pause;
        self.expensive < EXPENSIVE || self.took <= STALL && self.last.as_ref().is_none_or(rested)
    }

    /// Returns a note if the last answer is old because a new query costs too much.
    pub fn note(&self, name: &str) -> Option<Note> {
        let age = self.last.as_ref()?.1.elapsed();
        (self.expensive >= EXPENSIVE && age >= self.old).then(|| {
            Note::new(format!(
                "{name}: the figures are {} s old: a query of its statistics takes {:.1} ms",
                age.as_secs(),
                self.took.as_secs_f64() * 1e3
            ))
        })
    }
}

/// Returns the time that this thread has spent on a processor. Differences are the cost of an
/// operation, even on a machine that is busy with other work.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(answer: u32) -> impl FnOnce() -> Option<u32> {
        move || {
            let begun = cpu_time();
            while cpu_time().saturating_sub(begun) < Duration::from_millis(2) {}
            Some(answer)
        }
    }

    #[test]
    fn asks_less_often_after_two_expensive_queries() {
        let mut pace = Pace { pause: u32::MAX, old: Duration::ZERO, ..Pace::default() };
        assert_eq!(pace.ask(false, slow(1)).unwrap().0, 1);
        assert_eq!(pace.note("it"), None);
        assert_eq!(pace.ask(false, slow(2)).unwrap().0, 2);
        assert!(pace.note("it").unwrap().reason.starts_with("it: the figures are 0 s old: "));
        let (answer, age) = pace.ask(false, || Some(3)).unwrap();
        assert_eq!(answer, 2);
        std::thread::sleep(Duration::from_millis(3));
        assert!(pace.ask(false, || Some(3)).unwrap().1 >= age + 3);
        // It is queried again after the pause, and as often as before if that is cheap.
        pace.pause = 1;
        assert_eq!(pace.ask(false, || Some(4)), Some((4, 0)));
        assert_eq!(pace.note("it"), None);
        pace.pause = u32::MAX;
        assert_eq!(pace.ask(false, || Some(5)), Some((5, 0)));
        assert_eq!(pace.ask(false, || None), None);
    }

    #[test]
    fn stops_asking_after_a_stall() {
        let mut pace = Pace { pause: 0, expensive: EXPENSIVE, took: STALL * 2, ..Pace::default() };
        assert_eq!(pace.ask(false, || Some(1)), None);
        assert_eq!(pace.ask(true, || Some(2)), Some((2, 0)));
        assert_eq!(pace.ask(false, || Some(3)), Some((3, 0)));
    }
}

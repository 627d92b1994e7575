//! When to ask an allocator for its statistics, by what asking has cost.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// What asking may cost on the event loop.
const MOST: Duration = Duration::from_millis(1);
/// Dear answers in a row after which the allocator is asked no more: one may have been bad luck.
const DEAR: u32 = 2;

/// The last answer, and whether another one is affordable.
#[derive(Debug, Clone)]
pub struct Pace<T> {
    last: Option<(T, Instant, u32)>,
    dear: u32,
}

impl<T> Default for Pace<T> {
    fn default() -> Self {
        Pace { last: None, dear: 0 }
    }
}

impl<T: Clone> Pace<T> {
    /// Asks if that is affordable or `forced`. Returns the last answer of this process and its age
    /// in milliseconds.
    pub fn ask(&mut self, forced: bool, ask: impl FnOnce() -> Option<T>) -> Option<(T, u64)> {
        if forced || self.dear < DEAR {
            let start = Instant::now();
            let answer = ask();
            self.took(start.elapsed());
            self.last = answer.map(|answer| (answer, Instant::now(), std::process::id()));
        }
        let (answer, at, pid) = self.last.as_ref()?;
        let mine = *pid == std::process::id();
        mine.then(|| (answer.clone(), at.elapsed().as_millis() as u64))
    }

    /// Whether the answers are old ones because new ones cost too much.
    pub fn stale(&self) -> bool {
        self.dear >= DEAR
    }

    fn took(&mut self, time: Duration) {
        self.dear = if time > MOST { self.dear.saturating_add(1) } else { 0 };
    }
}

/// The sentence for [`Pace::stale`].
pub fn note(name: &str) -> String {
    format!("{name}: asking for its statistics takes more than 1 ms, so they are not fresh")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_no_more_when_it_was_dear_twice() {
        let mut pace = Pace::default();
        let slow = |answer| {
            move || {
                std::thread::sleep(Duration::from_millis(2));
                Some(answer)
            }
        };
        assert_eq!(pace.ask(false, slow(1)).unwrap().0, 1);
        assert!(!pace.stale());
        assert_eq!(pace.ask(false, slow(2)).unwrap().0, 2);
        assert!(pace.stale());
        let (answer, age) = pace.ask(false, || Some(3)).unwrap();
        assert_eq!(answer, 2);
        std::thread::sleep(Duration::from_millis(3));
        assert!(pace.ask(false, || Some(3)).unwrap().1 >= age + 3);
        assert_eq!(pace.ask(true, || Some(4)), Some((4, 0)));
        assert!(!pace.stale());
        assert_eq!(pace.ask(false, || None), None);
    }
}

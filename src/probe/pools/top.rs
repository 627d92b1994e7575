//! Keeps the pools with the highest ranks.
#![forbid(unsafe_code)]

use crate::abi::pool::PoolContents;
use crate::tally::pools::Pool;

/// Up to `most` pools with the highest ranks, the highest first.
#[derive(Debug)]
pub struct Top {
    most: usize,
    ranked: Vec<(u64, Pool, PoolContents)>,
}

impl Top {
    /// Makes an empty list.
    pub fn new(most: usize) -> Self {
        Top { most, ranked: Vec::new() }
    }

    /// Inserts a pool if its rank is high enough. Among equal ranks the earliest one stays.
    pub fn offer(&mut self, rank: u64, pool: Pool, held: PoolContents) {
        if self.ranked.len() >= self.most {
            if self.ranked.last().is_none_or(|(lowest, ..)| rank <= *lowest) {
                return;
            }
            self.ranked.pop();
        }
        let place = self.ranked.partition_point(|(other, ..)| *other >= rank);
        self.ranked.insert(place, (rank, pool, held));
    }

    /// Iterates over the pools, the highest rank first.
    pub fn iter(&self) -> impl Iterator<Item = (&Pool, &PoolContents)> {
        self.ranked.iter().map(|(_, pool, held)| (pool, held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::Random;

    #[test]
    fn the_highest_in_order() {
        let mut random = Random::new(9);
        for most in [0, 1, 10] {
            let mut top = Top::new(most);
            let mut all = Vec::new();
            for address in 0..500 {
                let rank = random.below(300);
                top.offer(rank, Pool { address, creator: 0, created: 0 }, PoolContents::default());
                all.push((std::cmp::Reverse(rank), address));
            }
            all.sort_unstable();
            let expected: Vec<_> = all.iter().take(most).map(|(_, address)| *address).collect();
            assert_eq!(top.iter().map(|(pool, _)| pool.address).collect::<Vec<_>>(), expected);
        }
    }
}

//! Walks over the free chunks of one arena, within limits.
//!
//! The result is the sum that `mallinfo2` returns as `fordblks`: the chunks of all bins and fast
//! bins, and the top chunk. (Chunks in the caches of threads count as in use there, and so they do
//! here.)
//!
//! The address of a chunk is only known when its predecessor in the list has been read, so all
//! lists of the arena are walked side by side, each bin from both ends, and each round is one batch
//! of reads.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;

use crate::abi::glibc::{chunk_size, Arena, MallocLayout, ALIGNMENT, BINS, MIN_CHUNK};
use crate::budget::Budget;
use crate::sys::memory::{word, Memory, Record, BATCH, RECORD};

/// The reason why a walk gave no figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The limit of chunks or of time was exceeded.
    TooMany,
    /// Data is inconsistent: another thread changed it meanwhile, or its format is unknown.
    Broken,
    /// Memory cannot be read at all.
    Unreadable,
}

impl Stop {
    /// Converts an error of a read.
    pub fn of(error: io::Error) -> Stop {
        match error.raw_os_error() {
            Some(libc::EFAULT) => Stop::Broken,
            _ => Stop::Unreadable,
        }
    }
}

/// The remaining limits, over all arenas of one walk.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The number of chunks that may still be read.
    pub visits: usize,
    /// The remaining time.
    pub budget: Budget,
}

/// The current place in a list.
#[derive(Debug, Clone, Copy)]
enum Cursor {
    Fast {
        at: usize,
    },
    /// Both ends of a bin move towards each other. Each end has its current and its previous chunk.
    Bin {
        first: usize,
        before: usize,
        last: usize,
        after: usize,
    },
}

/// The buffers of a walk. They are allocated once, because an allocation during a walk would change
/// the data that it reads.
pub struct Walker {
    lists: Vec<Cursor>,
    addresses: Vec<usize>,
    records: Vec<Record>,
}

impl Default for Walker {
    fn default() -> Self {
        Walker {
            lists: Vec::with_capacity(BINS + 16),
            addresses: Vec::with_capacity(2 * (BINS + 16)),
            records: vec![[0; RECORD]; 2 * (BINS + 16)],
        }
    }
}

impl Walker {
    /// Returns the free bytes of an arena whose chunks lie in `regions`.
    pub fn free(
        &mut self,
        memory: &impl Memory,
        arena: &Arena,
        layout: MallocLayout,
        regions: &[Range<usize>],
        limit: &mut Limit,
    ) -> Result<usize, Stop> {
        let mut sum = FreeSum { regions, bytes: 0, most: arena.system_mem() };
        self.start(arena);
        let top = arena.top();
        let mut record = [[0u8; RECORD]];
        sum.check(top)?;
        memory
            .read(top, record.as_flattened_mut().get_mut(..16).unwrap_or_default())
            .map_err(Stop::of)?;
        sum.add(chunk_size(record.as_flattened()))?;
        self.follow(memory, layout, &mut sum, limit)?;
        Ok(sum.bytes)
    }

    /// Returns the free bytes of the arena's fast bins.
    pub fn fast(
        &mut self,
        memory: &impl Memory,
        arena: &Arena,
        layout: MallocLayout,
        regions: &[Range<usize>],
        limit: &mut Limit,
    ) -> Result<usize, Stop> {
        let mut sum = FreeSum { regions, bytes: 0, most: arena.system_mem() };
        self.lists.clear();
        self.lists.extend(arena.fast_bins().map(|at| Cursor::Fast { at }));
        self.follow(memory, layout, &mut sum, limit)?;
        Ok(sum.bytes)
    }

    /// Follows all lists to their ends.
    fn follow(
        &mut self,
        memory: &impl Memory,
        layout: MallocLayout,
        sum: &mut FreeSum,
        limit: &mut Limit,
    ) -> Result<(), Stop> {
        while !self.lists.is_empty() {
            self.read_round(memory, limit)?;
            let mut records = self.records.iter();
            let mut next = || records.next().ok_or(Stop::Broken);
            let mut broken = Ok(());
            self.lists.retain_mut(|cursor| {
                let more = advance(cursor, layout, &mut next, sum);
                more.unwrap_or_else(|stop| {
                    broken = Err(stop);
                    false
                })
            });
            broken?;
        }
        Ok(())
    }

    /// Places a cursor on every list that is not empty.
    fn start(&mut self, arena: &Arena) {
        self.lists.clear();
        self.lists.extend(arena.fast_bins().map(|at| Cursor::Fast { at }));
        self.lists.extend(arena.bins().map(|(header, first, last)| Cursor::Bin {
            first,
            before: header,
            last,
            after: header,
        }));
    }

    /// Reads the chunks under the cursors, in the order of the cursors.
    fn read_round(&mut self, memory: &impl Memory, limit: &mut Limit) -> Result<(), Stop> {
        self.addresses.clear();
        for cursor in &self.lists {
            match *cursor {
                Cursor::Fast { at } => self.addresses.push(at),
                Cursor::Bin { first, last, .. } if first == last => self.addresses.push(first),
                Cursor::Bin { first, last, .. } => self.addresses.extend([first, last]),
            }
        }
        limit.visits = limit.visits.checked_sub(self.addresses.len()).ok_or(Stop::TooMany)?;
        if self.addresses.iter().any(|at| at % ALIGNMENT != 0) {
            return Err(Stop::Broken);
        }
        for (at, into) in self.addresses.chunks(BATCH).zip(self.records.chunks_mut(BATCH)) {
            if limit.budget.spent() {
                return Err(Stop::TooMany);
            }
            if memory.read_each(at, into).map_err(|_| Stop::Unreadable)? != at.len() {
                return Err(Stop::Broken);
            }
        }
        Ok(())
    }
}

/// Counts the chunks under a cursor and moves it on. Returns whether there is more in the list.
fn advance<'a>(
    cursor: &mut Cursor,
    layout: MallocLayout,
    next: &mut impl FnMut() -> Result<&'a Record, Stop>,
    sum: &mut FreeSum,
) -> Result<bool, Stop> {
    match cursor {
        Cursor::Fast { at } => {
            let chunk = next()?;
            sum.check(*at)?;
            sum.add(chunk_size(chunk))?;
            let link = word(chunk, 16);
            *at = if layout.safe_linking { link ^ (at.wrapping_add(16) >> 12) } else { link };
            Ok(*at != 0)
        }
        Cursor::Bin { first, before, last, after } => {
            let chunk = next()?;
            sum.check(*first)?;
            sum.add(chunk_size(chunk))?;
            let (forward, backward) = (word(chunk, 16), word(chunk, 24));
            if backward != *before {
                return Err(Stop::Broken);
            }
            if first == last {
                return if forward == *after { Ok(false) } else { Err(Stop::Broken) };
            }
            let chunk = next()?;
            sum.check(*last)?;
            sum.add(chunk_size(chunk))?;
            if word(chunk, 16) != *after {
                return Err(Stop::Broken);
            }
            let backward = word(chunk, 24);
            if forward == *last || backward == *first {
                return if (forward, backward) == (*last, *first) {
                    Ok(false)
                } else {
                    Err(Stop::Broken)
                };
            }
            (*before, *first) = (*first, forward);
            (*after, *last) = (*last, backward);
            Ok(true)
        }
    }
}

/// The free bytes so far, and the limits for them.
struct FreeSum<'a> {
    regions: &'a [Range<usize>],
    bytes: usize,
    most: usize,
}

impl FreeSum<'_> {
    fn check(&self, at: usize) -> Result<(), Stop> {
        let inside = self.regions.iter().any(|region| region.contains(&at));
        if inside && at % ALIGNMENT == 0 {
            Ok(())
        } else {
            Err(Stop::Broken)
        }
    }

    fn add(&mut self, size: usize) -> Result<(), Stop> {
        self.bytes = self.bytes.checked_add(size).ok_or(Stop::Broken)?;
        if size < MIN_CHUNK || size % ALIGNMENT != 0 || self.bytes > self.most {
            Err(Stop::Broken)
        } else {
            Ok(())
        }
    }
}

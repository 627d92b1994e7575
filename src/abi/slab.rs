//! Decodes an nginx slab pool from its header and page descriptors.
//!
//! No lock is taken. Words are copied ([`crate::sys::memory`]) while other processes may change
//! them, so every copied word is checked before it is used, and data that does not look like a pool
//! is rejected ([`Defect`]). A page has a descriptor of three words (`ngx_slab_page_t`); a size
//! class has a statistic of four words (`ngx_slab_stat_t`).
#![forbid(unsafe_code)]

pub mod runs;

use std::ops::Range;

use crate::sys::memory::word;

/// The size of a page descriptor in bytes.
pub const DESCRIPTOR: usize = 24;

/// The size of a size class's statistic in bytes.
pub const STATISTIC: usize = 32;

/// The maximum number of size classes: 8 bytes up to half a page, for pages of up to 64 KiB.
const CLASSES: usize = 14;

/// The offsets of the fields of `ngx_slab_pool_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SlabLayout {
    /// The size of the structure.
    pub size: usize,
    pub min_size: usize,
    pub min_shift: usize,
    pub pages: usize,
    pub last: usize,
    pub stats: usize,
    pub pfree: usize,
    pub start: usize,
    pub end: usize,
    pub addr: usize,
}

impl SlabLayout {
    /// Returns how many bytes to copy from the start of a pool for [`SlabHeader::read`].
    pub fn header_bytes(&self) -> usize {
        self.size + CLASSES * (DESCRIPTOR + STATISTIC)
    }
}

/// The reason why memory is not a slab pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// The memory is too small for a header.
    #[error("it is too small for a slab pool")]
    Short,
    /// A field of the header has a value that is impossible at this address.
    #[error("its header does not look like a slab pool ({0})")]
    Field(&'static str),
}

/// One size class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// The size of a slot in bytes.
    pub size: u64,
    /// Slots in use.
    pub used: u64,
    /// Free slots in the pages of this class.
    pub free: u64,
    /// Allocation requests so far.
    pub reqs: u64,
    /// Requests that failed.
    pub fails: u64,
}

/// The decoded header of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlabHeader {
    /// The address of the first page's descriptor.
    pub descriptors: usize,
    /// The number of pages.
    pub pages: usize,
    /// The number of free pages.
    pub free: u64,
    /// The size classes, smallest first.
    pub classes: Vec<Class>,
}

impl SlabHeader {
    /// Decodes a header from a copy of the first bytes of a zone that is mapped at `at`.
    pub fn read(
        bytes: &[u8],
        at: &Range<usize>,
        layout: &SlabLayout,
        page_size: usize,
    ) -> Result<SlabHeader, Defect> {
        let field = |offset: usize| word(bytes, offset);
        if bytes.len() < layout.size || at.len() < layout.size.saturating_add(page_size) {
            return Err(Defect::Short);
        }
        let must = |holds: bool, field| if holds { Ok(()) } else { Err(Defect::Field(field)) };
        let shift = field(layout.min_shift);
        let page_shift = page_size.trailing_zeros() as usize;
        must((3..page_shift).contains(&shift), "min_shift")?;
        must(field(layout.min_size) == 1 << shift, "min_size")?;
        must(field(layout.addr) == at.start, "addr")?;
        must(field(layout.end) == at.end, "end")?;
        let count = page_shift - shift;
        let lists = at.start + layout.size;
        let stats = lists + count * DESCRIPTOR;
        must(field(layout.stats) == stats, "stats")?;
        let descriptors = stats + count * STATISTIC;
        must(field(layout.pages) == descriptors, "pages")?;
        let length = field(layout.last).checked_sub(descriptors).unwrap_or(1);
        must(length % DESCRIPTOR == 0, "last")?;
        let pages = length / DESCRIPTOR;
        let start = field(layout.start);
        let room = at.end.checked_sub(start).map(|bytes| bytes / page_size);
        must(start % page_size == 0 && start >= descriptors.saturating_add(length), "start")?;
        must(room.is_some_and(|room| pages <= room), "start")?;
        let free = field(layout.pfree) as u64;
        must(free <= pages as u64, "pfree")?;

        let stats = layout.size + count * DESCRIPTOR;
        must(bytes.len() >= stats + count * STATISTIC, "stats")?;
        let class = |index: usize| {
            let at = stats + index * STATISTIC;
            class(1u64 << (shift + index), |i| word(bytes, at + 8 * i) as u64, pages, page_size)
        };
        let classes: Option<Vec<_>> = (0..count).map(class).collect();
        let classes = classes.ok_or(Defect::Field("stats"))?;
        Ok(SlabHeader { descriptors, pages, free, classes })
    }

    /// Returns the bytes of the free slots in pages that belong to a size class.
    pub fn free_in_slots(&self) -> u64 {
        self.classes.iter().fold(0, |sum, class| {
            let bytes = class.free.saturating_mul(class.size);
            sum.saturating_add(bytes)
        })
    }

    /// Returns the largest size class that has a free slot, in bytes, or 0 if there is none.
    pub fn largest_slot(&self) -> u64 {
        self.classes
            .iter()
            .filter(|class| class.free > 0)
            .map(|class| class.size)
            .max()
            .unwrap_or(0)
    }
}

/// Decodes a size class from its statistic: `total`, `used`, `reqs`, `fails`.
///
/// When the last slot of a page is freed, `total` decreases before `used` does. A copy made in
/// between is accepted: `used` may exceed the capacity by one, and is then limited to `total`.
fn class(size: u64, stat: impl Fn(usize) -> u64, pages: usize, page_size: usize) -> Option<Class> {
    let (total, used, reqs, fails) = (stat(0), stat(1), stat(2), stat(3));
    let most = (pages as u64).saturating_mul(page_size as u64 / size);
    let is_sound = total <= most && used <= most.saturating_add(1) && fails <= reqs;
    let used = used.min(total);
    is_sound.then_some(Class { size, used, free: total - used, reqs, fails })
}

#[cfg(test)]
pub(crate) mod tests;

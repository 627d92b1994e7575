//! Finds malloc's blocks with a mapping of their own.
//!
//! malloc keeps no list of them, only their number and bytes. Each begins with its header at the
//! start of a page: 0, then the size in whole pages with the flag "mapped". (A block with a larger
//! alignment keeps that first header in front of its own.) So the headers are searched at the pages
//! in RAM of private anonymous memory, and the blocks found must add up to the counters. The blocks
//! found are remembered, and are checked first the next time.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;

use crate::abi::glibc::{mapped_size, Mmapped};
use crate::budget::{Budget, Progress};
use crate::sys::memory::{Memory, BATCH, RECORD};
use crate::sys::pagemap::{page_size, PageEntry, PageMap, PAGES_A_PIECE};

/// Reports which pages are in RAM. It is a trait for the sake of the tests.
pub trait PageSource {
    /// See [`PageMap::piece`].
    fn piece(
        &self,
        range: &Range<usize>,
        each: &mut dyn FnMut(usize, PageState),
    ) -> io::Result<usize>;
}

/// The state of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageState {
    /// A private anonymous page in RAM.
    Present,
    /// Swapped out.
    Swapped,
    /// Anything else.
    Other,
}

impl PageState {
    fn of(page: PageEntry) -> PageState {
        match page.present() {
            true if !page.file_or_shared() => PageState::Present,
            false if page.swapped() => PageState::Swapped,
            _ => PageState::Other,
        }
    }
}

impl PageSource for PageMap {
    fn piece(
        &self,
        range: &Range<usize>,
        each: &mut dyn FnMut(usize, PageState),
    ) -> io::Result<usize> {
        PageMap::piece(self, range, |at, page| each(at, PageState::of(page)))
    }
}

/// Blocks to examine in a row before the budget is checked.
const AT_ONCE: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SearchStage {
    /// Block `.0` of those found earlier is checked next.
    Known(usize),
    /// The start of segment `.0` is examined next, and the blocks directly behind it.
    Starts(usize),
    /// The pages from address `.1` in segment `.0` on are examined next.
    Pages(usize, usize),
    Done,
}

/// A search for the blocks.
#[derive(Debug)]
pub struct Finder {
    /// The blocks found so far, in ascending order.
    known: Vec<Range<usize>>,
    /// The memory to search: disjoint, in ascending order.
    segments: Vec<Range<usize>>,
    stage: SearchStage,
    /// The wanted and the found blocks of the last search through all pages that did not succeed.
    missed: Option<(Mmapped, Mmapped)>,
    /// The pages in RAM of the current piece.
    present: Vec<usize>,
    /// Whether some memory or page state could not be read.
    failed: bool,
}

impl Default for Finder {
    fn default() -> Self {
        Finder {
            known: Vec::new(),
            segments: Vec::new(),
            stage: SearchStage::Done,
            missed: None,
            present: Vec::with_capacity(PAGES_A_PIECE),
            failed: false,
        }
    }
}

impl Finder {
    /// Starts a search in these segments.
    pub fn begin(&mut self, segments: Vec<Range<usize>>) {
        self.segments = segments;
        self.stage = SearchStage::Known(0);
        self.failed = false;
        let segments = &self.segments;
        self.known.retain(|block| inside(segments, block));
    }

    /// Returns the number and bytes of the blocks found so far.
    pub fn found(&self) -> Mmapped {
        let bytes = self.known.iter().map(|block| block.end.saturating_sub(block.start)).sum();
        Mmapped { count: self.known.len(), bytes }
    }

    /// Returns the blocks found so far, in ascending order.
    pub fn blocks(&self) -> &[Range<usize>] {
        &self.known
    }

    /// Returns whether some memory or page state could not be read.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Discards the blocks found so far.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Continues the search. `expected` reads malloc's counters.
    pub fn step(
        &mut self,
        memory: &impl Memory,
        pages: &dyn PageSource,
        expected: &dyn Fn() -> Option<Mmapped>,
        budget: &Budget,
    ) -> Progress {
        let Some(wanted) = expected() else {
            self.stage = SearchStage::Done;
            return Progress::Done;
        };
        while self.stage != SearchStage::Done {
            let next = match self.stage {
                SearchStage::Known(at) => self.look_again(at, memory, pages, wanted),
                SearchStage::Starts(segment) => self.look_at_start(segment, memory, pages),
                SearchStage::Pages(segment, at) => {
                    self.look_at_pages(segment, at, memory, pages, budget)
                }
                SearchStage::Done => Ok(SearchStage::Done),
            };
            let before = self.stage;
            self.stage = next.unwrap_or_else(|_| {
                self.failed = true;
                SearchStage::Done
            });
            let searching = !matches!(self.stage, SearchStage::Known(_));
            if searching && self.found() == wanted {
                self.missed = None;
                self.stage = SearchStage::Done;
            } else if matches!(before, SearchStage::Starts(_))
                && matches!(self.stage, SearchStage::Pages(..))
            {
                // A search through all pages that failed is not repeated for the same wanted and
                // found blocks.
                if self.missed == Some((wanted, self.found())) {
                    self.stage = SearchStage::Done;
                }
            } else if matches!(before, SearchStage::Pages(..)) && self.stage == SearchStage::Done {
                self.missed = Some((wanted, self.found()));
            }
            if budget.spent() {
                break;
            }
        }
        match self.stage {
            SearchStage::Done => Progress::Done,
            _ => Progress::More,
        }
    }

    /// Drops blocks found earlier that no longer exist.
    fn look_again(
        &mut self,
        at: usize,
        memory: &impl Memory,
        pages: &dyn PageSource,
        wanted: Mmapped,
    ) -> io::Result<SearchStage> {
        let end = at.saturating_add(BATCH / 2).min(self.known.len());
        let mut kept = at;
        for i in at..end {
            let Some(block) = self.known.get(i).cloned() else {
                break;
            };
            // A header that is swapped out is not read back in; the sums show whether the block is
            // gone.
            let good = match state_of(pages, block.start)? {
                PageState::Present => header(memory, block.start)? == Some(block.end - block.start),
                PageState::Swapped => true,
                PageState::Other => false,
            };
            if good {
                self.known.swap(kept, i);
                kept += 1;
            }
        }
        self.known.drain(kept..end);
        if kept < self.known.len() {
            return Ok(SearchStage::Known(kept));
        }
        let found = self.found();
        if found.count > wanted.count || found.bytes > wanted.bytes {
            self.known.clear();
        }
        Ok(SearchStage::Starts(0))
    }

    fn look_at_start(
        &mut self,
        segment: usize,
        memory: &impl Memory,
        pages: &dyn PageSource,
    ) -> io::Result<SearchStage> {
        let Some(range) = self.segments.get(segment).cloned() else {
            let start = self.segments.first().map_or(0, |range| range.start);
            return Ok(SearchStage::Pages(0, start));
        };
        let mut at = range.start;
        for _ in 0..AT_ONCE {
            at = self.past_known(at);
            if at >= range.end || state_of(pages, at)? != PageState::Present {
                break;
            }
            match header(memory, at)? {
                Some(size) if self.insert(at, size, &range) => at += size,
                _ => break,
            }
        }
        Ok(SearchStage::Starts(segment + 1))
    }

    fn look_at_pages(
        &mut self,
        segment: usize,
        at: usize,
        memory: &impl Memory,
        pages: &dyn PageSource,
        budget: &Budget,
    ) -> io::Result<SearchStage> {
        let Some(range) = self.segments.get(segment).cloned() else {
            return Ok(SearchStage::Done);
        };
        let at = self.past_known(at);
        if at >= range.end {
            let next = self.segments.get(segment + 1).map_or(0, |range| range.start);
            return Ok(SearchStage::Pages(segment + 1, next));
        }
        let known = self.known.partition_point(|block| block.start <= at);
        let end = self.known.get(known).map_or(range.end, |block| block.start.min(range.end));
        let mut present = std::mem::take(&mut self.present);
        present.clear();
        let next = pages.piece(&(at..end), &mut |page, state| {
            if state == PageState::Present {
                present.push(page);
            }
        });
        let next = next.map(|next| self.look_at(&present, next.min(end), &range, memory, budget));
        self.present = present;
        Ok(SearchStage::Pages(segment, next??))
    }

    /// Examines these pages for headers. Returns where to continue; `end` if all were examined.
    fn look_at(
        &mut self,
        present: &[usize],
        end: usize,
        range: &Range<usize>,
        memory: &impl Memory,
        budget: &Budget,
    ) -> io::Result<usize> {
        let mut records = [[0u8; RECORD]; BATCH];
        let mut rest = present;
        while !rest.is_empty() {
            let read = memory.read_each(rest, &mut records)?;
            for (page, record) in rest.iter().zip(&records).take(read) {
                let size = mapped_size(record, page_size());
                if let Some(size) = size.filter(|size| self.insert(*page, *size, range)) {
                    return Ok(page + size);
                }
            }
            // A page that cannot be read has been unmapped since.
            let gone = usize::from(read < rest.len().min(BATCH));
            rest = rest.get(read + gone..).unwrap_or_default();
            if let Some(next) = rest.first().filter(|_| budget.spent()) {
                return Ok(*next);
            }
        }
        Ok(end)
    }

    /// Returns the address itself, or the end of the known blocks that contain it.
    fn past_known(&self, mut at: usize) -> usize {
        let first = self.known.partition_point(|block| block.end <= at);
        for block in self.known.get(first..).unwrap_or_default() {
            if !block.contains(&at) {
                break;
            }
            at = block.end;
        }
        at
    }

    /// Adds a block if it fits into its segment and between the known blocks. Returns whether it
    /// does.
    fn insert(&mut self, at: usize, size: usize, segment: &Range<usize>) -> bool {
        let Some(end) = at.checked_add(size).filter(|end| *end <= segment.end) else {
            return false;
        };
        let place = self.known.partition_point(|block| block.start < at);
        let fits = at >= segment.start
            && self.known.get(place).is_none_or(|next| next.start >= end)
            && place.checked_sub(1).and_then(|i| self.known.get(i)).is_none_or(|b| b.end <= at);
        if fits {
            self.known.insert(place, at..end);
        }
        fits
    }

    /// Drops a surplus block if there is exactly one, and only one block has the surplus size.
    /// Returns whether a block was dropped.
    pub fn drop_excess(&mut self, wanted: Mmapped) -> bool {
        let found = self.found();
        let excess = found.bytes.checked_sub(wanted.bytes);
        let Some(excess) = excess.filter(|_| found.count == wanted.count + 1) else {
            return false;
        };
        let mut such = self.known.iter().enumerate().filter(|(_, b)| b.end - b.start == excess);
        let (Some((i, _)), None) = (such.next(), such.next()) else {
            return false;
        };
        self.known.remove(i);
        true
    }
}

fn state_of(pages: &dyn PageSource, at: usize) -> io::Result<PageState> {
    let mut state = PageState::Other;
    pages.piece(&(at..at.saturating_add(page_size())), &mut |_, found| state = found)?;
    Ok(state)
}

/// Returns the size in the header of a block at a page in RAM.
fn header(memory: &impl Memory, at: usize) -> io::Result<Option<usize>> {
    let mut record = [[0u8; RECORD]];
    let read = memory.read_each(&[at], &mut record)?;
    Ok(record.first().filter(|_| read == 1).and_then(|record| mapped_size(record, page_size())))
}

fn inside(segments: &[Range<usize>], block: &Range<usize>) -> bool {
    let i = segments.partition_point(|segment| segment.end < block.end);
    segments.get(i).is_some_and(|segment| segment.start <= block.start)
}

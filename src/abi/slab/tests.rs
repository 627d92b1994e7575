use super::runs::Runs;
use super::*;
use crate::report::sample::Random;

const PAGE: usize = 4096;
const AT: usize = 0x7f00_0000_0000;

/// Like nginx's structure, except for the fields that are not read.
pub(crate) const LAYOUT: SlabLayout = SlabLayout {
    size: 200,
    min_size: 16,
    min_shift: 24,
    pages: 32,
    last: 40,
    stats: 72,
    pfree: 80,
    start: 88,
    end: 96,
    addr: 192,
};

/// A model of nginx's own allocator, reduced to its pages.
pub(crate) struct Pool {
    /// The address of the pool.
    pub(crate) at: usize,
    size: usize,
    /// For the first page of each run: the length of the run, and whether it is free.
    runs: Vec<Option<(usize, bool)>>,
    /// Pages with slots.
    slabs: Vec<bool>,
    pub(crate) stats: [[u64; 4]; 9],
}

impl Pool {
    pub(crate) fn new(size: usize) -> Self {
        let before = LAYOUT.size + 9 * (DESCRIPTOR + STATISTIC);
        let mut pages = (size - before) / (PAGE + DESCRIPTOR);
        let start = (before + pages * DESCRIPTOR).next_multiple_of(PAGE);
        pages = pages.min((size - start) / PAGE);
        let mut runs = vec![None; pages];
        runs[0] = Some((pages, true));
        Pool { at: AT, size, runs, slabs: vec![false; pages], stats: [[0; 4]; 9] }
    }

    fn range(&self) -> Range<usize> {
        self.at..self.at + self.size
    }

    fn free_runs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let runs = self.runs.iter().enumerate();
        runs.filter_map(|(page, run)| run.filter(|(_, free)| *free).map(|(n, _)| (page, n)))
    }

    pub(crate) fn alloc(&mut self, pages: usize, slab: bool) -> Option<usize> {
        let (page, length) = self.free_runs().find(|(_, length)| *length >= pages)?;
        self.runs[page] = Some((pages, false));
        self.slabs[page] = slab;
        if length > pages {
            self.runs[page + pages] = Some((length - pages, true));
        }
        Some(page)
    }

    fn free(&mut self, page: usize) {
        let (mut length, _) = self.runs[page].unwrap();
        self.slabs[page] = false;
        if let Some(Some((more, true))) = self.runs.get(page + length).copied() {
            self.runs[page + length] = None;
            length += more;
        }
        self.runs[page] = Some((length, true));
        let before = (0..page).rev().find(|p| self.runs[*p].is_some());
        if let Some((p, (n, true))) = before.and_then(|p| Some((p, self.runs[p]?))) {
            self.runs[page] = None;
            self.runs[p] = Some((n + length, true));
        }
    }

    /// Returns the memory in front of the pages.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let start = self.at;
        let lists = LAYOUT.size;
        let stats = lists + 9 * DESCRIPTOR;
        let descriptors = stats + 9 * STATISTIC;
        let last = descriptors + self.runs.len() * DESCRIPTOR;
        let mut bytes = vec![0; last];
        let mut put = |at: usize, value: usize| {
            bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        };
        let free: usize = self.free_runs().map(|(_, length)| length).sum();
        for (offset, value) in [
            (LAYOUT.min_size, 8),
            (LAYOUT.min_shift, 3),
            (LAYOUT.pages, start + descriptors),
            (LAYOUT.last, start + last),
            (LAYOUT.stats, start + stats),
            (LAYOUT.pfree, free),
            (LAYOUT.start, start + last.next_multiple_of(PAGE)),
            (LAYOUT.end, start + self.size),
            (LAYOUT.addr, start),
        ] {
            put(offset, value);
        }
        for (i, stat) in self.stats.iter().enumerate() {
            for (j, value) in stat.iter().enumerate() {
                put(stats + i * STATISTIC + 8 * j, *value as usize);
            }
        }
        let mut page = 0;
        while page < self.runs.len() {
            let (length, free) = self.runs[page].unwrap();
            let at = |page: usize| descriptors + page * DESCRIPTOR;
            if free {
                // The head of the list stands in for the neighbours.
                put(at(page), length);
                put(at(page) + 8, start + 48);
                put(at(page) + 16, start + 48);
                if length > 1 {
                    put(at(page + length - 1) + 16, start + at(page));
                }
            } else if self.slabs[page] {
                put(at(page), 0x5555_5555_0000_0007);
                put(at(page) + 8, start + lists);
                put(at(page) + 16, (start + lists) | (1 + page % 3));
            } else {
                put(at(page), length | (1 << 63));
                for further in page + 1..page + length {
                    put(at(further), usize::MAX);
                }
            }
            page += length;
        }
        bytes
    }

    fn header(&self) -> Result<SlabHeader, Defect> {
        SlabHeader::read(&self.bytes(), &self.range(), &LAYOUT, PAGE)
    }

    /// Returns the runs, and how many bytes of descriptors were read to find them.
    fn scan(&self) -> (Runs, usize) {
        let bytes = self.bytes();
        let header = self.header().unwrap();
        let mut runs = Runs::begin(header.pages);
        let mut read = 0;
        while let Some(range) = runs.wanted(header.descriptors, PAGE) {
            read += range.len();
            runs.look(&bytes[range.start - AT..range.end - AT]);
        }
        (runs, read)
    }

    fn check(&self) {
        let header = self.header().unwrap();
        let (runs, _) = self.scan();
        let expected: Vec<u64> = self.free_runs().map(|(_, length)| length as u64).collect();
        assert_eq!(header.pages, self.runs.len());
        assert_eq!(header.free, expected.iter().sum::<u64>());
        assert_eq!(runs.free, header.free);
        assert_eq!(runs.largest, expected.iter().max().copied().unwrap_or(0));
        assert_eq!(runs.count, expected.len() as u64);
    }
}

#[test]
fn empty_full_and_fragmented() {
    let mut pool = Pool::new(1 << 20);
    pool.check();
    // 254 descriptors and the header take two pages of 256.
    assert_eq!(pool.scan().0.largest, 254);
    let mut blocks = Vec::new();
    while let Some(page) = pool.alloc(1 + blocks.len() % 3, blocks.len() % 3 == 0) {
        blocks.push(page);
        pool.check();
    }
    while let Some(page) = pool.alloc(1, false) {
        blocks.push(page);
    }
    pool.check();
    assert_eq!(pool.scan().0.count, 0);
    // Free pages between those that remain allocated.
    blocks.iter().step_by(2).for_each(|page| pool.free(*page));
    pool.check();
    assert!(pool.scan().0.count > 50);
    blocks.iter().skip(1).step_by(2).for_each(|page| pool.free(*page));
    pool.check();
    assert_eq!(pool.scan().0.count, 1);
}

#[test]
fn any_pool() {
    let mut random = Random::new(8);
    for _ in 0..40 {
        let mut pool = Pool::new((8 + random.below(600) as usize) * PAGE);
        let mut blocks = Vec::new();
        for _ in 0..500 {
            if random.below(5) < 3 {
                let most = 1 << random.below(7);
                let pages = 1 + random.below(most) as usize;
                blocks.extend(pool.alloc(pages, pages == 1));
            } else if !blocks.is_empty() {
                let block = blocks.swap_remove(random.below(blocks.len() as u64) as usize);
                pool.free(block);
            }
        }
        pool.check();
    }
}

#[test]
fn hardly_used_pools_are_hardly_read() {
    let mut pool = Pool::new(1 << 30);
    let first: Vec<_> = (0..3).map(|_| pool.alloc(1, true).unwrap()).collect();
    pool.alloc(10_000, false).unwrap();
    pool.alloc(1, false).unwrap();
    pool.free(first[1]);
    let (runs, read) = pool.scan();
    assert_eq!(runs.count, 2);
    assert!(read <= 3 * PAGE, "{read}");
    // All descriptors of a pool full of slots are read, in few reads.
    let mut pool = Pool::new(64 << 20);
    while pool.alloc(1, true).is_some() {}
    let (runs, read) = pool.scan();
    assert_eq!((runs.free, read), (0, pool.runs.len() * DESCRIPTOR));
}

#[test]
fn classes() {
    let mut pool = Pool::new(1 << 20);
    pool.alloc(1, true);
    pool.stats[0] = [504, 3, 10, 1];
    // A page of 2048-byte slots was just freed: its slots are subtracted from `total`, not yet from
    // `used`.
    pool.stats[8] = [0, 1, 7, 0];
    let header = pool.header().unwrap();
    let class = |i: usize| header.classes[i];
    assert_eq!(class(0), Class { size: 8, used: 3, free: 501, reqs: 10, fails: 1 });
    assert_eq!(class(8), Class { size: 2048, used: 0, free: 0, reqs: 7, fails: 0 });
    assert_eq!(header.classes.len(), 9);
    assert_eq!(header.free_in_slots(), 501 * 8);
    assert_eq!(header.largest_slot(), 8);
    assert_eq!(Pool::new(1 << 20).header().unwrap().largest_slot(), 0);
}

#[test]
fn garbage() {
    let pool = Pool::new(1 << 20);
    let bytes = pool.bytes();
    let read = |bytes: &[u8], at: Range<usize>| SlabHeader::read(bytes, &at, &LAYOUT, PAGE);
    for (offset, field) in [
        (LAYOUT.min_size, "min_size"),
        (LAYOUT.min_shift, "min_shift"),
        (LAYOUT.pages, "pages"),
        (LAYOUT.last, "last"),
        (LAYOUT.stats, "stats"),
        (LAYOUT.pfree, "pfree"),
        (LAYOUT.start, "start"),
        (LAYOUT.end, "end"),
        (LAYOUT.addr, "addr"),
    ] {
        for value in [usize::MAX, 0xdead_beef_dead_beef, 1 << 40] {
            let mut bad = bytes.clone();
            bad[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
            let refused = [Err(Defect::Field(field)), Err(Defect::Field("start"))];
            assert!(refused.contains(&read(&bad, pool.range())), "{field} {value:#x}");
        }
    }
    let stats = LAYOUT.size + 9 * DESCRIPTOR;
    for (at, value) in [(stats, u64::MAX), (stats + 8, 1 << 40), (stats + 24, 1)] {
        let mut bad = bytes.clone();
        bad[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        assert_eq!(read(&bad, pool.range()), Err(Defect::Field("stats")));
    }
    assert_eq!(read(&bytes[..100], pool.range()), Err(Defect::Short));
    assert_eq!(read(&bytes[..stats], pool.range()), Err(Defect::Field("stats")));
    assert_eq!(read(&bytes, AT..AT + 100), Err(Defect::Short));
    assert!(read(&vec![0; 4096], pool.range()).is_err());
    let mut random = Random::new(9);
    for _ in 0..20_000 {
        let noise: Vec<u8> = (0..800).map(|_| random.bits() as u8).collect();
        assert!(read(&noise, pool.range()).is_err());
    }
}

/// Checks that descriptors with arbitrary bits never lead out of the pool, and that at most all
/// pages are found free.
#[test]
fn any_descriptors() {
    let mut random = Random::new(10);
    let words = [0, 1, 7, 300, usize::MAX, 1 << 63, (1 << 63) | 5, AT, AT | 1, usize::MAX >> 1];
    for _ in 0..2_000 {
        let pages = 1 + random.below(400) as usize;
        let mut runs = Runs::begin(pages);
        let mut steps = 0;
        while let Some(range) = runs.wanted(AT, PAGE) {
            assert!(range.start >= AT && range.end <= AT + pages * DESCRIPTOR && !range.is_empty());
            let copy: Vec<u8> = (0..range.len() / 8)
                .flat_map(|_| match random.below(4) {
                    0 => (random.bits() as usize).to_ne_bytes(),
                    _ => words[random.below(10) as usize].to_ne_bytes(),
                })
                .collect();
            runs.look(&copy);
            steps += 1;
            assert!(steps <= pages);
        }
        assert!(runs.free <= pages as u64 && runs.largest <= runs.free && runs.count <= runs.free);
    }
}

//! Parses the files of a control group.
#![forbid(unsafe_code)]

use procfs::{FromRead, MemoryPressure, PressureRecord};

use super::{Pressure, Stall};

/// The smallest value that means "no limit" in version 1: the largest number of bytes that the kernel
/// can count, which it rounds down to a page of at most 64 KiB.
const UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;

/// Parses a file with one number.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim_end().parse().ok()
}

/// Parses a limit: `Some(None)` is no limit, `None` an error.
pub(super) fn limit(text: &str) -> Option<Option<u64>> {
    match text.trim_end() {
        "max" => Some(None),
        digits => digits.parse().ok().map(|bytes| Some(bytes).filter(|bytes| *bytes < UNLIMITED)),
    }
}

/// Returns the number of the line with this name in a file of lines `name number`.
pub(super) fn line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Parses `memory.pressure`.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    // The kernel writes two decimals, which an f32 holds only nearly.
    let percent = |value: f32| (f64::from(value) * 100.0).round() / 100.0;
    let stall = |record: PressureRecord| Stall {
        avg10_percent: percent(record.avg10),
        avg60_percent: percent(record.avg60),
        avg300_percent: percent(record.avg300),
        total_us: record.total,
    };
    let MemoryPressure { some, full } = MemoryPressure::from_read(text.as_bytes()).ok()?;
    Some(Pressure { some: stall(some), full: stall(full) })
}

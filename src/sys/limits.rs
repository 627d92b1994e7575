//! Reads the limits on a process's memory from `/proc/PID/limits`.
#![forbid(unsafe_code)]

use std::io;

use rustix::process::{getrlimit, Resource};

/// The names of the lines to read, each with the name used in reports.
const LIMITS: [(&str, &str); 2] =
    [("Max address space", "address_space"), ("Max data size", "data")];

/// Returns the soft limits that are set, in bytes, by name.
pub fn of(pid: i32) -> io::Result<Vec<(String, u64)>> {
    std::fs::read_to_string(format!("/proc/{pid}/limits")).map(|limits| parse(&limits))
}

/// Returns the soft limits of this process that are set, as [`of`] does, without a file.
pub fn own() -> Vec<(String, u64)> {
    let soft = |limit| getrlimit(limit).current;
    let limits = [soft(Resource::As), soft(Resource::Data)];
    let named = LIMITS.into_iter().zip(limits);
    named.filter_map(|((_, name), soft)| Some((name.to_owned(), soft?))).collect()
}

fn parse(limits: &str) -> Vec<(String, u64)> {
    let of = |(line, name): (&str, &str)| {
        let rest = limits.lines().find_map(|l| l.strip_prefix(line))?;
        let soft = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some((name.to_owned(), soft))
    };
    LIMITS.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limits_that_are_set() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             unlimited            unlimited            bytes     \n\
                      Max address space         2147483648           unlimited            bytes     \n";
        assert_eq!(parse(limits), [("address_space".to_owned(), 2 << 30)]);
        assert!(parse("").is_empty() && of(-1).is_err());
        assert_eq!(of(std::process::id() as i32).unwrap(), own());
    }
}

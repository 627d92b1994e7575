//! The names of processes.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use crate::report::model::{Process, ProcessKind, Server};

/// The name of a kind.
pub(crate) fn kind(kind: ProcessKind) -> &'static str {
    match kind {
        ProcessKind::Master => "master",
        ProcessKind::Single => "single",
        ProcessKind::Worker => "worker",
        ProcessKind::PrivilegedAgent => "privileged agent",
        ProcessKind::CacheManager => "cache manager",
        ProcessKind::CacheLoader => "cache loader",
        ProcessKind::Other => "other",
    }
}

/// The name and version of the server: `nginx 1.22.1`, or `openresty/1.27.1.2 (nginx 1.27.1)` for a
/// fork.
pub(crate) fn product(server: &Server) -> String {
    let nginx = format!("nginx {}", server.nginx);
    match &server.product {
        Some(product) if product.strip_prefix("nginx/") != Some(server.nginx.as_str()) => {
            format!("{product} ({nginx})")
        }
        _ => nginx,
    }
}

/// The name of a process: its kind and the worker's number.
pub(crate) fn label(process: &Process) -> String {
    match (process.kind, process.id) {
        (ProcessKind::Worker, Some(id)) => format!("worker {id}"),
        (ProcessKind::Worker, None) => "worker ?".to_owned(),
        (other, _) => kind(other).to_owned(),
    }
}

/// Writes short lists of processes: `master, workers 0-3`.
pub(crate) struct ProcessNames<'a> {
    processes: &'a [Process],
    /// The number of processes that have each label.
    bearers: HashMap<String, usize>,
}

impl<'a> ProcessNames<'a> {
    pub(crate) fn new(processes: &'a [Process]) -> Self {
        let mut bearers = HashMap::<String, usize>::new();
        for process in processes {
            let count = bearers.entry(label(process)).or_default();
            *count = count.saturating_add(1);
        }
        ProcessNames { processes, bearers }
    }

    /// Lists the processes at these indices, which are in order. The list of all processes is `all
    /// processes`.
    pub(crate) fn list(&self, places: &[usize]) -> String {
        if places.len() > 1 && places.len() == self.processes.len() {
            return "all processes".to_owned();
        }
        let mut names = Vec::new();
        let mut workers = Vec::new();
        // The workers are listed together, in the place of the first one.
        let mut at = 0;
        for process in places.iter().filter_map(|place| self.processes.get(*place)) {
            let label = label(process);
            let alone = self.bearers.get(&label).copied().unwrap_or_default() <= 1;
            match (process.kind, process.id) {
                (ProcessKind::Worker, Some(id)) if alone => {
                    if workers.is_empty() {
                        at = names.len();
                    }
                    workers.push(id);
                }
                _ if alone => names.push(label),
                _ => names.push(format!("{label} pid {}", process.pid)),
            }
        }
        match workers.len() {
            0 => {}
            1 => names.insert(at, format!("worker {}", ranges(&workers))),
            _ => names.insert(at, format!("workers {}", ranges(&workers))),
        }
        names.join(", ")
    }
}

/// Writes numbers, which are in ascending order, as ranges: `0-3, 7`.
fn ranges(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let texts: Vec<_> = runs
        .iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    texts.join(", ")
}

/// Groups equal values across processes: each value with the indices of the processes that have it,
/// in the order of its first occurrence.
pub(crate) fn groups<T: PartialEq>(
    processes: &[Process],
    say: impl Fn(&Process) -> Vec<T>,
) -> Vec<(T, Vec<usize>)> {
    let mut groups: Vec<(T, Vec<usize>)> = Vec::new();
    for (place, process) in processes.iter().enumerate() {
        for thing in say(process) {
            match groups.iter_mut().find(|(known, _)| *known == thing) {
                Some((_, who)) if who.last() == Some(&place) => {}
                Some((_, who)) => who.push(place),
                None => groups.push((thing, vec![place])),
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::{bare, small};

    #[test]
    fn the_product_and_its_nginx() {
        let of =
            |name: Option<&str>| product(&Server { product: name.map(str::to_owned), ..small() });
        assert_eq!(of(Some("nginx/1.22.1")), "nginx 1.22.1");
        assert_eq!(of(None), "nginx 1.22.1");
        assert_eq!(of(Some("openresty/1.22.1.3")), "openresty/1.22.1.3 (nginx 1.22.1)");
        assert_eq!(of(Some("nginx/1.22.1-custom")), "nginx/1.22.1-custom (nginx 1.22.1)");
    }

    #[test]
    fn lists() {
        let worker = |id, pid| Process { kind: ProcessKind::Worker, id, pid, ..bare() };
        let processes = [
            Process { kind: ProcessKind::Master, pid: 1, ..bare() },
            worker(Some(0), 2),
            worker(Some(1), 3),
            worker(Some(2), 4),
            worker(Some(2), 5),
            worker(Some(7), 6),
            worker(None, 7),
        ];
        let names = ProcessNames::new(&processes);
        assert_eq!(names.list(&[]), "");
        assert_eq!(names.list(&[0]), "master");
        assert_eq!(names.list(&[1]), "worker 0");
        assert_eq!(names.list(&[0, 1, 2, 5]), "master, workers 0-1, 7");
        assert_eq!(names.list(&[1, 3, 6]), "worker 0, worker 2 pid 4, worker ?");
        assert_eq!(names.list(&[0, 1, 2, 3, 4, 5, 6]), "all processes");
        assert_eq!(ProcessNames::new(&processes[..1]).list(&[0]), "master");
        assert_eq!(names.list(&[99]), "");
        assert_eq!(ranges(&[u32::MAX, 0]), "4294967295, 0");
    }
}

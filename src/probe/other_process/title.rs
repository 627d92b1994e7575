//! Derives the role of an nginx process from the title that nginx gives it.
#![forbid(unsafe_code)]

use crate::report::model::{ProcessKind, ProcessState};

/// Returns the role of the process with this pid.
pub fn kind_of(pid: i32) -> ProcessKind {
    read(pid).map_or(ProcessKind::Other, |(kind, _)| kind)
}

/// Returns the role of the process with this pid, and whether it is finishing its last requests.
/// `None` if the process is gone, or `/proc` hides it.
pub fn read(pid: i32) -> Option<(ProcessKind, ProcessState)> {
    Some(parse(&std::fs::read(format!("/proc/{pid}/cmdline")).ok()?))
}

/// Parses a title: `ngx_setproctitle` in nginx's `ngx_process_cycle.c`; the agent's comes from
/// ngx_lua.
fn parse(title: &[u8]) -> (ProcessKind, ProcessState) {
    let title = String::from_utf8_lossy(title);
    let state = if title.contains("is shutting down") {
        ProcessState::ShuttingDown
    } else {
        ProcessState::Active
    };
    let kinds = [
        ("nginx: master process", ProcessKind::Master),
        ("nginx: worker process", ProcessKind::Worker),
        ("nginx: cache manager process", ProcessKind::CacheManager),
        ("nginx: cache loader process", ProcessKind::CacheLoader),
        ("nginx: privileged agent process", ProcessKind::PrivilegedAgent),
    ];
    let kind = kinds.iter().find(|(start, _)| title.starts_with(start));
    (kind.map_or(ProcessKind::Other, |(_, kind)| *kind), state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_titles_of_nginx() {
        let worker = b"nginx: worker process is shutting down\0\0\0";
        assert_eq!(parse(worker), (ProcessKind::Worker, ProcessState::ShuttingDown));
        assert_eq!(parse(b"nginx: worker process\0"), (ProcessKind::Worker, ProcessState::Active));
        assert_eq!(
            parse(b"nginx: cache manager process"),
            (ProcessKind::CacheManager, ProcessState::Active)
        );
        assert_eq!(
            parse(b"nginx: master process nginx -p x"),
            (ProcessKind::Master, ProcessState::Active)
        );
        assert_eq!(parse(b"sh\0-c\0"), (ProcessKind::Other, ProcessState::Active));
        assert_eq!((read(-1), kind_of(-1)), (None, ProcessKind::Other));
    }
}

//! The memory of the container, in one line.
#![forbid(unsafe_code)]

use crate::render::layout::paragraph;
use crate::render::units::{known, share, size};
use crate::report::model::{Container, Server};

/// Writes the line of a server in a container with a limit.
pub(super) fn line(out: &mut String, server: &Server) {
    if let Some(container) = server.container.filter(Container::is_limited) {
        paragraph(out, "", &format!("container: {}; {}", near(&container), what(&container)));
    }
}

/// How near its limit a container is: `412 MiB of 512 MiB (80%)`.
fn near(container: &Container) -> String {
    let usage = known(container.usage, size);
    match container.limit {
        Some(limit) => format!("{usage} {}", of(container, limit)),
        None => format!("{usage}, no limit"),
    }
}

/// The limit of a container and how much of it is taken: `of 512 MiB (80%)`.
fn of(container: &Container, limit: u64) -> String {
    let mut text = format!("of {}", size(limit));
    if let Some(usage) = container.usage {
        match share(usage, limit) {
            share if share.is_empty() => text.push_str(" (0%)"),
            share => text.push_str(&format!(" ({share})")),
        }
    }
    // The nearest limit is of another group.
    let left = container
        .headroom
        .filter(|left| container.usage.is_some_and(|usage| *left < limit.saturating_sub(usage)));
    if let Some(left) = left {
        text.push_str(&format!(", {} left", size(left)));
    }
    text
}

/// The limit of a container as a note on its usage.
pub(in crate::render) fn limit(container: &Container) -> String {
    match container.limit {
        Some(limit) => of(container, limit),
        None => "no limit".to_owned(),
    }
}

/// What the memory of a container is: `page cache 230 MiB, processes 160 MiB, kernel 12.0 MiB`.
pub(in crate::render) fn what(container: &Container) -> String {
    let mut parts = vec![
        format!("page cache {}", known(container.page_cache, size)),
        format!("processes {}", known(container.anon, size)),
        format!("shared memory {}", known(container.shmem, size)),
        format!("kernel {}", known(container.kernel, size)),
    ];
    let mut more = |figure: Option<u64>, text: &dyn Fn(u64) -> String| {
        parts.extend(figure.filter(|figure| *figure > 0).map(text));
    };
    more(container.swap, &|bytes| format!("swap {}", size(bytes)));
    more(container.high, &|bytes| format!("slowed from {}", size(bytes)));
    more(container.oom_kills, &|kills| format!("killed for lack of memory {kills}"));
    let waits = container.pressure.map(|pressure| pressure.some.avg10_percent);
    parts.extend(
        waits
            .filter(|waits| *waits > 0.0)
            .map(|waits| format!("waits for memory {waits}% of 10 s")),
    );
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn shown(change: impl FnOnce(&mut Container)) -> String {
        let mut server = sample::small();
        if let Some(container) = &mut server.container {
            change(container);
        }
        let mut out = String::new();
        line(&mut out, &server);
        out.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn near_its_limit() {
        let line = "container: 412 MiB of 512 MiB (80%); page cache 230 MiB, processes 160 MiB, \
                    shared memory 10.0 MiB, kernel 12.0 MiB, slowed from 480 MiB, killed for lack \
                    of memory 2, waits for memory 1.53% of 10 s";
        assert_eq!(shown(|_| {}), line);
        let other = shown(|c| c.headroom = Some(1 << 20));
        assert!(other.starts_with("container: 412 MiB of 512 MiB (80%), 1.00 MiB left; page"));
        let used = |usage| shown(|c| (c.usage, c.headroom) = (Some(usage), None));
        assert!(used(1).starts_with("container: 1 B of 512 MiB (<1%); "));
        assert!(used(0).starts_with("container: 0 of 512 MiB (0%); "));
        assert!(shown(|c| c.usage = None).starts_with("container: ? of 512 MiB; "));
    }

    #[test]
    fn without_a_limit() {
        let bare = Container { usage: Some(1 << 20), ..Container::default() };
        assert_eq!(shown(|c| *c = bare), "");
        let slowed = shown(|c| *c = Container { high: Some(2 << 20), ..bare });
        assert!(slowed.starts_with("container: 1.00 MiB, no limit; page cache ?"), "{slowed}");
        assert!(slowed.contains("slowed from 2.00 MiB"), "{slowed}");
        let mut out = String::new();
        super::line(&mut out, &Server { container: None, ..sample::small() });
        assert_eq!(out, "");
    }
}

//! Finds the group of a process below the place where its hierarchy is mounted.
#![forbid(unsafe_code)]

/// The maximum number of groups on the way up.
const DEPTH: usize = 32;

/// The version of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CgroupVersion {
    /// Each controller can have a hierarchy of its own.
    V1,
    /// One hierarchy for all.
    V2,
}

/// The group that a process is in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Membership<'a> {
    /// The version of the hierarchy that counts memory.
    pub(super) version: CgroupVersion,
    /// The path of the group in the hierarchy, as the process's control group namespace shows it.
    pub(super) path: &'a str,
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The group that is mounted.
    pub(super) root: String,
    /// Its folder.
    pub(super) top: String,
}

/// Parses `/proc/self/cgroup`. If both versions are there, memory is counted in version 1 if there is a
/// hierarchy for it.
pub(super) fn membership(groups: &str) -> Option<Membership<'_>> {
    let mut unified = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if controllers.split(',').any(|name| name == "memory") {
            return Some(Membership { version: CgroupVersion::V1, path });
        }
        if id == "0" && controllers.is_empty() {
            unified = Some(Membership { version: CgroupVersion::V2, path });
        }
    }
    unified
}

/// Finds the mount of a hierarchy in `/proc/self/mountinfo`; of several one that has the process's group
/// below it.
pub(super) fn mount(mounts: &str, membership: &Membership) -> Option<Mount> {
    let of_line = |line: &str| {
        let (place, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let is_right = match (membership.version, system.next()?) {
            (CgroupVersion::V1, "cgroup") => system.nth(1)?.split(',').any(|name| name == "memory"),
            (CgroupVersion::V2, "cgroup2") => true,
            _ => false,
        };
        let mut place = place.split(' ').skip(3);
        let (root, top) = (unescape(place.next()?), unescape(place.next()?));
        is_right.then_some(Mount { root, top })
    };
    let mut first = None;
    for mount in mounts.lines().filter_map(of_line) {
        if mount.groups(membership.path).is_some() {
            return Some(mount);
        }
        first.get_or_insert(mount);
    }
    first
}

/// Replaces the escapes `\040` of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (escape, plain)| match text.contains(escape) {
        true => text.replace(escape, plain),
        false => text,
    })
}

impl Mount {
    /// Returns the folders of the group at a path and of the groups above it, up to the mounted one;
    /// `None` if the group is not below that.
    pub(super) fn groups(&self, path: &str) -> Option<Vec<String>> {
        let root = self.root.trim_end_matches('/');
        let below = path.trim_end_matches('/').strip_prefix(root)?;
        // A group outside the namespace is shown as `/../name`.
        if !(below.is_empty() || below.starts_with('/')) || below.split('/').any(|n| n == "..") {
            return None;
        }
        let top = self.top.trim_end_matches('/');
        let mut below = below;
        let mut groups = vec![format!("{top}{below}")];
        while let Some((above, _)) = below.rsplit_once('/').filter(|_| groups.len() < DEPTH) {
            below = above;
            groups.push(format!("{top}{below}"));
        }
        Some(groups)
    }
}

//! The set of requested hooks: the parameters of `memstat_hooks`.
#![forbid(unsafe_code)]

/// The requested hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookSet {
    /// The hooks on nginx's pool allocator.
    pub pool: bool,
    /// The hooks on nginx's slab allocator.
    pub slab: bool,
    /// The hooks on LuaJIT's allocators.
    pub lua: bool,
    /// The hook on thread creation.
    pub thread: bool,
    /// The hook on the master's sleep.
    pub master: bool,
}

impl Default for HookSet {
    fn default() -> Self {
        HookSet::ALL
    }
}

const EXPECTED: &str =
    r#"expected "on", "off" or any of "pool", "slab", "lua", "thread", "master""#;

impl HookSet {
    /// `memstat_hooks on`.
    pub const ALL: HookSet =
        HookSet { pool: true, slab: true, lua: true, thread: true, master: true };

    /// `memstat_hooks off`.
    pub const NONE: HookSet =
        HookSet { pool: false, slab: false, lua: false, thread: false, master: false };

    /// Returns the union of both sets.
    pub fn or(self, other: HookSet) -> HookSet {
        HookSet {
            pool: self.pool || other.pool,
            slab: self.slab || other.slab,
            lua: self.lua || other.lua,
            thread: self.thread || other.thread,
            master: self.master || other.master,
        }
    }

    /// Returns the hooks of this set that are not in `others`.
    pub fn without(self, others: HookSet) -> HookSet {
        HookSet {
            pool: self.pool && !others.pool,
            slab: self.slab && !others.slab,
            lua: self.lua && !others.lua,
            thread: self.thread && !others.thread,
            master: self.master && !others.master,
        }
    }

    /// Parses the parameters of the directive. The error is a sentence for the log.
    pub fn parse(words: &[&[u8]]) -> Result<HookSet, String> {
        match words {
            [] => return Err(format!("no value, {EXPECTED}")),
            [b"on"] => return Ok(HookSet::ALL),
            [b"off"] => return Ok(HookSet::NONE),
            _ => {}
        }
        let mut set = HookSet::NONE;
        for &word in words {
            let hook = match word {
                b"pool" => &mut set.pool,
                b"slab" => &mut set.slab,
                b"lua" => &mut set.lua,
                b"thread" => &mut set.thread,
                b"master" => &mut set.master,
                b"on" | b"off" => {
                    let word = word.escape_ascii();
                    return Err(format!(r#""{word}" cannot be combined, {EXPECTED}"#));
                }
                _ => {
                    let word = word.escape_ascii();
                    return Err(format!(r#"invalid value "{word}", {EXPECTED}"#));
                }
            };
            if std::mem::replace(hook, true) {
                return Err(format!(r#"duplicate value "{}", {EXPECTED}"#, word.escape_ascii()));
            }
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<HookSet, String> {
        let words: Vec<&[u8]> = words.split_whitespace().map(str::as_bytes).collect();
        HookSet::parse(&words)
    }

    #[test]
    fn sums_and_differences() {
        let (one, two) = (parse("pool lua").unwrap(), parse("lua thread").unwrap());
        assert_eq!(one.or(two), parse("pool lua thread").unwrap());
        assert_eq!(one.without(two), parse("pool").unwrap());
        assert_eq!(HookSet::NONE.or(HookSet::ALL), HookSet::ALL);
        assert_eq!(HookSet::ALL.without(HookSet::ALL), HookSet::NONE);
        assert_eq!(HookSet::ALL.without(HookSet::NONE), HookSet::ALL);
    }

    #[test]
    fn accepted() {
        let none = HookSet::NONE;
        for (words, set) in [
            ("on", HookSet::ALL),
            ("off", none),
            ("pool slab lua thread master", HookSet::ALL),
            ("master thread lua slab pool", HookSet::ALL),
            ("pool slab lua thread", HookSet { master: false, ..HookSet::ALL }),
            ("master", HookSet { master: true, ..none }),
            ("pool", HookSet { pool: true, ..none }),
            ("slab", HookSet { slab: true, ..none }),
            ("lua", HookSet { lua: true, ..none }),
            ("thread", HookSet { thread: true, ..none }),
            ("thread pool", HookSet { pool: true, thread: true, ..none }),
        ] {
            assert_eq!(parse(words), Ok(set), "{words}");
        }
        assert_eq!(HookSet::default(), HookSet::ALL);
    }

    #[test]
    fn refused() {
        for (words, start) in [
            ("", "no value, "),
            ("foo", r#"invalid value "foo", "#),
            ("pool foo", r#"invalid value "foo", "#),
            ("ON", r#"invalid value "ON", "#),
            ("on on", r#""on" cannot be combined, "#),
            ("on off", r#""on" cannot be combined, "#),
            ("off pool", r#""off" cannot be combined, "#),
            ("pool on", r#""on" cannot be combined, "#),
            ("pool slab pool", r#"duplicate value "pool", "#),
            ("a\u{1}b", r#"invalid value "a\x01b", "#),
        ] {
            assert_eq!(parse(words), Err(format!("{start}{EXPECTED}")), "{words}");
        }
    }
}

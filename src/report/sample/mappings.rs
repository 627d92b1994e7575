//! Mappings for tests.

use super::Random;
use crate::report::model::mappings::{Mapping, Mappings};

impl Random {
    pub(super) fn mappings(&mut self) -> Mappings {
        let mapping = |r: &mut Self| Mapping {
            path: r.maybe(Self::text),
            perms: r.text(),
            reserved: r.figure(),
            resident: r.maybe_figure(),
            resident_ms_ago: r.maybe_figure(),
            count: r.figure(),
        };
        Mappings { file_other: self.many(mapping), anon_other: self.many(mapping) }
    }
}

/// The mappings of a small server.
pub(super) fn full() -> Mappings {
    let mapping = |path: Option<&str>, perms: &str, kib: u64| Mapping {
        path: path.map(str::to_owned),
        perms: perms.to_owned(),
        reserved: 4 * kib * 1024,
        resident: Some(kib * 1024),
        resident_ms_ago: Some(0),
        count: 1,
    };
    Mappings {
        file_other: vec![
            mapping(Some("/usr/share/GeoIP/city.mmdb"), "r--s", 1_000),
            mapping(Some("/usr/lib/libcrypto.so.3"), "r--p", 200),
        ],
        anon_other: vec![mapping(None, "rw-p", 400)],
    }
}

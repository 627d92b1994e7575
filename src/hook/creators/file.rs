//! Derives names for functions without a name from the functions that refer to them.
//!
//! A static function of C is referred to only from its own source file. So the functions that lead
//! to it, back to the first ones with a name, belong to that file. Their names begin with the
//! prefix that all of nginx's names in that file have. This depends on nothing but the code.
#![forbid(unsafe_code)]

use crate::report::naming::prefix;

/// A function that has a name, or whose file has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFunction {
    /// Its start address.
    pub start: usize,
    /// Its name, or the prefix of the names in its file.
    pub name: String,
    /// The source of the name.
    pub of: NameSource,
}

/// The source of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameSource {
    /// The name of an exported function.
    Exported,
    /// The name of a function that only the file on disk contains.
    Local,
    /// The prefix of the names in its source file.
    File,
}

/// The functions of an object, and the references to them.
#[derive(Debug, Default)]
pub struct ObjectFunctions {
    /// The start addresses of the functions, sorted.
    pub starts: Vec<usize>,
    /// The functions with a name, sorted by start address.
    pub named: Vec<NamedFunction>,
    /// References, sorted: the start of a function, and a place that refers to it.
    pub references: Vec<(usize, usize)>,
}

/// The maximum number of functions to follow.
const MOST: usize = 256;

/// The maximum number of exported functions between two functions of one source file.
const NEAR: usize = 8;

impl ObjectFunctions {
    /// Returns the start of the function that contains a place.
    pub fn start(&self, place: usize) -> Option<usize> {
        let index = self.starts.partition_point(|start| *start <= place);
        self.starts.get(index.checked_sub(1)?).copied()
    }

    /// Returns the named function that starts at an address.
    pub fn named(&self, start: usize) -> Option<&NamedFunction> {
        let index = self.named.binary_search_by_key(&start, |named| named.start).ok()?;
        self.named.get(index)
    }

    /// Returns the functions that refer to a function.
    fn callers(&self, start: usize) -> Vec<usize> {
        let from = self.references.partition_point(|(to, _)| *to < start);
        let places = self.references.iter().skip(from).take_while(|(to, _)| *to == start);
        let mut callers: Vec<usize> =
            places.filter_map(|(_, place)| self.start(*place)).filter(|c| *c != start).collect();
        callers.sort_unstable();
        callers.dedup();
        callers
    }

    /// Returns a name for the function that contains a place.
    pub fn name(&self, place: usize) -> Option<String> {
        let start = self.start(place)?;
        let own = self.named(start);
        if let Some(named) = own.filter(|named| named.of == NameSource::Exported) {
            return Some(named.name.clone());
        }
        let callers = self.callers(start);
        if let [only] = callers.as_slice() {
            // It is part of its only caller, whether or not the file on disk names it.
            if let Some(named) = self.named(*only).filter(|named| named.of == NameSource::Exported)
            {
                if self.between(start, *only) <= NEAR {
                    return Some(named.name.clone());
                }
            }
        }
        match own {
            Some(named) if named.of == NameSource::Local => return Some(named.name.clone()),
            Some(named) => return Some(format!("{}_*", named.name)),
            None => {}
        }
        self.file(callers).map(|prefix| format!("{prefix}_*"))
    }

    /// Returns the number of exported functions between two places.
    fn between(&self, one: usize, other: usize) -> usize {
        let (low, high) = (one.min(other), one.max(other));
        let is_between = |named: &&NamedFunction| {
            named.of == NameSource::Exported && low < named.start && named.start < high
        };
        self.named.iter().filter(is_between).count()
    }

    /// Returns the prefix of the names in the source file of these functions.
    fn file(&self, mut left: Vec<usize>) -> Option<String> {
        let mut seen = left.clone();
        let (mut own, mut files): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        while let Some(start) = left.pop() {
            match self.named(start) {
                Some(named) if named.of == NameSource::Exported => own.push(&named.name),
                Some(named) if named.of == NameSource::File => files.push(&named.name),
                _ => {
                    for caller in self.callers(start) {
                        if !seen.contains(&caller) && seen.len() < MOST {
                            seen.push(caller);
                            left.push(caller);
                        }
                    }
                }
            }
        }
        files.sort_unstable();
        files.dedup();
        if let [only] = files.as_slice() {
            return Some((*only).to_owned());
        }
        let (first, rest) = own.split_first()?;
        let mut common = prefix(first, first)?;
        for name in rest {
            common = prefix(common, name)?;
        }
        Some(common.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(start: usize, name: &str) -> NamedFunction {
        NamedFunction { start, name: name.to_owned(), of: NameSource::Exported }
    }

    fn functions() -> ObjectFunctions {
        let file =
            NamedFunction { start: 700, name: "ngx_http_log".to_owned(), of: NameSource::File };
        ObjectFunctions {
            starts: (0..20).map(|n| n * 100).collect(),
            named: vec![
                own(0, "ngx_http_v2_init"),
                own(100, "ngx_http_v2_push_stream"),
                own(600, "ngx_http_parse_chunked"),
                file,
                own(900, "ngx_http_create_request"),
                NamedFunction {
                    start: 1200,
                    name: "static_function".to_owned(),
                    of: NameSource::Local,
                },
            ],
            references: vec![
                (200, 10),  // called by v2_init,
                (200, 310), // and by a static function that
                (300, 110), // v2_push_stream calls.
                (300, 320),
                (400, 910), // A part of create_request.
                (500, 810), // Of the log module:
                (800, 720),
                (1100, 1300), // A ring without a name.
                (1300, 1100),
            ],
        }
    }

    #[test]
    fn names() {
        let functions = functions();
        for (place, expected) in [
            (150, Some("ngx_http_v2_push_stream")),
            (250, Some("ngx_http_v2_*")),
            (399, Some("ngx_http_v2_push_stream")),
            (420, Some("ngx_http_create_request")),
            (599, Some("ngx_http_log_*")),
            (750, Some("ngx_http_log_*")),
            (1150, None),
            (1250, Some("static_function")),
            (1450, None),
        ] {
            assert_eq!(functions.name(place).as_deref(), expected, "{place}");
        }
    }

    #[test]
    fn names_of_two_files_are_none() {
        let mut functions = functions();
        functions.references.insert(2, (200, 950));
        assert_eq!(functions.name(250), None);
    }
}

//! Names for functions without one: by what refers to them.
//!
//! A static function of C is referred to from its own source file only. So the functions that lead to
//! it, up to the first ones with a name, are of that file, and what their names begin with is what
//! nginx's names in that file begin with. That depends on nothing but the code.
#![forbid(unsafe_code)]

use crate::report::naming::prefix;

/// A function that has a name, or whose file has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Where it starts.
    pub start: usize,
    /// Its name, or what the names of its file begin with.
    pub name: String,
    /// What the name is.
    pub of: Of,
}

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// That of an exported function.
    Exported,
    /// That of a function which only the file on disk names.
    Local,
    /// What the names of its source file begin with.
    File,
}

/// The functions of an object, and what refers to them.
#[derive(Debug, Default)]
pub struct Functions {
    /// Where functions start, in order.
    pub starts: Vec<usize>,
    /// Those with a name, by where they start.
    pub named: Vec<Named>,
    /// The start of a function, and a place that refers to it; in order.
    pub references: Vec<(usize, usize)>,
}

/// Functions that are followed at most.
const MOST: usize = 256;

/// Exported functions of one source file are not further apart.
const NEAR: usize = 8;

impl Functions {
    /// The start of the function that a place is in.
    pub fn start(&self, place: usize) -> Option<usize> {
        let index = self.starts.partition_point(|start| *start <= place);
        self.starts.get(index.checked_sub(1)?).copied()
    }

    /// What starts there.
    pub fn named(&self, start: usize) -> Option<&Named> {
        let index = self.named.binary_search_by_key(&start, |named| named.start).ok()?;
        self.named.get(index)
    }

    /// The functions that refer to one.
    fn callers(&self, start: usize) -> Vec<usize> {
        let from = self.references.partition_point(|(to, _)| *to < start);
        let places = self.references.iter().skip(from).take_while(|(to, _)| *to == start);
        let mut callers: Vec<usize> =
            places.filter_map(|(_, place)| self.start(*place)).filter(|c| *c != start).collect();
        callers.sort_unstable();
        callers.dedup();
        callers
    }

    /// A name for the function that a place is in.
    pub fn name(&self, place: usize) -> Option<String> {
        let start = self.start(place)?;
        let own = self.named(start);
        if let Some(named) = own.filter(|named| named.of == Of::Exported) {
            return Some(named.name.clone());
        }
        let callers = self.callers(start);
        if let [only] = callers.as_slice() {
            // A part of the one that calls it, whether or not the file names it.
            if let Some(named) = self.named(*only).filter(|named| named.of == Of::Exported) {
                if self.between(start, *only) <= NEAR {
                    return Some(named.name.clone());
                }
            }
        }
        match own {
            Some(named) if named.of == Of::Local => return Some(named.name.clone()),
            Some(named) => return Some(format!("{}_*", named.name)),
            None => {}
        }
        self.file(callers).map(|prefix| format!("{prefix}_*"))
    }

    /// Exported functions between two places.
    fn between(&self, one: usize, other: usize) -> usize {
        let (low, high) = (one.min(other), one.max(other));
        let is_between =
            |named: &&Named| named.of == Of::Exported && low < named.start && named.start < high;
        self.named.iter().filter(is_between).count()
    }

    /// What the names in the file of these functions begin with.
    fn file(&self, mut left: Vec<usize>) -> Option<String> {
        let mut seen = left.clone();
        let (mut own, mut files): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        while let Some(start) = left.pop() {
            match self.named(start) {
                Some(named) if named.of == Of::Exported => own.push(&named.name),
                Some(named) if named.of == Of::File => files.push(&named.name),
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

    fn own(start: usize, name: &str) -> Named {
        Named { start, name: name.to_owned(), of: Of::Exported }
    }

    fn functions() -> Functions {
        let file = Named { start: 700, name: "ngx_http_log".to_owned(), of: Of::File };
        Functions {
            starts: (0..20).map(|n| n * 100).collect(),
            named: vec![
                own(0, "ngx_http_v2_init"),
                own(100, "ngx_http_v2_push_stream"),
                own(600, "ngx_http_parse_chunked"),
                file,
                own(900, "ngx_http_create_request"),
                Named { start: 1200, name: "static_function".to_owned(), of: Of::Local },
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

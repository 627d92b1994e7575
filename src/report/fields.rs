//! `fields=`: the requested properties of the reply.
//!
//! A field is a property of the reply (`totals`) or a property one level below (`totals.swap`).
//! Below `processes` and `shared_zones` it is a property of each element (`processes.pools`).
#![forbid(unsafe_code)]

use serde_json::Value;

/// The requested fields, all of them known. A property includes those below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(&'static str, Option<&'static str>)>);

/// An unknown name and its level.
pub struct Unknown(pub Vec<u8>, pub Level);

/// The level of a name: the top, or below a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(Option<&'static str>);

/// The properties of the reply and those one level below.
const KNOWN: &[(&str, &[&str])] = &[
    ("schema", &[]),
    ("module", &[]),
    ("nginx", &[]),
    ("product", &[]),
    ("time", &[]),
    ("page_size", &[]),
    ("answered_by", &["pid", "id"]),
    ("elapsed_us", &[]),
    ("health", &["status", "verdicts"]),
    (
        "processes",
        &[
            "kind",
            "id",
            "pid",
            "generation",
            "state",
            "age_ms",
            "uptime_s",
            "system",
            "breakdown",
            "mappings",
            "limits",
            "allocator",
            "pools",
            "peak",
            "zones",
            "lua",
            "text",
            "stacks",
            "hooks",
            "self",
            "notes",
        ],
    ),
    (
        "shared_zones",
        &[
            "owner",
            "generation",
            "current",
            "size",
            "resident",
            "resident_ms_ago",
            "page_size",
            "largest_allocation",
            "in_use",
            "fill_percent",
            "failures",
            "failures_at_least",
            "pages",
            "slots",
            "notes",
            "older",
        ],
    ),
    (
        "totals",
        &[
            "processes",
            "resident",
            "resident_unique",
            "resident_unique_error",
            "swap",
            "shared_memory",
        ],
    ),
    (
        "container",
        &[
            "limit",
            "high",
            "usage",
            "headroom",
            "page_cache",
            "anon",
            "shmem",
            "kernel",
            "swap",
            "oom_kills",
            "pressure",
        ],
    ),
];

impl Level {
    /// All names of this level, in quotes.
    pub fn names(self) -> String {
        let names: Vec<_> = KNOWN
            .iter()
            .filter(|(top, _)| self.0.is_none_or(|name| name == *top))
            .flat_map(|(top, below)| match self.0 {
                None => vec![format!("\"{top}\"")],
                Some(_) => below.iter().map(|name| format!("\"{top}.{name}\"")).collect(),
            })
            .collect();
        list(&names)
    }
}

/// Joins words as in `a, b and c`.
pub fn list(words: &[String]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

impl Fields {
    /// Parses names separated by commas.
    pub fn parse(value: &[u8]) -> Result<Fields, Unknown> {
        let mut fields = Vec::new();
        for name in value.split(|byte| *byte == b',') {
            let mut parts = name.splitn(2, |byte| *byte == b'.');
            let top = parts.next().unwrap_or_default();
            let known = KNOWN.iter().find(|(known, _)| known.as_bytes() == top);
            let (top, below) = known.ok_or_else(|| Unknown(name.to_vec(), Level(None)))?;
            let below = match parts.next() {
                None => None,
                Some(below_name) => {
                    let known = below.iter().find(|known| known.as_bytes() == below_name);
                    // If the property has none below it, the names at the top help more.
                    let level = Level((!below.is_empty()).then_some(*top));
                    Some(*known.ok_or_else(|| Unknown(name.to_vec(), level))?)
                }
            };
            fields.push((*top, below));
        }
        Ok(Fields(fields))
    }

    /// Whether a property is requested, or one below it.
    pub fn has(&self, top: &str) -> bool {
        self.0.iter().any(|(name, _)| *name == top)
    }

    /// Whether nothing but a property, or parts of it, is requested.
    pub fn has_only(&self, top: &str) -> bool {
        self.0.iter().all(|(name, _)| *name == top)
    }

    /// Whether a property one level below is requested.
    pub fn has_below(&self, top: &str, below: &str) -> bool {
        self.0.iter().any(|(name, sub)| *name == top && sub.is_none_or(|sub| sub == below))
    }

    /// Removes the properties of a reply that were not requested.
    pub fn narrow(&self, reply: &mut Value) {
        let Value::Object(properties) = reply else { return };
        properties.retain(|top, _| self.has(top));
        for (top, value) in properties {
            match (top.as_str(), value) {
                ("processes", Value::Array(elements)) => {
                    elements.iter_mut().for_each(|element| self.narrow_below(top, element));
                }
                ("shared_zones", Value::Object(zones)) => {
                    zones.values_mut().for_each(|zone| self.narrow_below(top, zone));
                }
                (_, value) => self.narrow_below(top, value),
            }
        }
    }

    /// Removes what was not requested from a property, or from an element of it.
    pub fn narrow_below(&self, top: &str, value: &mut Value) {
        if let Value::Object(properties) = value {
            properties.retain(|below, _| self.has_below(top, below));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::report::sample;

    fn reply() -> Value {
        serde_json::to_value(sample::small()).unwrap()
    }

    fn narrowed(fields: &str) -> Value {
        let Ok(fields) = Fields::parse(fields.as_bytes()) else { panic!("{fields}") };
        let mut reply = reply();
        fields.narrow(&mut reply);
        reply
    }

    fn keys(value: &Value) -> BTreeSet<String> {
        value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
    }

    /// The known names are the names in the reply.
    #[test]
    fn as_in_the_reply() {
        let reply = reply();
        let known: BTreeSet<_> = KNOWN.iter().map(|(top, _)| (*top).to_owned()).collect();
        assert_eq!(known, keys(&reply));
        for (top, below) in KNOWN {
            let value = match *top {
                "processes" => &reply["processes"][0],
                "shared_zones" => &reply["shared_zones"]["one"],
                _ => &reply[top],
            };
            let below: BTreeSet<_> = below.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(below, keys(value), "{top}");
        }
    }

    #[test]
    fn only_what_is_wanted() {
        let all = reply();
        assert_eq!(narrowed("nginx,totals"), {
            serde_json::json!({ "nginx": all["nginx"], "totals": all["totals"] })
        });
        assert_eq!(narrowed("totals.swap,totals.resident"), {
            let totals = &all["totals"];
            serde_json::json!({
                "totals": { "swap": totals["swap"], "resident": totals["resident"] }
            })
        });
        // The wider one wins, in any order.
        assert_eq!(narrowed("totals.swap,totals"), narrowed("totals"));
        assert_eq!(narrowed("totals,totals.swap"), narrowed("totals"));
        let some = narrowed("processes.pid,processes.system,shared_zones.pages");
        assert_eq!(keys(&some), ["processes", "shared_zones"].map(str::to_owned).into());
        let processes = some["processes"].as_array().unwrap();
        assert_eq!(processes.len(), all["processes"].as_array().unwrap().len());
        for (narrow, process) in processes.iter().zip(all["processes"].as_array().unwrap()) {
            assert_eq!(keys(narrow), ["pid", "system"].map(str::to_owned).into());
            assert_eq!(narrow["system"], process["system"]);
        }
        assert_eq!(keys(&some["shared_zones"]), keys(&all["shared_zones"]));
        let pages = &all["shared_zones"]["one"]["pages"];
        assert_eq!(some["shared_zones"]["one"], serde_json::json!({ "pages": pages }));
    }

    #[test]
    fn refused() {
        let top = Level(None);
        let table = [
            ("", top),
            ("x", top),
            ("nginx,", top),
            (",nginx", top),
            ("Nginx", top),
            ("nginx.version", top),
            ("x.y", top),
            ("totals.x", Level(Some("totals"))),
            ("totals.", Level(Some("totals"))),
            ("processes.system.swap", Level(Some("processes"))),
            ("shared_zones.one", Level(Some("shared_zones"))),
        ];
        for (fields, level) in table {
            match Fields::parse(fields.as_bytes()) {
                Err(Unknown(_, at)) => assert_eq!(at, level, "{fields}"),
                Ok(_) => panic!("{fields}"),
            }
        }
        assert_eq!(Level(Some("answered_by")).names(), r#""answered_by.pid" and "answered_by.id""#);
        assert!(top.names().starts_with(r#""schema", "module","#), "{}", top.names());
    }
}

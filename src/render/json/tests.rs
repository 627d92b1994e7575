#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::{json, Value};

use crate::format::Media;
use crate::render::render;
use crate::report::merge::zones::merge;
use crate::report::model::{Category, Named, Process, ProcessKind, Server};
use crate::report::sample::{self, Random};

const SCHEMA: &str = include_str!("../../../schema/memstat.schema.json");

/// The compiled schema.
struct Schema(Schemas, SchemaIndex);

impl Schema {
    fn new() -> Self {
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.add_resource("memstat.json", serde_json::from_str(SCHEMA).unwrap()).unwrap();
        let index = compiler.compile("memstat.json", &mut schemas).unwrap();
        Schema(schemas, index)
    }

    fn accepts(&self, value: &Value) -> bool {
        self.0.validate(value, self.1).is_ok()
    }

    fn assert(&self, server: &Server) -> Value {
        let value = value(server);
        if let Err(error) = self.0.validate(&value, self.1) {
            panic!("{error:#}\n{value:#}");
        }
        value
    }
}

fn value(server: &Server) -> Value {
    serde_json::from_slice(&render(Media::Json, server, None).unwrap()).unwrap()
}

/// A server whose process has every property, every category and every limit.
fn everything() -> Server {
    let mut process = sample::full(ProcessKind::Worker, Some(0), 11);
    if let Some(breakdown) = &mut process.breakdown {
        let region = breakdown.0[0].1;
        breakdown.0 = Category::ALL.map(|category| (category, region)).to_vec();
    }
    process.limits = Some(Named(["address_space", "data"].map(|name| (name.to_owned(), 1)).into()));
    Server { health: sample::health::red(), ..sample::server(vec![process]) }
}

/// Servers with random processes whose pids are valid.
fn any_servers(rounds: usize) -> impl Iterator<Item = Server> {
    let mut random = Random::new(7);
    (0..rounds).map(move |_| {
        let mut processes: Vec<Process> = (0..random.below(6)).map(|_| random.process()).collect();
        for process in &mut processes {
            process.pid = process.pid.saturating_abs().max(1);
        }
        let mut server = sample::server(processes.clone());
        server.health = random.health();
        if random.below(2) == 0 {
            let reported = (0..random.below(4)).map(|_| random.reported()).collect();
            server.shared_zones = merge(reported, &processes);
        }
        if random.below(2) == 0 {
            server.answered_by.id = None;
            server.product = None;
            server.totals.shared_memory = None;
            server.totals.resident_unique = None;
            server.container = (random.below(2) == 0).then(|| random.container());
        }
        server
    })
}

/// Pointers to all values below `value`.
fn pointers(value: &Value, at: &str, into: &mut Vec<String>) {
    let mut below = |key: &str, value: &Value| {
        let at = format!("{at}/{key}");
        pointers(value, &at, into);
        into.push(at);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| below(key, value)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| below(&i.to_string(), value));
        }
        _ => {}
    }
}

fn all_pointers(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    pointers(value, "", &mut all);
    all
}

/// Replaces array indices and zone names in a pointer by `*`.
fn any_element(pointer: &str) -> String {
    let mut before = "";
    let steps = pointer.split('/').map(|step| {
        let any = step.parse::<usize>().is_ok()
            || ["shared_zones", "zones", "evidence"].contains(&before);
        before = step;
        if any {
            "*"
        } else {
            step
        }
    });
    steps.collect::<Vec<_>>().join("/")
}

#[test]
fn one_compact_line() {
    let bytes = render(Media::Json, &sample::small(), None).unwrap();
    assert_eq!(bytes.iter().position(|b| *b == b'\n'), Some(bytes.len() - 1));
    assert!(bytes.starts_with(b"{\"schema\":1,\"module\":"));
}

#[test]
fn samples_are_valid() {
    let schema = Schema::new();
    schema.assert(&sample::small());
    schema.assert(&everything());
    schema.assert(&sample::server(Vec::new()));
    schema.assert(&sample::server(vec![sample::bare()]));
    any_servers(300).for_each(|server| {
        schema.assert(&server);
    });
}

#[test]
fn shape_of_a_process() {
    let reply = value(&everything());
    let process = &reply["processes"][0];
    assert_eq!(process["kind"], "worker");
    assert_eq!(process["state"], "active");
    assert_eq!(process["system"]["virtual"], 79_340 * 1024);
    assert_eq!(process["self"]["bytes"], 12_288);
    let categories: Vec<_> = process["breakdown"].as_object().unwrap().keys().collect();
    let mut names = Category::ALL.map(Category::name);
    names.sort_unstable();
    assert_eq!(categories, names);
}

/// Whether the property names of an object depend on the server.
fn is_named(pointer: &str) -> bool {
    let named = ["/shared_zones", "/zones", "/slots", "/sizes", "/evidence"];
    named.iter().any(|name| pointer.ends_with(name))
}

/// Each property is required, except categories that a process may lack and names that depend on
/// the server. No other property is allowed.
#[test]
fn strict_properties() {
    let schema = Schema::new();
    let reply = schema.assert(&everything());
    for pointer in all_pointers(&reply) {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let mut changed = reply.clone();
        let Some(Value::Object(object)) = changed.pointer_mut(parent) else {
            continue;
        };
        object.remove(key);
        let optional = (parent.ends_with("/breakdown") && !key.ends_with("_other"))
            || parent.ends_with("/limits")
            || parent.ends_with("/allocator/nginx")
            || is_named(parent);
        assert_eq!(schema.accepts(&changed), optional, "without {pointer}");
        let mut changed = reply.clone();
        changed.pointer_mut(parent).unwrap()["surplus"] = json!("x");
        // Objects with any names do not allow text as a value.
        assert!(!schema.accepts(&changed), "surplus in {parent}");
    }
}

/// Collects a part of the schema and all parts that it refers to.
fn parts<'a>(schema: &'a Value, part: &'a Value, into: &mut Vec<&'a Value>) {
    into.push(part);
    if let Some(name) = part["$ref"].as_str().and_then(|name| name.strip_prefix('#')) {
        parts(schema, schema.pointer(name).unwrap(), into);
    }
    for choice in ["allOf", "anyOf"].iter().filter_map(|key| part[key].as_array()).flatten() {
        parts(schema, choice, into);
    }
}

/// Collects the properties of the schema that none of the values has.
fn missing(schema: &Value, part: &Value, at: &str, values: &[&Value], into: &mut Vec<String>) {
    let mut all = Vec::new();
    parts(schema, part, &mut all);
    for part in all {
        for (key, below) in part["properties"].as_object().into_iter().flatten() {
            let values: Vec<_> = values.iter().filter_map(|value| value.get(key)).collect();
            let at = format!("{at}/{key}");
            if values.is_empty() {
                into.push(at.clone());
            }
            missing(schema, below, &at, &values, into);
        }
        let patterns = part["patternProperties"].as_object().into_iter().flatten();
        let patterns = patterns.map(|(_, below)| below);
        let named = patterns.chain(part.get("additionalProperties").filter(|p| p.is_object()));
        for below in named.chain(part.get("items")) {
            let values: Vec<_> = values.iter().flat_map(|value| elements(value)).collect();
            missing(schema, below, &format!("{at}/*"), &values, into);
        }
    }
}

fn elements(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => Vec::new(),
    }
}

/// The schema has no property that the model lacks. (That it lacks none of the model's is what
/// [`samples_are_valid`] tests: objects may have no others.)
#[test]
fn no_other_properties() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut found = Vec::new();
    missing(&schema, &schema, "", &[&value(&everything())], &mut found);
    assert_eq!(found, [""; 0]);
    // It would be noticed.
    let mut more = schema.clone();
    more["definitions"]["pages"]["properties"]["more"] = json!({"type": "integer"});
    missing(&more, &more, "", &[&value(&everything())], &mut found);
    assert_eq!(found, ["/shared_zones/*/older/*/pages/more", "/shared_zones/*/pages/more"]);
}

/// `null` is allowed exactly where the model has an `Option`.
#[test]
fn null_where_the_model_has_it() {
    let schema = Schema::new();
    let mut nulls = BTreeSet::new();
    for server in any_servers(300) {
        let reply = value(&server);
        let found =
            all_pointers(&reply).into_iter().filter(|p| reply.pointer(p).unwrap().is_null());
        nulls.extend(found.map(|pointer| any_element(&pointer)));
    }
    let reply = schema.assert(&everything());
    for pointer in all_pointers(&reply) {
        let mut changed = reply.clone();
        *changed.pointer_mut(&pointer).unwrap() = Value::Null;
        let model = nulls.contains(&any_element(&pointer));
        assert_eq!(schema.accepts(&changed), model, "null in {pointer}");
    }
}

/// No figure may be negative, fractional (but for percents of pressure) or text. No other name is allowed where the model has an
/// enum.
#[test]
fn strict_values() {
    let schema = Schema::new();
    let reply = schema.assert(&everything());
    for pointer in all_pointers(&reply) {
        let wrong = match reply.pointer(&pointer).unwrap() {
            Value::Number(_) => vec![json!(-1), json!(0.5), json!("1"), json!(true)],
            Value::String(_) => vec![json!(1), json!(["x"])],
            Value::Array(_) => vec![json!({}), json!([true])],
            Value::Null => vec![json!(0.5), json!(true)],
            _ => vec![json!(1), json!([]), json!("x")],
        };
        let is_real = pointer.contains("/pressure/") && pointer.ends_with("_percent");
        for wrong in wrong.into_iter().filter(|wrong| !is_real || *wrong != json!(0.5)) {
            let mut changed = reply.clone();
            *changed.pointer_mut(&pointer).unwrap() = wrong.clone();
            assert!(!schema.accepts(&changed), "{wrong} in {pointer}");
        }
    }
    let names = [
        "kind",
        "state",
        "allocator/name",
        "hooks/pool",
        "hooks/slab",
        "hooks/lua",
        "hooks/master",
    ];
    for name in names {
        let mut changed = reply.clone();
        *changed.pointer_mut(&format!("/processes/0/{name}")).unwrap() = json!("odd");
        assert!(!schema.accepts(&changed), "{name}");
    }
}

/// Every part of the schema has a description.
#[test]
fn described() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    for pointer in all_pointers(&schema) {
        let (parent, _) = pointer.rsplit_once('/').unwrap();
        if parent.ends_with("/properties") || parent == "/definitions" {
            let text = schema.pointer(&format!("{pointer}/description"));
            assert!(text.is_some_and(Value::is_string), "{pointer}");
        }
    }
}

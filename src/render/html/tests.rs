#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::{content_security_policy, SCRIPT, STYLE};
use crate::format::Media;
use crate::render::render;
use crate::report::merge::zones::merge;
use crate::report::model::{HookState, Note, Process, ProcessKind, ProcessState, Server};
use crate::report::sample::{self, Random};

fn html(server: &Server) -> String {
    String::from_utf8(render(Media::Html, server, None).unwrap()).unwrap()
}

/// A parsed page: the text between the tags, and the tags with their attributes. Parsing fails if
/// the page is not well-formed.
struct Page {
    text: String,
    tags: Vec<(String, BTreeMap<String, String>)>,
}

impl Page {
    fn parse(page: &str) -> Page {
        let page = page.strip_prefix("<!DOCTYPE html>").unwrap();
        let page = page.replacen(&format!("<style>{STYLE}</style>"), "", 1);
        let page = page.replacen(&format!("<script>{SCRIPT}</script>"), "", 1);
        let (mut text, mut tags, mut open) = (String::new(), Vec::new(), Vec::new());
        let mut parts = page.split('<');
        text.push_str(parts.next().unwrap());
        for part in parts {
            let (tag, after) = part.split_once('>').unwrap();
            text.push_str(after);
            text.push('\n');
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
                continue;
            }
            let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric()), "{tag}");
            let mut attributes = BTreeMap::new();
            while !rest.is_empty() {
                let end = rest.find(['=', ' ']).unwrap_or(rest.len());
                let (key, value);
                (key, rest) = rest.split_at(end);
                if let Some(quoted) = rest.strip_prefix("=\"") {
                    (value, rest) = quoted.split_once('"').unwrap();
                } else {
                    value = "";
                }
                rest = rest.strip_prefix(' ').unwrap_or(rest);
                let twice = attributes.insert(key.to_owned(), value.to_owned());
                assert_eq!(twice, None, "{key} twice in <{tag}>");
            }
            if !["meta", "link"].contains(&name) {
                open.push(name.to_owned());
            }
            tags.push((name.to_owned(), attributes));
        }
        assert_eq!(open, [] as [String; 0]);
        Page { text, tags }
    }

    fn of(server: &Server) -> Page {
        Page::parse(&html(server))
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a BTreeMap<String, String>> {
        self.tags.iter().filter(move |(tag, _)| tag == name).map(|(_, attributes)| attributes)
    }

    /// Sectors of all pies, in order: name and bytes.
    fn sectors(&self) -> Vec<(&str, u64)> {
        let sector = |path: &'_ BTreeMap<String, String>| path["data-bytes"].parse().unwrap();
        self.all("path").map(|path| (path["data-name"].as_str(), sector(path))).collect()
    }

    /// Checks what screen readers and the script need.
    fn check(&self) {
        let ids: Vec<_> = self.tags.iter().filter_map(|(_, a)| a.get("id")).collect();
        let known: BTreeSet<_> = ids.iter().copied().collect();
        assert_eq!(ids.len(), known.len(), "an id is there twice: {ids:?}");
        for (name, attributes) in &self.tags {
            for reference in ["aria-labelledby", "for"] {
                let id = attributes.get(reference);
                assert!(id.is_none_or(|id| known.contains(id)), "{id:?}");
            }
            let get = |key: &str| attributes.get(key).map(String::as_str);
            match name.as_str() {
                "svg" => {
                    let named = get("aria-label").is_some_and(|label| !label.is_empty());
                    assert!(
                        named && get("role") == Some("img") || get("aria-hidden") == Some("true")
                    );
                }
                "th" => assert!(["col", "row"].contains(&get("scope").unwrap())),
                "a" => assert!(
                    get("href").is_some_and(|to| to.starts_with(['#', '?'])),
                    "{attributes:?}"
                ),
                "section" => assert!(get("aria-labelledby").is_some()),
                "link" => assert!(get("href").unwrap().starts_with("data:")),
                "script" | "style" | "img" | "iframe" | "object" | "base" | "form" => {
                    panic!("{name}")
                }
                _ => {}
            }
            let bad = |key: &&String| key.starts_with("on") || *key == "style" || *key == "src";
            assert_eq!(attributes.keys().find(bad), None, "in {name}");
        }
        assert_eq!(self.all("table").count(), self.all("caption").count());
        let visible =
            |c: char| c == '\n' || !c.is_control() && !matches!(c, '\u{200e}'..='\u{202e}');
        assert!(self.text.chars().all(visible), "{:?}", self.text);
    }
}

#[test]
fn policy() {
    let policy = content_security_policy();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    let page = html(&sample::small());
    for (block, tag) in [(STYLE, "style"), (SCRIPT, "script")] {
        assert_eq!(page.matches(&format!("<{tag}>{block}</{tag}>")).count(), 1);
        assert_eq!(page.matches(&format!("<{tag}")).count(), 1);
    }
}

#[test]
fn small_server() {
    let server = sample::small();
    let page = Page::of(&server);
    page.check();
    assert!(page.text.contains("Not responding: "), "{}", page.text);
    assert!(page.text.contains("12.3 s old"), "{}", page.text);
    for process in &server.processes {
        let id = format!("p{}", process.pid);
        assert!(page.all("details").any(|details| details["id"] == id));
        assert!(page.all("a").any(|a| a["href"] == format!("#{id}")));
    }
    assert!(page.text.contains("it did not answer within 200 ms"));
}

/// The sectors of the pies have the figures of the model.
#[test]
fn sectors() {
    let server = sample::small();
    let page = Page::of(&server);
    let sectors = page.sectors();
    let mut at = 0;
    let mut expect = |figures: Vec<(&str, u64)>| {
        for (name, bytes) in figures.into_iter().filter(|(_, bytes)| *bytes > 0) {
            assert_eq!(sectors.get(at), Some(&(name, bytes)), "sector {at}");
            at += 1;
        }
    };
    let sum = |figure: &dyn Fn(&Process) -> u64| server.processes.iter().map(figure).sum::<u64>();
    let virtual_ = sum(&|p| p.system.virtual_.unwrap());
    let resident = sum(&|p| p.system.resident.unwrap());
    expect(vec![("resident", resident), ("rest", virtual_ - resident)]);
    let known: Vec<_> = server.processes.iter().filter_map(|p| p.breakdown.as_ref()).collect();
    let names = known[0].0.iter().map(|(category, _)| *category);
    let silent = server.processes.iter().find(|p| p.breakdown.is_none()).unwrap().system;
    let of = |figure: fn(crate::report::model::Region) -> u64, shared: u64, unattributed: u64| {
        let category = |category: crate::report::model::Category| match category.name() {
            "nginx_shm" => ("nginx_shm", shared),
            name => (name, known.iter().map(|b| figure(b.get(category).unwrap())).sum()),
        };
        names.clone().map(category).chain([("unattributed", unattributed)]).collect::<Vec<_>>()
    };
    let own = silent.resident.unwrap() - silent.resident_shmem.unwrap();
    expect(of(|r| r.resident.unwrap(), server.totals.shared_memory.unwrap(), own));
    // Each mapping of each zone counts once, in whole pages.
    let mapped = (10 << 20) + (20 << 20) + 4096;
    expect(of(|r| r.reserved.unwrap(), mapped, silent.virtual_.unwrap()));
    for process in &server.processes {
        let (virtual_, resident) =
            (process.system.virtual_.unwrap(), process.system.resident.unwrap());
        expect(vec![("resident", resident), ("rest", virtual_ - resident)]);
        let entries = process.breakdown.iter().flat_map(|breakdown| &breakdown.0);
        let entries: Vec<_> = entries.collect();
        expect(entries.iter().map(|(c, r)| (c.name(), r.resident.unwrap())).collect());
        expect(entries.iter().map(|(c, r)| (c.name(), r.reserved.unwrap())).collect());
    }
    assert_eq!(at, sectors.len());
}

#[test]
fn unknown_is_never_zero() {
    let page = Page::of(&sample::server(vec![sample::bare()]));
    page.check();
    assert_eq!(page.sectors().len(), 0);
    assert!(page.all("abbr").count() > 10);
    let mut process = sample::full(ProcessKind::Worker, Some(0), 11);
    process.breakdown.as_mut().unwrap().0[0].1.resident = None;
    let page = Page::of(&sample::server(vec![process]));
    let pies = |class: &str| page.all("svg").filter(|svg| svg["class"] == class).count();
    // One pie of the server and one of the process. The resident pies lack a figure.
    assert_eq!((pies("pie view-resident"), pies("pie view-reserved")), (0, 2));
}

/// Names are escaped: the page has the same tags whatever the names contain.
#[test]
fn hostile_names() {
    let hostile = [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "'/><svg onload=alert(1)>",
        "</style></title></textarea><b>",
        "&lt;b&gt;&amp;&#0;",
        "\0\u{1b}[2J\u{7f}\r\n\u{85}",
        "\u{202e}gnp.exe\u{202c}\u{200b}\u{feff}",
        "javascript:alert(1)",
    ];
    let with = |name: &str| {
        let mut process = sample::full(ProcessKind::Worker, Some(0), 11);
        let pools = process.pools.as_mut().unwrap();
        for pool in pools.oldest.iter_mut().chain(&mut pools.largest).chain(&mut pools.cycles) {
            pool.request = Some(name.to_owned());
            pool.creator = Some(name.to_owned());
        }
        pools.oldest[0].request = None;
        pools.oldest[0].server_name = Some(name.to_owned());
        pools.by_creator[0].creator = Some(name.to_owned());
        pools.by_creator[1].creator = None;
        pools.by_creator[1].object = name.to_owned();
        process.zones.as_mut().unwrap().0[0].0 = name.to_owned();
        process.text.as_mut().unwrap().objects[0].path = name.to_owned();
        process.hooks.as_mut().unwrap().lua = HookState::Off(name.to_owned());
        process.allocator.as_mut().unwrap().version = Some(name.to_owned());
        process.notes = vec![Note::new(name.to_owned())];
        process.state = ProcessState::Unresponsive;
        let mut server = sample::server(vec![process]);
        server.shared_zones.0[0].0 = name.to_owned();
        server.shared_zones.0[0].1.newest.owner = Some(name.to_owned());
        server.shared_zones.0[0].1.newest.notes = vec![Note::new(name.to_owned())];
        server.nginx = name.to_owned();
        server.module = name.to_owned();
        server.time = name.to_owned();
        let page = Page::of(&server);
        page.check();
        let tags: Vec<_> = page.tags.iter().map(|(tag, _)| tag.clone()).collect();
        (tags, page.text)
    };
    let (expected, _) = with("harmless");
    for name in hostile {
        let (tags, text) = with(name);
        assert_eq!(tags, expected, "{name}");
        assert!(!text.contains('<'), "{name}");
    }
    let (_, text) = with("<b>\u{202e}\u{1b}&");
    assert!(text.matches("&lt;b&gt;\\u{202e}\\u{1b}&amp;").count() >= 12, "{text}");
}

#[test]
fn one_zone() {
    let mut server = sample::small();
    assert!(server.narrow("one"));
    let page = Page::of(&server);
    page.check();
    assert!(page.all("table").any(|table| table["id"] == "slots-3"));
    assert_eq!(page.sectors().len(), 0);
}

#[test]
fn one_process() {
    let mut server = sample::small();
    assert!(server.narrow_to_process(12));
    let page = Page::of(&server);
    page.check();
    let details: Vec<_> = page.all("details").collect();
    assert_eq!(details.len(), 1);
    assert!(details[0].contains_key("open"));
    assert!(!page.text.contains("Whole server"));
    assert!(page.all("a").any(|a| a["href"] == "?"));
}

/// With many processes, each has its own page.
#[test]
fn many_processes() {
    let all = (0..64).map(|i| sample::full(ProcessKind::Worker, Some(i), 11 + i as i32)).collect();
    let page = Page::of(&sample::server(all));
    page.check();
    assert_eq!(page.all("details").count(), 0);
    for pid in 11..75 {
        let own = page.tags.iter().find(|(_, a)| a.get("id") == Some(&format!("p{pid}"))).unwrap();
        assert_eq!(own.1["data-page"], format!("?pid={pid}"));
        assert!(page.all("a").any(|a| a["href"] == format!("?pid={pid}")));
    }
}

#[test]
fn any_server() {
    let mut random = Random::new(11);
    for _ in 0..300 {
        let mut processes: Vec<Process> = (0..random.below(8)).map(|_| random.process()).collect();
        for (i, process) in processes.iter_mut().enumerate() {
            process.pid = 10 + i as i32;
        }
        let mut server = sample::server(processes);
        let reported = (0..random.below(4)).map(|_| random.reported()).collect();
        server.shared_zones = merge(reported, &server.processes);
        server.nginx = random.text();
        Page::of(&server).check();
    }
}

#[test]
fn health_is_on_top() {
    let mut server = sample::small();
    let page = Page::of(&server);
    page.check();
    let ids: Vec<_> = page.all("section").filter_map(|section| section.get("id")).collect();
    assert_eq!(ids[..2], ["health", "server"]);
    for text in ["Zone one has no room", "limit_conn_zone", "zone=one:16m", "see the reasons"] {
        assert!(page.text.contains(text), "{text}\n{}", page.text);
    }
    assert!(!page.text.contains("Some figures are unknown"), "{}", page.text);
    let mut random = Random::new(12);
    for _ in 0..200 {
        server.health = random.health();
        Page::of(&server).check();
    }
}

//! The reply as an HTML page: a single document, readable without JavaScript.
//!
//! The server renders everything, including the pies. The script only fetches the page again and
//! changes the parts that differ, so there is only one renderer.
//!
//! Names of zones and servers and request lines are hostile input: `maud` escapes every inserted
//! value, and [`cells::visible`] writes invisible characters as escapes.
#![forbid(unsafe_code)]

mod cells;
mod details;
mod health;
mod lua;
mod mappings;
mod overview;
mod palette;
mod peak;
mod pie;
mod pools;
mod section;
mod zones;

use std::sync::OnceLock;

use base64::prelude::{Engine, BASE64_STANDARD};
use maud::{html, Markup, PreEscaped, DOCTYPE};
use sha2::{Digest, Sha256};

use super::units::micros;
use super::who::{groups, product, ProcessNames};
use crate::budget::Progress;
use crate::report::model::{ProcessState, Server};
use cells::{noted, visible};
use section::{split, Section, ROWS};

const STYLE: &str = concat!(include_str!("html/colours.css"), include_str!("html/page.css"));
const SCRIPT: &str = include_str!("html/page.js");

/// An icon in the address bar, so that browsers do not ask for one.
const ICON: &str =
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'\
    %3E%3Ccircle cx='8' cy='8' r='7' fill='%230072b2'/%3E%3Cpath d='M8 8V1a7 7 0 0 1 7 7z' \
    fill='%23e69f00'/%3E%3C/svg%3E";

/// The Content-Security-Policy of the page: it allows the page's own style and script, by their
/// hashes, requests to its own server, and nothing else.
pub fn content_security_policy() -> &'static str {
    static POLICY: OnceLock<String> = OnceLock::new();
    POLICY.get_or_init(|| {
        let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(STYLE),
            hash(SCRIPT)
        )
    })
}

/// The sections of the page.
const SECTIONS: [fn(&Server) -> Section; 11] = [
    |server| Section::whole(health::health(&server.health)),
    |server| Section::whole(notices(server)),
    |server| Section::whole(back(server)),
    |server| {
        section_if(is_whole(server), server, |server| Section::whole(overview::server(server)))
    },
    |server| section_if(is_of_a_process(server), server, details::processes),
    |server| section_if(!server.narrowed, server, overview::processes),
    zones::zones,
    |server| section_if(is_whole(server), server, lua::server),
    |server| {
        section_if(is_whole(server), server, |server| {
            Section::whole(pools::server(&server.processes))
        })
    },
    |server| section_if(is_whole(server), server, details::processes),
    |server| Section::whole(notes(server)),
];

/// Writes the page in pieces: the part before the sections, their rows, and the part after them.
pub(super) struct Html {
    sections: std::slice::Iter<'static, fn(&Server) -> Section>,
    section: Option<Section>,
    /// The part after the sections; `None` until the part before them has been written.
    tail: Option<String>,
}

impl Default for Html {
    fn default() -> Self {
        Html { sections: SECTIONS.iter(), section: None, tail: None }
    }
}

impl Html {
    /// Writes the next piece.
    pub(super) fn piece(&mut self, server: &Server, out: &mut Vec<u8>) -> Progress {
        let Some(tail) = &self.tail else {
            let (before, after) = split(page(server));
            out.extend(before.into_bytes());
            self.tail = Some(after);
            return Progress::More;
        };
        if let Some(section) = &mut self.section {
            if section.piece(server, out) == Progress::Done {
                self.section = None;
            }
            return Progress::More;
        }
        if let Some(section) = self.sections.next() {
            self.section = Some(section(server));
            return Progress::More;
        }
        out.extend(tail.as_bytes());
        Progress::Done
    }
}

/// The page with [`ROWS`] in the place of its sections.
fn page(server: &Server) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" data-view="resident" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { "nginx memory" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the figures" }
                (head(server))
                main #main { (ROWS) }
                (foot(server))
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

fn head(server: &Server) -> Markup {
    let worker = server.answered_by.id.map(|id| format!("worker {id}, ")).unwrap_or_default();
    html! {
        header.top {
            div.title {
                h1 { "nginx memory" }
                p #facts {
                    (visible(&product(server))) " · memstat " (visible(&server.module))
                    " · " time #time datetime=(server.time) { (visible(&server.time)) }
                    " · answered by " (worker) "pid " (server.answered_by.pid)
                    " in " (micros(server.elapsed_us))
                }
            }
            // The script fills these controls and shows them.
            div.controls #controls data-keep="" hidden {
                label for="choice" { "Show" }
                select #choice {}
                div.switch role="group" aria-label="Pies and bars show" {
                    button #resident type="button" aria-pressed="true" { "Resident" }
                    button #reserved type="button" aria-pressed="false" { "Reserved" }
                }
                button #pause type="button" aria-pressed="false" { "Pause" }
                span #status role="status" {}
            }
        }
    }
}

/// Whether the reply has all processes of the server.
fn has_all(server: &Server) -> bool {
    u64::try_from(server.processes.len()) == Ok(server.totals.processes)
}

/// Whether the reply is about one process only.
fn is_of_a_process(server: &Server) -> bool {
    !has_all(server) && !server.narrowed
}

fn is_whole(server: &Server) -> bool {
    has_all(server) && !server.narrowed
}

fn section_if(wanted: bool, server: &Server, section: fn(&Server) -> Section) -> Section {
    match wanted {
        true => section(server),
        false => Section::none(),
    }
}

fn back(server: &Server) -> Markup {
    html! {
        @if !is_whole(server) { p.back { a href="?" { "The whole server" } } }
    }
}

/// The notice above the figures.
fn notices(server: &Server) -> Markup {
    let silent = server.processes.iter().filter(|p| p.state == ProcessState::Unresponsive).count();
    html! {
        div #notices {
            @if silent > 0 {
                p.notice.bad {
                    strong { "Not responding: " (silent) (if silent == 1 { " process. " } else { " processes. " }) }
                    "The last known figures are shown; see their age."
                }
            }
        }
    }
}

fn notes(server: &Server) -> Markup {
    let names = ProcessNames::new(&server.processes);
    let notes = groups(&server.processes, |p| p.notes.clone());
    html! {
        @if !notes.is_empty() {
            section #notes aria-labelledby="notes-title" {
                h2 #notes-title { "Unknown and inexact figures" }
                ul.notes {
                    @for (note, who) in notes {
                        li { strong { (names.list(&who)) ": " } (noted(&note)) }
                    }
                }
            }
        }
    }
}

fn foot(server: &Server) -> Markup {
    let is_noted = server.processes.iter().any(|process| !process.notes.is_empty());
    html! {
        footer {
            p {
                "The same as "
                a href="?format=json" { "JSON" } ", "
                a href="?format=text" { "text" } ", "
                a href="?format=prometheus" { "Prometheus metrics" } ". "
                abbr title="unknown" { "?" } " is an unknown figure"
                @if is_noted { ": " a href="#notes" { "see the reasons" } }
                ". "
                "Unless stated otherwise, a shared page counts in each process that maps it."
            }
        }
    }
}

#[cfg(test)]
mod tests;

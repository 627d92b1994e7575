//! The reply as a page: one answer that needs nothing else, readable without JavaScript.
//!
//! Everything is written here, on the server, the pies too. The script only compares the page with a
//! newer one of the same address and changes what differs, so there is one renderer of the page.
//!
//! Names of zones and servers and request lines are hostile input: `maud` escapes all that is
//! put in, and [`cells::visible`] shows what a reader could not see.
#![forbid(unsafe_code)]

mod cells;
mod details;
mod lua;
mod overview;
mod palette;
mod pie;
mod pools;
mod zones;

use std::sync::OnceLock;

use base64::prelude::{Engine, BASE64_STANDARD};
use maud::{html, Markup, PreEscaped, DOCTYPE};
use sha2::{Digest, Sha256};

use super::units::micros;
use super::who::{groups, Names};
use crate::report::model::{Server, State};
use cells::visible;

const STYLE: &str = concat!(include_str!("html/colours.css"), include_str!("html/page.css"));
const SCRIPT: &str = include_str!("html/page.js");

/// An icon in the address bar, so that browsers do not ask for one.
const ICON: &str =
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'\
    %3E%3Ccircle cx='8' cy='8' r='7' fill='%230072b2'/%3E%3Cpath d='M8 8V1a7 7 0 0 1 7 7z' \
    fill='%23e69f00'/%3E%3C/svg%3E";

/// The policy that the page is sent with: its own style and script, by their hashes, requests to its
/// own server, and nothing else.
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

/// The page.
pub fn html(server: &Server) -> String {
    let page = html! {
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
                main #main { (content(server)) }
                (foot())
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

fn head(server: &Server) -> Markup {
    let worker = server.answered_by.id.map(|id| format!("worker {id}, ")).unwrap_or_default();
    html! {
        header.top {
            div.title {
                h1 { "nginx memory" }
                p #facts {
                    "nginx " (visible(&server.nginx)) " · memstat " (visible(&server.module))
                    " · " time #time datetime=(server.time) { (visible(&server.time)) }
                    " · answered by " (worker) "pid " (server.answered_by.pid)
                    " in " (micros(server.elapsed_us))
                }
            }
            // For the script, which shows and fills it.
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

fn content(server: &Server) -> Markup {
    let narrowed = server.narrowed;
    let all = u64::try_from(server.processes.len()) == Ok(server.totals.processes);
    html! {
        (notices(server))
        @if !all || narrowed { p.back { a href="?" { "The whole server" } } }
        @if all && !narrowed { (overview::server(server)) }
        @if !narrowed { (overview::processes(&server.processes)) }
        (zones::zones(server))
        @if !narrowed && all { (lua::server(&server.processes)) }
        @if !narrowed && all { (pools::server(&server.processes)) }
        @if !narrowed { (details::processes(server)) }
        (notes(server))
    }
}

/// What a reader must know before the figures.
fn notices(server: &Server) -> Markup {
    let silent = server.processes.iter().filter(|p| p.state == State::Unresponsive).count();
    let notes: usize = server.processes.iter().map(|p| p.notes.len()).sum();
    html! {
        div #notices {
            @if silent > 0 {
                p.notice.bad {
                    strong { "Not responding: " (silent) (if silent == 1 { " process. " } else { " processes. " }) }
                    "The figures are the last ones that are known; see their age."
                }
            }
            @if notes > 0 {
                p.notice {
                    "Some figures are not known or less than exact: "
                    a href="#notes" { "see why" } "."
                }
            }
        }
    }
}

fn notes(server: &Server) -> Markup {
    let names = Names::new(&server.processes);
    let notes = groups(&server.processes, |p| p.notes.clone());
    html! {
        @if !notes.is_empty() {
            section #notes aria-labelledby="notes-title" {
                h2 #notes-title { "What is not known" }
                ul.notes {
                    @for (note, who) in notes {
                        li { strong { (names.list(&who)) ": " } bdi { (visible(&note)) } }
                    }
                }
            }
        }
    }
}

fn foot() -> Markup {
    html! {
        footer {
            p {
                "The same as "
                a href="?format=json" { "JSON" } ", "
                a href="?format=text" { "text" } ", "
                a href="?format=prometheus" { "Prometheus metrics" } ". "
                abbr title="not known" { "?" } " is a figure that is not known. "
                "Shared pages count once a process, unless it says otherwise."
            }
        }
    }
}

#[cfg(test)]
mod tests;

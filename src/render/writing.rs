//! Writes a body piece by piece, so that a reply with many processes does not block the event loop.
#![forbid(unsafe_code)]

use super::html::Html;
use super::json::Json;
use super::prometheus::Metrics;
use super::{text, RenderError};
use crate::budget::{Budget, Progress};
use crate::format::Media;
use crate::report::fields::Fields;
use crate::report::model::Server;

/// A body that is being written. A piece of it is one process, one zone, one family of metrics, or
/// one section.
pub struct Writing {
    pieces: Pieces,
    out: Vec<u8>,
}

enum Pieces {
    Json(Json),
    Html(Html, Box<Server>),
    Text(Box<Server>, Option<Fields>),
    Metrics(Metrics, Box<Server>),
    /// All pieces are written, and their data is freed.
    Done,
}

impl Writing {
    /// Prepares the body of the reply. `fields` narrows JSON and text.
    pub fn begin(
        media: Media,
        server: Server,
        fields: Option<&Fields>,
    ) -> Result<Self, RenderError> {
        let mut out = Vec::new();
        let pieces = match media {
            Media::Json => Pieces::Json(Json::begin(server, fields, &mut out)?),
            Media::Html => Pieces::Html(Html::default(), Box::new(server)),
            Media::Text => Pieces::Text(Box::new(server), fields.cloned()),
            Media::Classic => Pieces::Metrics(Metrics::classic(), Box::new(server)),
            Media::OpenMetrics => Pieces::Metrics(Metrics::open(), Box::new(server)),
        };
        Ok(Writing { pieces, out })
    }

    /// Writes at least one piece, then more until the budget is spent.
    pub fn step(&mut self, budget: &Budget) -> Result<Progress, RenderError> {
        while self.piece()? == Progress::More {
            if budget.spent() {
                return Ok(Progress::More);
            }
        }
        self.pieces = Pieces::Done;
        Ok(Progress::Done)
    }

    /// The part of the body that has been written so far.
    pub fn body(&self) -> &[u8] {
        &self.out
    }

    /// Returns the body without copying it.
    pub fn into_body(self) -> Vec<u8> {
        self.out
    }

    fn piece(&mut self) -> Result<Progress, RenderError> {
        let out = &mut self.out;
        match &mut self.pieces {
            Pieces::Json(json) => Ok(json.piece(out)?),
            Pieces::Html(html, server) => Ok(html.piece(server, out)),
            Pieces::Text(server, fields) => {
                out.extend(text::text(server, fields.as_ref()).into_bytes());
                Ok(Progress::Done)
            }
            Pieces::Metrics(metrics, server) => Ok(metrics.piece(server, out)?),
            Pieces::Done => Ok(Progress::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::render;
    use super::*;
    use crate::report::merge::zones::merge;
    use crate::report::model::ProcessKind;
    use crate::report::sample::{self, Random};

    const ALL: [Media; 5] =
        [Media::Json, Media::Html, Media::Text, Media::Classic, Media::OpenMetrics];

    fn servers() -> Vec<Server> {
        let workers =
            |count| (0..count).map(|i| sample::full(ProcessKind::Worker, Some(i), 11 + i as i32));
        let mut narrowed = sample::small();
        assert!(narrowed.narrow("one"));
        let mut one = sample::small();
        assert!(one.narrow_to_process(11));
        let mut servers = vec![
            sample::small(),
            narrowed,
            one,
            sample::server(Vec::new()),
            sample::server(vec![sample::bare()]),
            sample::server(workers(64).collect()),
        ];
        let mut random = Random::new(5);
        servers.extend((0..100).map(|_| {
            let processes: Vec<_> = (0..random.below(30)).map(|_| random.process()).collect();
            let mut server = sample::server(processes.clone());
            let reported = (0..random.below(4)).map(|_| random.reported()).collect();
            server.shared_zones = merge(reported, &processes);
            server.health = random.health();
            server.container = (random.below(3) > 0).then(|| random.container());
            server
        }));
        servers
    }

    /// The body does not depend on the budget.
    #[test]
    fn pieces_make_the_whole() {
        let fields = Fields::parse(b"processes.pools,shared_zones,nginx").ok();
        for server in servers() {
            for media in ALL {
                for fields in [None, fields.as_ref()] {
                    let whole = render(media, &server, fields).unwrap();
                    let mut writing = Writing::begin(media, server.clone(), fields).unwrap();
                    let none = Budget::new(std::time::Duration::ZERO);
                    let mut steps = 1;
                    while writing.step(&none).unwrap() == Progress::More {
                        assert!(whole.starts_with(writing.body()));
                        steps += 1;
                    }
                    assert!(writing.body() == whole, "{media:?}");
                    if media != Media::Text && fields.is_none() {
                        assert!(steps > server.processes.len().min(10), "{media:?}");
                    }
                    // Nothing comes after the end.
                    assert_eq!(writing.step(&none).unwrap(), Progress::Done);
                    assert!(writing.body() == whole, "{media:?}");
                }
            }
        }
    }

    /// The pieces of JSON make the same body as serializing the whole model.
    #[test]
    fn json_is_the_model() {
        for (i, server) in servers().into_iter().enumerate() {
            let mut whole = serde_json::to_vec(&server).unwrap();
            whole.push(b'\n');
            assert!(render(Media::Json, &server, None).unwrap() == whole);
            let some: [&[u8]; 8] = [
                b"processes",
                b"shared_zones.size",
                b"totals,time",
                b"processes.pid,shared_zones",
                b"nginx,processes.notes",
                b"health,processes.pid",
                b"health.status,totals",
                b"container.limit,container.pressure",
            ];
            let Ok(fields) = Fields::parse(some[i % some.len()]) else { panic!() };
            let mut narrowed = serde_json::to_value(&server).unwrap();
            fields.narrow(&mut narrowed);
            let mut whole = serde_json::to_vec(&narrowed).unwrap();
            whole.push(b'\n');
            assert!(render(Media::Json, &server, Some(&fields)).unwrap() == whole);
        }
    }
}

//! Input from outside, in any form: query strings, `Accept` fields, and the bytes of snapshots.
#![forbid(unsafe_code)]

use ngx_http_memstat_module::format::Format;
use ngx_http_memstat_module::http::negotiate::choose;
use ngx_http_memstat_module::http::query::Query;
use ngx_http_memstat_module::render::render;
use ngx_http_memstat_module::report::assemble::{assemble, Facts};
use ngx_http_memstat_module::report::merge::sharing::Merged;
use ngx_http_memstat_module::report::model::{AnsweredBy, ContainerReading, Published};
use proptest::collection::vec;
use proptest::prelude::*;

/// A refusal is one short printable line.
fn refused_in_a_sentence(args: &[u8]) -> Result<(), TestCaseError> {
    if let Err(error) = Query::parse(args) {
        let line = error.to_string();
        prop_assert!(line.len() <= 600, "{line}");
        prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
    }
    Ok(())
}

/// A part of a query string, right or wrong.
fn part() -> impl Strategy<Value = String> {
    let words = "(format|fields|pid|zone|refresh|json|html|text|heap|processes|notes|totals)?";
    proptest::string::string_regex(&format!("{words}[=&.,%]?[0-9a-f]{{0,2}}"))
        .expect("a regular expression")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_query(args in vec(any::<u8>(), 0..200)) {
        refused_in_a_sentence(&args)?;
    }

    #[test]
    fn nearly_right_queries(parts in vec(part(), 0..12)) {
        refused_in_a_sentence(parts.concat().as_bytes())?;
    }

    #[test]
    fn any_accept(accept in "\\PC{0,200}", q in "(text|application|\\*)/(html|json|plain|\\*);q=[0-9.]{0,6}") {
        for accept in [&accept, &q, &format!("{q},{accept},{q}")] {
            let choice = choose(None, Format::Json, accept);
            prop_assert!(!choice.media.content_type().is_empty());
        }
    }

    #[test]
    fn any_snapshot(bytes in vec(any::<u8>(), 0..2000)) {
        let Ok(published) = postcard::from_bytes::<Published>(&bytes) else { return Ok(()) };
        let facts = Facts {
            nginx: "1.22.1".to_owned(),
            product: Ok("nginx/1.22.1".to_owned()),
            time: (0, 0),
            page_size: 4096,
            answered_by: AnsweredBy { pid: 1, id: None },
            elapsed_us: 0,
            container: ContainerReading::default(),
        };
        let mut merged = Merged::default();
        if let Some(sharing) = &published.sharing {
            merged.add(published.process.pid, published.process.generation, sharing);
        }
        let server = assemble(facts, vec![published.process], Vec::new(), &merged);
        for format in Format::ALL {
            for media in format.media() {
                prop_assert!(render(*media, &server, None).is_ok());
            }
        }
    }
}

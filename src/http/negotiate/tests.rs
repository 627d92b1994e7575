#![forbid(unsafe_code)]

use super::*;

/// The headers that these programs send. `t/format.t`, `t/page.t` and `t/prometheus.t` test the real
/// curl, Chromium and Prometheus, too.
const CURL: &str = "*/*";
const WGET: &str = "*/*";
const GO: &str = "";
const CHROME: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,\
    image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7";
const FIREFOX: &str =
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,\
    image/png,image/svg+xml,*/*;q=0.8";
const FIREFOX_132: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const SAFARI: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const FETCH: &str = "*/*";
const JQUERY: &str = "application/json, text/javascript, */*; q=0.01";
const HTTPIE_JSON: &str = "application/json, */*;q=0.5";
const PROMETHEUS_1: &str = "application/vnd.google.protobuf;\
    proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3,\
    */*;q=0.1";
const PROMETHEUS_2_5: &str =
    "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
const PROMETHEUS_2_42: &str = "application/openmetrics-text;version=1.0.0,\
    application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
    application/openmetrics-text;version=0.0.1;q=0.5,\
    text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
const PROMETHEUS_3_NATIVE: &str = "application/vnd.google.protobuf;\
    proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
    application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
    application/openmetrics-text;version=0.0.1;q=0.4,\
    text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
const PROMETHEUS_3_CLASSIC: &str = "text/plain;version=0.0.4;q=0.6,*/*;q=0.5";
const VMAGENT: &str = "text/plain;version=0.0.4;q=1,*/*;q=0.1";

fn get(asked: Option<Format>, default: Format, accept: &str) -> Media {
    choose(asked, default, accept).media
}

#[test]
fn as_really_sent() {
    let table = [
        ("curl", CURL, Media::Json),
        ("wget", WGET, Media::Json),
        ("Go", GO, Media::Json),
        ("fetch()", FETCH, Media::Json),
        ("jQuery", JQUERY, Media::Json),
        ("HTTPie", HTTPIE_JSON, Media::Json),
        ("Chrome", CHROME, Media::Html),
        ("Firefox", FIREFOX, Media::Html),
        ("Firefox 132", FIREFOX_132, Media::Html),
        ("Safari", SAFARI, Media::Html),
        ("Prometheus 1", PROMETHEUS_1, Media::Classic),
        // It asks for a draft of OpenMetrics.
        ("Prometheus 2.5", PROMETHEUS_2_5, Media::Classic),
        ("Prometheus 2.42", PROMETHEUS_2_42, Media::OpenMetrics),
        ("Prometheus 3", PROMETHEUS_3, Media::OpenMetrics),
        ("Prometheus 3, native histograms", PROMETHEUS_3_NATIVE, Media::OpenMetrics),
        ("Prometheus 3, PrometheusText0.0.4", PROMETHEUS_3_CLASSIC, Media::Classic),
        ("vmagent", VMAGENT, Media::Classic),
    ];
    for (who, accept, expected) in table {
        let choice = choose(None, Format::Json, accept);
        assert_eq!(choice, Choice { media: expected, by_accept: true }, "{who}");
        // Only requests that leave the choice open get the location's default.
        let open = [CURL, GO].contains(&accept);
        for (default, media) in [
            (Format::Html, Media::Html),
            (Format::Prometheus, Media::Classic),
            (Format::Text, Media::Text),
        ] {
            let expected = if open { media } else { expected };
            assert_eq!(get(None, default, accept), expected, "{who} {default:?}");
        }
    }
}

#[test]
fn format_wins() {
    for accept in [CURL, GO, CHROME, PROMETHEUS_2_42, "image/png"] {
        for (asked, media) in
            [(Format::Json, Media::Json), (Format::Html, Media::Html), (Format::Text, Media::Text)]
        {
            let choice = choose(Some(asked), Format::Prometheus, accept);
            assert_eq!(choice, Choice { media, by_accept: false }, "{asked:?} {accept}");
        }
    }
    // Prometheus has two formats of its own.
    let table = [
        (CURL, Media::Classic),
        (GO, Media::Classic),
        (CHROME, Media::Classic),
        ("image/png", Media::Classic),
        (PROMETHEUS_1, Media::Classic),
        (PROMETHEUS_2_42, Media::OpenMetrics),
        (PROMETHEUS_3, Media::OpenMetrics),
        (PROMETHEUS_3_CLASSIC, Media::Classic),
        (VMAGENT, Media::Classic),
    ];
    for (accept, media) in table {
        let choice = choose(Some(Format::Prometheus), Format::Json, accept);
        assert_eq!(choice, Choice { media, by_accept: true }, "{accept}");
    }
}

#[test]
fn by_the_book() {
    let table = [
        ("text/plain", Media::Text),
        ("text/plain; charset=utf-8", Media::Text),
        ("TEXT/HTML", Media::Html),
        ("application/json", Media::Json),
        ("text/plain;version=0.0.4", Media::Classic),
        ("text/plain;version=\"0.0.4\"", Media::Classic),
        ("application/openmetrics-text", Media::OpenMetrics),
        ("text/*", Media::Html),
        ("application/*", Media::Json),
        ("text/html;q=0.5, application/json;q=0.4", Media::Html),
        ("text/html;q=0.4, application/json;q=0.5", Media::Json),
        ("text/html;q=0.001, application/json;q=0.002", Media::Json),
        ("application/json;q=0, */*", Media::Html),
        ("text/*;q=0.3, text/html;q=0.1, text/plain;q=0.2", Media::Text),
        ("text/html , application/json;q=0.1", Media::Html),
        ("text/html\t;\tq=0.2,application/json ; q=0.1", Media::Html),
        // Only other types, and values that cannot be parsed, give the default.
        ("image/png", Media::Json),
        ("text/html+xml", Media::Json),
        ("*/json", Media::Json),
        ("text/html;q=2, text/plain", Media::Text),
        ("text/html;q=x, text/plain", Media::Text),
        ("text/html;q=NaN, text/plain", Media::Text),
        ("*/*;q=0", Media::Json),
        (", ,text/html,", Media::Html),
        ("text", Media::Json),
        (";,\"", Media::Json),
    ];
    for (accept, expected) in table {
        assert_eq!(get(None, Format::Json, accept), expected, "{accept}");
    }
}

#[test]
fn any_text() {
    let mut random = crate::report::sample::Random::new(8);
    let words = ["text/html", "*/*", ";", ",", "q=0.5", "\"", "\\", " ", "=", "ä", "text/plain;v"];
    for _ in 0..20_000 {
        let parts = (0..random.below(12)).map(|_| words[random.below(11) as usize]);
        choose(None, Format::Json, &parts.collect::<String>());
    }
}

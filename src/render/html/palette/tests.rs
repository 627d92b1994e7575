#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::{class, APPLICATION, SYSTEM};
use crate::report::model::Category;

const COLOURS: &str = include_str!("../colours.css");

type Rgb = [f64; 3];

/// The colours of the light and of the dark page, in linear RGB.
fn variables() -> [BTreeMap<String, Rgb>; 2] {
    let (light, dark) = COLOURS.split_once("@media").unwrap();
    [light, dark].map(|part| {
        let variables =
            part.lines().filter_map(|line| line.trim().strip_prefix("--")?.split_once(": "));
        variables
            .filter_map(|(name, value)| Some((name.to_owned(), rgb(value.strip_suffix(';')?)?)))
            .collect()
    })
}

fn rgb(hex: &str) -> Option<Rgb> {
    let hex = hex.strip_prefix('#').filter(|hex| hex.len() == 6)?;
    let part = |at: usize| Some(u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()? as f64 / 255.0);
    let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
    Some([linear(part(0)?), linear(part(2)?), linear(part(4)?)])
}

/// The contrast ratio of WCAG 2.
fn contrast(a: Rgb, b: Rgb) -> f64 {
    let luminance = |[r, g, b]: Rgb| 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    let (a, b) = (luminance(a), luminance(b));
    a.max(b) / a.min(b)
}

/// Matrices that simulate dichromacy (Machado, Oliveira and Fernandes 2009, severity 1).
const SIGHT: [(&str, [[f64; 3]; 3]); 4] = [
    ("normal", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    (
        "protanopia",
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    ),
    (
        "deuteranopia",
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    ),
    (
        "tritanopia",
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ),
];

/// The CIELAB coordinates of a colour as it is seen.
fn lab(colour: Rgb, sight: [[f64; 3]; 3]) -> Rgb {
    let [r, g, b] =
        sight.map(|row| row.iter().zip(colour).map(|(a, b)| a * b).sum::<f64>().clamp(0.0, 1.0));
    let f = |t: f64| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 };
    let x = f((0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047);
    let y = f(0.2126 * r + 0.7152 * g + 0.0722 * b);
    let z = f((0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883);
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// Any two colours of a pie differ by far more than the just noticeable difference (about 2.3).
#[test]
fn colours_differ_for_everybody() {
    for variables in variables() {
        for pie in [APPLICATION, SYSTEM] {
            for (sight, matrix) in SIGHT {
                for (i, a) in pie.iter().enumerate() {
                    for b in &pie[..i] {
                        let [a_lab, b_lab] = [a, b].map(|name| lab(variables[*name], matrix));
                        let squares = a_lab.iter().zip(b_lab).map(|(a, b)| (a - b).powi(2));
                        let distance = squares.sum::<f64>().sqrt();
                        assert!(distance > 18.0, "{a} and {b}, {sight}: {distance:.1}");
                    }
                }
            }
        }
    }
}

#[test]
fn text_is_legible() {
    for variables in variables() {
        for ink in ["ink", "soft", "link", "good", "warn", "bad"] {
            for paper in ["page", "card"] {
                let contrast = contrast(variables[ink], variables[paper]);
                assert!(contrast >= 4.5, "{ink} on {paper}: {contrast:.2}");
            }
        }
        for (ink, paper) in
            [("ink", "notice"), ("link", "notice"), ("ink", "alarm"), ("card", "ink")]
        {
            let contrast = contrast(variables[ink], variables[paper]);
            assert!(contrast >= 4.5, "{ink} on {paper}: {contrast:.2}");
        }
        // WCAG requires 3 for anything that is not text.
        for (mark, paper) in
            [("focus", "page"), ("focus", "card"), ("used", "card"), ("full", "card")]
        {
            let contrast = contrast(variables[mark], variables[paper]);
            assert!(contrast >= 3.0, "{mark} on {paper}: {contrast:.2}");
        }
    }
}

/// Every category has a colour, and no two classes have the same one.
#[test]
fn one_colour_for_one_thing() {
    for category in Category::ALL {
        assert!(APPLICATION.contains(&class(category)), "{category:?}");
    }
    for variables in variables() {
        let all: Vec<_> = APPLICATION.iter().chain(SYSTEM).collect();
        for (i, a) in all.iter().enumerate() {
            assert!(COLOURS.contains(&format!(".{a} {{ fill: var(--{a}); }}")), "{a}");
            assert!(all[..i].iter().all(|b| variables[**a] != variables[**b]), "{a}");
        }
    }
}

//! Formats figures for people.
#![forbid(unsafe_code)]

/// The text for an unknown figure.
pub(crate) const UNKNOWN: &str = "?";

/// A figure, or [`UNKNOWN`].
pub(crate) fn known<T>(figure: Option<T>, show: impl FnOnce(T) -> String) -> String {
    figure.map_or_else(|| UNKNOWN.to_owned(), show)
}

/// A plain number.
pub(crate) fn count(number: u64) -> String {
    number.to_string()
}

/// Bytes in binary units with three digits, such as `9.53 MiB`: eight characters at most.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    match bytes {
        0 => return "0".to_owned(),
        1..=1023 => return format!("{bytes} B"),
        _ => {}
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    // A value that would be rounded to 1024 of a unit is written as 1 of the next one.
    while value >= 1023.5 {
        match units.next() {
            Some(next) => unit = Some(next),
            None => break,
        }
        value /= 1024.0;
    }
    format!("{} {}", three_digits(value), unit.unwrap_or(&""))
}

/// A share of a whole in percent: four characters at most, and nothing for 0.
pub(crate) fn share(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return String::new();
    }
    let percent = (part as f64 * 100.0 / whole as f64).round();
    match percent {
        p if p < 1.0 => "<1%".to_owned(),
        p if p > 999.0 => ">>>%".to_owned(),
        p => format!("{p:.0}%"),
    }
}

/// A short time in microseconds, such as `1.83 ms`.
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..=999 => format!("{us} us"),
        1_000..=999_499 => format!("{} ms", three_digits(us as f64 / 1e3)),
        _ => millis(us / 1_000),
    }
}

/// A time in milliseconds, such as `12.3 s`.
pub(crate) fn millis(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1_000..=59_949 => format!("{} s", three_digits(ms as f64 / 1e3)),
        _ => seconds(ms / 1_000),
    }
}

/// A long time in seconds, its two largest units, such as `5h 03m`.
pub(crate) fn seconds(s: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match s {
        0..MINUTE => format!("{s}s"),
        MINUTE..HOUR => format!("{}m {:02}s", s / MINUTE, s % MINUTE),
        HOUR..DAY => format!("{}h {:02}m", s / HOUR, s % HOUR / MINUTE),
        _ => format!("{}d {:02}h", s / DAY, s % DAY / HOUR),
    }
}

/// A value with three digits, or with more if it is 1000 or larger.
fn three_digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let table = [
            (0, "0"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_234, "9.99 KiB"),
            (10_239, "10.0 KiB"),
            (102_348, "99.9 KiB"),
            (102_399, "100 KiB"),
            (1_048_063, "1023 KiB"),
            (1_048_064, "1.00 MiB"),
            (9_990_000, "9.53 MiB"),
            (1 << 30, "1.00 GiB"),
            (3 << 40, "3.00 TiB"),
            (1 << 50, "1.00 PiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, expected) in table {
            assert_eq!(size(bytes), expected);
        }
        for bit in 0..64 {
            for bytes in [1u64 << bit, (1u64 << bit) - 1, (1u64 << bit) / 3 * 2] {
                assert!(size(bytes).len() <= 8, "{}", size(bytes));
            }
        }
    }

    #[test]
    fn shares() {
        assert_eq!(share(0, 0), "");
        assert_eq!(share(1, 0), "");
        assert_eq!(share(0, 7), "");
        assert_eq!(share(1, 1_000), "<1%");
        assert_eq!(share(1, 3), "33%");
        assert_eq!(share(7, 7), "100%");
        assert_eq!(share(u64::MAX, 1), ">>>%");
    }

    #[test]
    fn times() {
        let table = [(0, "0 us"), (999, "999 us"), (1830, "1.83 ms"), (999_499, "999 ms")];
        for (us, expected) in table {
            assert_eq!(micros(us), expected);
        }
        assert_eq!(micros(1_234_567), "1.23 s");
        let table = [(0, "0 ms"), (999, "999 ms"), (12_345, "12.3 s"), (59_949, "59.9 s")];
        for (ms, expected) in table {
            assert_eq!(millis(ms), expected);
        }
        assert_eq!(millis(60_000), "1m 00s");
        let table = [(59, "59s"), (61, "1m 01s"), (3_725, "1h 02m"), (88_000, "1d 00h")];
        for (s, expected) in table {
            assert_eq!(seconds(s), expected);
        }
        assert_eq!(seconds(u64::MAX), "213503982334601d 07h");
    }
}

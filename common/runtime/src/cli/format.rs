//! Sizes, times and foreign text as people read them.

use std::time::Duration;

/// How long ago something was: `now`, `12s ago`, `3m ago`, `5h ago`, `2d ago`.
#[must_use]
pub fn age(since: Duration) -> String {
    if since.as_secs() == 0 { "now".to_owned() } else { format!("{} ago", whole_unit(since.as_secs())) }
}

/// A duration with two units at most: `850ms`, `12s`, `3m 5s`, `5h 2m`, `2d 4h`.
#[must_use]
pub fn duration(span: Duration) -> String {
    let secs = span.as_secs();
    if secs == 0 {
        return match (span.as_millis(), span.as_micros()) {
            (0, 0) => "0s".to_owned(),
            (0, micros) => format!("{micros}us"),
            (millis, _) => format!("{millis}ms"),
        };
    }
    let (_, unit_secs) = unit_of(secs);
    let rest = secs % unit_secs;
    let (_, rest_secs) = unit_of(rest.max(1));
    // The second unit is the one right below the first, or none: "2d 4s" claims an exactness nobody needs.
    if rest == 0 || rest_secs.saturating_mul(60) < unit_secs {
        whole_unit(secs)
    } else {
        format!("{} {}", whole_unit(secs), whole_unit(rest))
    }
}

/// A size in binary units with one decimal: `512 B`, `1.2 GiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut shown = format!("{count} B");
    let mut unit_bytes: u64 = 1;
    for unit in UNITS {
        unit_bytes = unit_bytes.saturating_mul(1024);
        if count < unit_bytes {
            break;
        }
        let whole = count / unit_bytes;
        // Cut, not rounded, so that 1023.99 MiB is not shown as 1024.0 MiB. The remainder is below 2^60.
        let tenth = (count % unit_bytes).saturating_mul(10) / unit_bytes;
        shown = format!("{whole}.{tenth} {unit}");
    }
    shown
}

/// `text` with every control character replaced, so that a foreign name cannot steer the terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_steering(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Whether a character moves the cursor, colours, or turns the direction of what follows.
fn is_steering(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Letter and seconds of the largest unit that fits.
const fn unit_of(secs: u64) -> (&'static str, u64) {
    match secs {
        0..60 => ("s", 1),
        60..3600 => ("m", 60),
        3600..86_400 => ("h", 3600),
        _ => ("d", 86_400),
    }
}

/// `secs` in whole numbers of its largest unit.
fn whole_unit(secs: u64) -> String {
    let (letter, unit_secs) = unit_of(secs);
    format!("{}{letter}", secs / unit_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let shown = |secs| age(Duration::from_secs(secs));
        assert_eq!(shown(0), "now");
        assert_eq!(shown(59), "59s ago");
        assert_eq!(shown(200), "3m ago");
        assert_eq!(shown(7200), "2h ago");
        assert_eq!(shown(200_000), "2d ago");
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let shown = |millis| duration(Duration::from_millis(millis));
        assert_eq!(shown(0), "0s");
        assert_eq!(shown(850), "850ms");
        assert_eq!(shown(12_300), "12s");
        assert_eq!(shown(185_000), "3m 5s");
        assert_eq!(shown(180_000), "3m");
        assert_eq!(shown(18_120_000), "5h 2m");
        assert_eq!(shown(187_200_000), "2d 4h");
        assert_eq!(shown(172_804_000), "2d");
        assert_eq!(duration(Duration::from_micros(42)), "42us");
    }

    #[test]
    fn sizes_change_unit_at_1024() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1_288_490_188), "1.1 GiB");
        assert_eq!(bytes(u64::MAX), "15.9 EiB");
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\nc\u{202e}d"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}d");
        assert_eq!(printable("größe"), "größe");
    }
}

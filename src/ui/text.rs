//! Text for people: untrusted text made harmless, and durations and times in words.

use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Whether a character may reorder or hide the text around it. This includes control characters.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Untrusted text on one line; line ends and tabs become blanks.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c }).filter(|c| !is_unsafe(*c)).collect()
}

/// Untrusted text with its line ends.
pub(super) fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// `340 ms`, `12.4 s`, `3 min 4 s`, `2 h 1 min`.
pub(super) fn duration(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{}.{} s", millis / 1_000, millis / 100 % 10),
        60_000..3_600_000 => format!("{} min {} s", millis / 60_000, millis / 1_000 % 60),
        _ => format!("{} h {} min", millis / 3_600_000, millis / 60_000 % 60),
    }
}

/// `3 min ago`, `in 2 h`. The script updates these texts by the same rules.
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    let secs = now.duration_since(at).as_secs();
    let ago = secs.unsigned_abs();
    let span = match ago {
        0..5 => return "just now".to_owned(),
        5..60 => format!("{ago} s"),
        60..3_600 => format!("{} min", ago / 60),
        3_600..172_800 => format!("{} h", ago / 3_600),
        _ => format!("{} days", ago / 86_400),
    };
    if secs < 0 { format!("in {span}") } else { format!("{span} ago") }
}

/// The exact time with its zone, and with the date unless it is today.
pub(super) fn exact(at: Timestamp, now: Timestamp) -> String {
    let day = |moment: Timestamp| moment.strftime("%F").to_string();
    let form = if day(at) == day(now) { "%H:%M:%S UTC" } else { "%Y-%m-%d %H:%M:%S UTC" };
    at.strftime(form).to_string()
}

/// Escapes a value for a query.
pub(super) fn query_value(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_cannot_reorder_the_page() {
        assert_eq!(plain("a\u{1b}[2Jb\u{202e}c\r\nd\u{9b}e"), "a[2Jbc  de");
        assert_eq!(plain_lines("one\u{7}\n\ttwo"), "one\n two");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!([340, 12_400, 184_000, 7_260_000].map(duration), ["340 ms", "12.4 s", "3 min 4 s", "2 h 1 min"]);
    }

    #[test]
    fn moments_are_exact_and_relative() {
        let at: Timestamp = "2026-11-23T09:15:00Z".parse().unwrap();
        let later = |text: &str| text.parse::<Timestamp>().unwrap();
        for (now, shown, told) in [
            ("2026-11-23T09:15:02Z", "09:15:00 UTC", "just now"),
            ("2026-11-23T09:18:59Z", "09:15:00 UTC", "3 min ago"),
            ("2026-11-24T09:14:00Z", "2026-11-23 09:15:00 UTC", "23 h ago"),
            ("2026-11-23T07:15:00Z", "09:15:00 UTC", "in 2 h"),
        ] {
            assert_eq!((exact(at, later(now)).as_str(), relative(at, later(now)).as_str()), (shown, told));
        }
    }
}

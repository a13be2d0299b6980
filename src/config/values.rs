//! Time spans and sizes, and checks that several keys share.
//!
//! The error of each check contains the problem and the allowed values; the caller adds file and key.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use jiff::fmt::friendly::SpanParser;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

use crate::kind::HasKind;

/// The longest time that any key accepts. A longer one is probably a typo in the unit of time.
const LONGEST: Duration = Duration::from_hours(24);

/// The units of a size, in bytes. Only binary units, because "10 GB" is ambiguous.
const SIZE_UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// A time span such as `10m`, `1m30s`, `500ms`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let notation = Notation { expected: "a time span with units, for example \"10m\" or \"1m30s\"", read: span };
        deserializer.deserialize_str(notation).map(Self)
    }
}

/// A time span, or "0s" for none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delay(pub(super) Duration);

impl<'de> Deserialize<'de> for Delay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let notation = Notation { expected: "a time span with units, for example \"10s\", or \"0s\"", read: delay };
        deserializer.deserialize_str(notation).map(Self)
    }
}

/// A number of bytes such as `512 MiB`, `10GiB`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let notation = Notation { expected: "a size with its unit, for example \"10GiB\"", read: size };
        deserializer.deserialize_str(notation).map(Self)
    }
}

/// The problem of a value, as the rest of a sentence that starts with its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct InvalidValue {
    problem: String,
}

impl HasKind for InvalidValue {
    fn kind(&self) -> &'static str {
        "invalid_value"
    }
}

impl From<String> for InvalidValue {
    fn from(problem: String) -> Self {
        Self { problem }
    }
}

/// Deserializes text by `read`. A value of another type is an error with the expected notation.
struct Notation<T> {
    expected: &'static str,
    read: fn(&str) -> Result<T, InvalidValue>,
}

impl<T> Visitor<'_> for Notation<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).map_err(E::custom)
    }
}

/// Reads a time span as in files and flags: `10m`, `1m30s`, `500ms`; up to a day.
pub(crate) fn span(text: &str) -> Result<Duration, InvalidValue> {
    let span = with_units(text)?;
    if span.is_zero() || span > LONGEST {
        return Err(format!("{text:?} is out of range; allowed is more than 0, up to 24h").into());
    }
    Ok(span)
}

/// Reads a time span that may be zero.
fn delay(text: &str) -> Result<Duration, InvalidValue> {
    let delay = with_units(text)?;
    if delay > LONGEST {
        return Err(format!("{text:?} is out of range; allowed is 0s to 24h").into());
    }
    Ok(delay)
}

fn with_units(text: &str) -> Result<Duration, InvalidValue> {
    // The parser also accepts clock notation such as 1:30:00, which is easily misread.
    let parsed = if text.contains(':') { None } else { SpanParser::new().parse_unsigned_duration(text).ok() };
    let wrong = || format!("{text:?} is not a time span; write it with units, for example \"10m\" or \"1m30s\"");
    parsed.ok_or_else(|| wrong().into())
}

fn size(text: &str) -> Result<u64, InvalidValue> {
    let parsed = SIZE_UNITS.iter().find_map(|(unit, bytes)| {
        let number = text.strip_suffix(unit)?.trim_end();
        number.parse::<u64>().ok()?.checked_mul(*bytes)
    });
    let wrong =
        || format!("{text:?} is not a size; write a whole number with KiB, MiB, GiB or TiB, for example \"10GiB\"");
    parsed.filter(|bytes| *bytes > 0).ok_or_else(|| wrong().into())
}

/// An absolute path, without `.`, `..`, a NUL, and trailing or double slashes.
pub(super) fn absolute(text: &str) -> Result<PathBuf, InvalidValue> {
    let path = Path::new(text);
    if !path.is_absolute() || text.contains('\0') {
        return Err(format!("{text:?} is not an absolute path; start it with /").into());
    }
    if text.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(format!("{text:?} contains . or ..; write the path without them").into());
    }
    Ok(path.components().collect())
}

/// A path below the release directory, of plain names only.
pub(super) fn relative(text: &str) -> Result<PathBuf, InvalidValue> {
    let path = Path::new(text);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    // `components` drops "." except at the start, so "a/./b" needs this check.
    if text.is_empty() || !plain || text.contains('\0') || text.split('/').any(|part| part == ".") {
        return Err(format!(
            "{text:?} is not a path within the release; write it without a leading / and without . or .."
        )
        .into());
    }
    Ok(path.components().collect())
}

/// Text that is not empty and has no control characters.
pub(super) fn line(text: &str) -> Result<String, InvalidValue> {
    if text.is_empty() {
        return Err("is empty; remove the key to use its default".to_owned().into());
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} contains a control character").into());
    }
    Ok(text.to_owned())
}

/// An http or https URL, without a trailing `/`.
pub(super) fn web_url(text: &str) -> Result<String, InvalidValue> {
    let wrong = |why: &str| format!("{text:?} {why}; write it as \"https://host\" or \"http://host:port\"");
    let url = url::Url::parse(text).map_err(|e| wrong(&format!("is not a URL ({e})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("is not an http URL").into());
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        // The URL is not shown, because the part before the @ may be a secret.
        return Err("contains a query, a fragment or a user name; write only scheme, host, port and path"
            .to_owned()
            .into());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// The URL of an artifact store: `s3://bucket/prefix` or `dir:///path`.
pub(super) fn store_url(text: &str) -> Result<String, InvalidValue> {
    let wrong = |why: &str| format!("{text:?} {why}; write s3://<bucket>/<prefix> or dir:///<path>");
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    if let Some(rest) = text.strip_prefix("s3://") {
        let bucket = rest.split('/').next().unwrap_or_default();
        if bucket.is_empty() {
            return Err(wrong("has no bucket").into());
        }
        if !plain(rest) {
            return Err(wrong("contains a character outside A-Z a-z 0-9 . _ - /").into());
        }
        return Ok(text.trim_end_matches('/').to_owned());
    }
    if let Some(path) = text.strip_prefix("dir://") {
        return absolute(path)
            .map(|path| format!("dir://{}", path.display()))
            .map_err(|_| wrong("is not an absolute path").into());
    }
    Err(wrong("is not a store").into())
}

/// A prefix in Consul's KV store, without a leading `/` and with a trailing one.
pub(super) fn kv_prefix(text: &str) -> Result<String, InvalidValue> {
    let trimmed = text.trim_matches('/');
    let plain = trimmed.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    if trimmed.is_empty() || !plain || trimmed.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(
            format!("{text:?} is not a key prefix; write names of A-Z a-z 0-9 . _ - with / between them").into()
        );
    }
    Ok(format!("{trimmed}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_have_units_and_are_at_most_a_day() {
        for (text, millis) in
            [("10m", 600_000), ("1m30s", 90_000), ("1m 30s", 90_000), ("500ms", 500), ("24h", 86_400_000)]
        {
            assert_eq!(span(text).map(|d| d.as_millis()), Ok(millis), "{text}");
        }
        for text in ["", "10", "-5m", "5m ago", "1:30:00", "0s", "25h", "1 month", "10 parsecs", "P1D"] {
            assert!(span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_whole_numbers_of_binary_units() {
        for (text, bytes) in [("1KiB", 1024), ("10 GiB", 10 << 30), ("2TiB", 2 << 40)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "10", "10GB", "1.5GiB", "-1GiB", "0MiB", "99999999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_below_a_release_are_plain_names() {
        for (text, path) in [("log", "log"), ("a/b/", "a/b"), ("a//b", "a/b"), (".env", ".env")] {
            assert_eq!(relative(text), Ok(PathBuf::from(path)), "{text}");
        }
        for text in ["", ".", "..", "/log", "./log", "a/../b", "a/./b", "a/..", "a\0b"] {
            assert!(relative(text).is_err(), "{text}");
        }
    }
}

//! Fields of forms and queries that may be left empty.

use super::error::Problem;

/// What [`ticked`] accepts.
pub(super) const TICKS: [&str; 2] = ["on", ""];

/// Whether a checkbox is set.
///
/// # Errors
///
/// 400 for anything but `on` and nothing.
pub(super) fn ticked(name: &str, value: &str) -> Result<bool, Problem> {
    match value {
        "on" => Ok(true),
        "" => Ok(false),
        other => {
            Err(Problem::usage(format!("{name}: must be \"on\" or empty, not {other:?}"), "write on, or leave it out"))
        }
    }
}

/// A value that may be left empty.
///
/// # Errors
///
/// 400 for an invalid value.
pub(super) fn optional<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
    value: &str,
) -> Result<Option<T>, Problem> {
    let value = value.trim();
    if value.is_empty() {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|error| Problem::usage(format!("{name}: {error}"), "correct it, or leave it out"))
}

//! The filters of the templates. They run before the templates escape a value.

use std::fmt::Display;

use askama::Values;

use super::text;

/// Untrusted text made safe, on one line.
#[askama::filter_fn]
pub(super) fn plain(value: impl Display, _: &dyn Values) -> askama::Result<String> {
    Ok(text::plain(&value.to_string()))
}

/// Untrusted text made safe, with its line ends.
#[askama::filter_fn]
pub(super) fn lines(value: impl Display, _: &dyn Values) -> askama::Result<String> {
    Ok(text::plain_lines(&value.to_string()))
}

/// A size in bytes, with a unit.
#[askama::filter_fn]
pub(super) fn bytes(value: &u64, _: &dyn Values) -> askama::Result<String> {
    Ok(crate::document::bytes(*value))
}

/// A duration in milliseconds, with a unit.
#[askama::filter_fn]
pub(super) fn span(value: &u64, _: &dyn Values) -> askama::Result<String> {
    Ok(text::duration(*value))
}

#[askama::filter_fn]
pub(super) fn query(value: impl Display, _: &dyn Values) -> askama::Result<String> {
    Ok(text::query_value(&value.to_string()))
}

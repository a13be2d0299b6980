//! The filters of the templates, in addition to escaping.

use std::fmt::Display;

use askama::Values;

use super::text;

/// Untrusted text, on one line.
#[askama::filter_fn]
pub(super) fn plain(value: impl Display, _: &dyn Values) -> askama::Result<String> {
    Ok(text::plain(&value.to_string()))
}

/// Untrusted text, with its line ends.
#[askama::filter_fn]
pub(super) fn lines(value: impl Display, _: &dyn Values) -> askama::Result<String> {
    Ok(text::plain_lines(&value.to_string()))
}

/// A size in bytes, as people say it.
#[askama::filter_fn]
pub(super) fn bytes(value: &u64, _: &dyn Values) -> askama::Result<String> {
    Ok(crate::document::bytes(*value))
}

/// A span of milliseconds, as people say it.
#[askama::filter_fn]
pub(super) fn span(value: &u64, _: &dyn Values) -> askama::Result<String> {
    Ok(text::duration(*value))
}

#[askama::filter_fn]
pub(super) fn query(value: impl Display, _: &dyn Values) -> askama::Result<String> {
    Ok(text::query_value(&value.to_string()))
}

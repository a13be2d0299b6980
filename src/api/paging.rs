//! Paging of lists: `limit` entries that follow the entry `before`.
//!
//! Documents contain no links, because they are the same as those of the command line. The `Link` header names the next
//! page.

use axum::Json;
use axum::http::header::LINK;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Serialize;
use url::form_urlencoded;

use super::describe::{Operation, Reply, header};
use super::error::Problem;

/// The most entries of a page.
pub(super) const MOST_ENTRIES: usize = 1000;

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) entries: Vec<T>,
    /// The value of `before` for the next page; none on the last page.
    pub(super) next: Option<String>,
}

/// Checks `limit`.
///
/// # Errors
///
/// 0, or more than [`MOST_ENTRIES`].
pub(super) fn limit(asked: Option<usize>, default: usize) -> Result<usize, Problem> {
    match asked {
        None => Ok(default),
        Some(limit) if (1..=MOST_ENTRIES).contains(&limit) => Ok(limit),
        Some(limit) => Err(Problem::usage(
            format!("limit: must be 1 to {MOST_ENTRIES}, not {limit}"),
            "leave it out for the default",
        )),
    }
}

impl<T> Page<T> {
    /// The first `limit` entries; `name` makes the value of `before` from an entry.
    pub(super) fn cut(mut entries: Vec<T>, limit: usize, name: impl Fn(&T) -> String) -> Self {
        let is_last = entries.len() <= limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| !is_last).map(name);
        Self { entries, next }
    }
}

/// A document, with a `Link` to the next page.
#[derive(Debug)]
pub(super) struct Paged<T> {
    document: T,
    link: Option<HeaderValue>,
}

impl<T> Paged<T> {
    /// The answer to `uri`; `next` is the value of `before` for the next page.
    pub(super) fn new(document: T, uri: &Uri, next: Option<&str>) -> Self {
        Self { document, link: next.and_then(|next| HeaderValue::from_str(&link(uri, next)).ok()) }
    }
}

impl<T: Serialize> IntoResponse for Paged<T> {
    fn into_response(self) -> Response {
        (self.link.map(|link| [(LINK, link)]), Json(self.document)).into_response()
    }
}

impl<T: Serialize + JsonSchema> Reply for Paged<T> {
    fn describe(operation: &mut Operation<'_>) {
        let response = operation.document::<T>(StatusCode::OK);
        header(response, "Link", "The next page, rel=\"next\"; none on the last.");
    }
}

fn link(uri: &Uri, next: &str) -> String {
    let kept = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).filter(|(name, _)| name != "before");
    let kept = kept.map(|(name, value)| (name.into_owned(), value.into_owned()));
    let all = kept.chain([("before".to_owned(), next.to_owned())]);
    let query: Vec<String> = all.map(|(name, value)| format!("{name}={}", escape(&value))).collect();
    let query = query.join("&");
    format!("<{}?{query}>; rel=\"next\"", uri.path())
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

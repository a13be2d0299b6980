//! Small parts that many pages have. Each is a template of its own, so that it escapes what it is given wherever it stands.

use askama::Template;
use askama::filters::HtmlSafe;
use jiff::Timestamp;

use super::filters;
use super::text;
use super::tone::Tone;
use crate::document::moment;
use crate::protocol::record::{Identity, Means, Summary};

/// A state: word, shape and colour.
#[derive(Clone, Copy, Debug, Template)]
#[template(
    ext = "html",
    source = r#"<span class="badge {{ tone.class() }}"><span aria-hidden="true">{{ tone.shape() }}</span> {{ word|plain }}</span>"#
)]
pub(super) struct Badge<'a> {
    word: &'a str,
    tone: Tone,
}

impl HtmlSafe for Badge<'_> {}

impl<'a> From<(&'a str, Tone)> for Badge<'a> {
    fn from((word, tone): (&'a str, Tone)) -> Self {
        Self { word, tone }
    }
}

/// A moment: exact with its zone, and relative.
#[derive(Clone, Debug, Template)]
#[template(
    ext = "html",
    source = r#"<span class="when"><time datetime="{{ machine }}">{{ exact }}</time> <span class="ago" data-at="{{ machine }}">{{ relative }}</span></span>"#
)]
pub(super) struct When {
    machine: String,
    exact: String,
    relative: String,
}

impl HtmlSafe for When {}

impl When {
    pub(super) fn new(at: Timestamp, now: Timestamp) -> Self {
        Self { machine: moment(at), exact: text::exact(at, now), relative: text::relative(at, now) }
    }
}

/// What a commit says, below its name; nothing where nothing is known of it.
#[derive(Clone, Copy, Debug, Template)]
#[template(
    ext = "html",
    source = r#"{% if !summary.is_empty() %}<span class="remark"><bdi>{{ summary.to_string()|plain }}</bdi></span>{% endif %}"#
)]
pub(super) struct Says<'a> {
    summary: &'a Summary,
}

impl HtmlSafe for Says<'_> {}

impl<'a> Says<'a> {
    pub(super) const fn new(summary: &'a Summary) -> Self {
        Self { summary }
    }
}

/// Who has asked, through what, and whether that is more than their word.
#[derive(Clone, Debug, Template)]
#[template(path = "part/by.html")]
pub(super) struct By<'a> {
    name: &'a str,
    via: &'a str,
    verified: Option<&'a Identity>,
}

impl HtmlSafe for By<'_> {}

impl<'a> By<'a> {
    pub(super) fn new(by: &'a str, via: &'a str, verified: Option<&'a Identity>) -> Self {
        Self { name: verified.map_or(by, |identity| identity.name.as_str()), via, verified }
    }

    /// How it is known.
    const fn means(identity: &Identity) -> &'static str {
        match identity.means {
            Means::Chat => "signed chat message",
            Means::Proxy => "the proxy's user",
            Means::Token => "their Consul token",
        }
    }
}

/// The button of a form, or why the caller may not press it.
#[derive(Clone, Debug, Template)]
#[template(path = "part/button.html")]
pub(super) struct Button<'a> {
    /// Tells it from the page's others.
    id: String,
    label: String,
    /// `primary`, `danger`, or nothing.
    class: &'static str,
    refused: Option<&'a str>,
}

impl HtmlSafe for Button<'_> {}

impl<'a> Button<'a> {
    pub(super) fn new(
        id: impl Into<String>,
        label: impl Into<String>,
        class: &'static str,
        refused: Option<&'a str>,
    ) -> Self {
        Self { id: id.into(), label: label.into(), class, refused }
    }
}

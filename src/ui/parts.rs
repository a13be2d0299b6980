//! Small parts that many pages use. Each is a template of its own, so that it always escapes its values.

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

/// The subject and author of a commit; nothing if they are unknown.
#[derive(Clone, Copy, Debug, Template)]
#[template(
    ext = "html",
    source = r#"{% if !summary.is_empty() %}<span class="remark"><bdi>{{ summary.to_string()|plain }}</bdi></span>{% endif %}"#
)]
pub(super) struct CommitSummary<'a> {
    summary: &'a Summary,
}

impl HtmlSafe for CommitSummary<'_> {}

impl<'a> CommitSummary<'a> {
    pub(super) const fn new(summary: &'a Summary) -> Self {
        Self { summary }
    }
}

/// The author of a request or action, the channel (`via`), and whether an agent verified the author.
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

    /// How the identity was verified.
    const fn means(identity: &Identity) -> &'static str {
        match identity.means {
            Means::Chat => "a signed chat message",
            Means::Proxy => "named by the proxy",
            Means::Token => "by Consul token",
        }
    }
}

/// The button of a form. A caller without permission gets a disabled button with the reason.
#[derive(Clone, Debug, Template)]
#[template(path = "part/button.html")]
pub(super) struct Button<'a> {
    id: String,
    label: String,
    /// The class in the style sheet: `primary`, `danger`, or empty.
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

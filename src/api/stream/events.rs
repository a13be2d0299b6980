//! The events as they go over the wire.

use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use serde_json::json;

use super::subject::{Body, Subject};
use crate::control::{Code, Failure};

/// How long a browser waits before it comes back, as `retry:` tells it.
const COME_BACK: Duration = Duration::from_secs(2);

/// Why nothing new comes.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// `kind`, `message` and `hint`, as JSON.
    json: Arc<str>,
    /// What becomes of the streams.
    pub(super) outlook: Outlook,
}

/// What becomes of a stream that is in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It goes on when Consul can be read again.
    GoesOn,
    /// It ends: only the caller can mend it.
    Ends,
}

impl Trouble {
    fn new(kind: &str, message: &str, hint: &str, outlook: Outlook) -> Self {
        Self { json: json!({"kind": kind, "message": message, "hint": hint}).to_string().into(), outlook }
    }

    /// The trouble that a failed read means.
    pub(super) fn from_failure(failure: &Failure) -> Self {
        if failure.code == Code::NotAllowed {
            let hint = "come with a token that may read the unit's keys; see consul/policies/viewer.hcl";
            return Self::new("forbidden", &failure.chain(), hint, Outlook::Ends);
        }
        let kind = if failure.code == Code::Unreachable { "unreachable" } else { "failed" };
        let hint = "the agent keeps trying; what was sent before may be out of date until the next event";
        Self::new(kind, &failure.chain(), hint, Outlook::GoesOn)
    }

    /// The trouble that a stream ends with because the agent cannot serve it.
    pub(super) fn from_refusal(refused: &super::Refused) -> Self {
        Self::new("busy", &refused.to_string(), refused.hint(), Outlook::Ends)
    }

    pub(super) fn event(&self) -> Event {
        Event::default().event("trouble").data(&self.json)
    }
}

/// The first event of every stream, which nobody sees.
pub(super) fn greeting() -> Event {
    Event::default().retry(COME_BACK)
}

/// What stands, without an id.
pub(super) fn news(subject: &Subject, body: &Body) -> Event {
    match body {
        Body::Document { json, .. } => Event::default().event(subject.event()).data(json),
        Body::Gone => gone(subject),
        Body::Units(units) => Event::default().event(subject.event()).data(json!({"units": **units}).to_string()),
    }
}

/// There is no such unit, or no build.
pub(super) fn gone(subject: &Subject) -> Event {
    Event::default().event("gone").data(subject.named().to_string())
}

/// A sign of life. An event and no comment: a page's script sees no comments, and could not tell silence from a dead end.
pub(super) fn ping() -> Event {
    Event::default().event("ping").data("{}")
}

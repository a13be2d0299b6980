//! The events as they go over the wire.

use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use schemars::{Schema, json_schema};
use serde_json::json;

use super::subject::{Body, Subject};
use super::wanted::EVENT_ID_PATTERN;
use crate::control::{Code, Failure};

/// How long a browser waits before it reconnects (`retry:`).
const COME_BACK: Duration = Duration::from_secs(2);

/// Describes an event in the `OpenAPI` document.
pub(crate) fn event_schema() -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "event": {"type": "string", "enum": ["status", "builds", "units", "gone", "trouble", "ping"]},
            "data": {
                "type": "string",
                "description": "JSON: the status of a group, the builds of an app, or an object as in docs/http.md.",
            },
            "id": {"type": "string", "pattern": EVENT_ID_PATTERN},
            "retry": {"type": "integer"},
        },
    })
}

/// Why a document cannot be read.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// `kind`, `message` and `hint`, as JSON.
    json: Arc<str>,
    /// What happens to the streams.
    pub(super) severity: Severity,
}

/// What happens to a stream in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// It continues when Consul can be read again.
    Temporary,
    /// It ends: only the client can fix the cause.
    Final,
}

impl Trouble {
    fn new(kind: &str, message: &str, hint: &str, severity: Severity) -> Self {
        Self { json: json!({"kind": kind, "message": message, "hint": hint}).to_string().into(), severity }
    }

    /// The trouble after a failed read.
    pub(super) fn from_failure(failure: &Failure) -> Self {
        if failure.code == Code::NotAllowed {
            let hint = "use a token that may read the group's keys; see consul/policies/viewer.hcl";
            return Self::new("forbidden", &failure.chain(), hint, Severity::Final);
        }
        let kind = if failure.code == Code::Unreachable { "unreachable" } else { "failed" };
        let hint = "the agent keeps trying; the last document may be out of date until the next event";
        Self::new(kind, &failure.chain(), hint, Severity::Temporary)
    }

    /// The trouble that ends a stream which the agent cannot serve.
    pub(super) fn from_refusal(refused: &super::Refused) -> Self {
        Self::new("busy", &refused.to_string(), refused.hint(), Severity::Final)
    }

    pub(super) fn event(&self) -> Event {
        Event::default().event("trouble").data(&self.json)
    }
}

/// Sets the browser's reconnect delay; carries no data.
pub(super) fn greeting() -> Event {
    Event::default().retry(COME_BACK)
}

/// The event for a new document, without an id.
pub(super) fn news(subject: &Subject, body: &Body) -> Event {
    match body {
        Body::Document { json, .. } => Event::default().event(subject.event()).data(json),
        Body::Gone => gone(subject),
        Body::Units(units) => Event::default().event(subject.event()).data(json!({"units": **units}).to_string()),
    }
}

/// The event for a unit or builds that no longer exist.
pub(super) fn gone(subject: &Subject) -> Event {
    Event::default().event("gone").data(subject.named().to_string())
}

/// Shows that the connection is alive. An event, because scripts do not see comments.
pub(super) fn ping() -> Event {
    Event::default().event("ping").data("{}")
}

//! Slack's incoming webhooks, as Mattermost, Rocket.Chat and Discord's `/slack` address take them too.
//!
//! `text` says everything by itself, since not all of them show attachments.
//! <https://api.slack.com/messaging/webhooks>, <https://api.slack.com/reference/messaging/attachments>.

use serde_json::{Value, json};

use super::event::Event;
use crate::config::EventKind;
use crate::protocol::ids::Node;
use crate::protocol::record::{Step, clip};

/// The longest output of a hook that is shown, in bytes; `cutover history` has the rest.
const SHOWN_OUTPUT_BYTES: usize = 600;

/// Escapes what Slack's mrkdwn gives a meaning to. <https://api.slack.com/reference/surfaces/formatting#escaping>
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The longest `text`, in bytes once escaped: Discord takes 2,000 characters, and Slack shows 4,000.
pub(super) const LONGEST_TEXT: usize = 1900;
/// The longest value of a field, in bytes once escaped: Discord takes 1,024 characters.
pub(super) const LONGEST_VALUE: usize = 1000;

/// [`escape`]d, and cut off where it is longer than a receiver takes: it would refuse the whole message.
pub(super) fn escape_within(text: &str, longest: usize) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        let c = escape(c.encode_utf8(&mut [0; 4]));
        if escaped.len() + c.len() > longest {
            break;
        }
        escaped.push_str(&c);
    }
    escaped
}

/// Green, yellow, red, or grey, as Slack and Flowdock show it.
pub(super) const fn colour(kind: EventKind) -> (&'static str, &'static str) {
    match kind {
        EventKind::DeployDone | EventKind::GroupUnfrozen => ("#2eb67d", "green"),
        EventKind::DeployRefused | EventKind::GroupFrozen | EventKind::NodeDrift => ("#ecb22e", "yellow"),
        EventKind::CoordinatorMissing | EventKind::DeployAborted | EventKind::DeployRolledBack => ("#e01e5a", "red"),
        EventKind::BuildPublished | EventKind::DeployStarted | EventKind::Test => ("#8d8d8d", "grey"),
    }
}

/// What a person looks at, in this order, with its label.
pub(super) fn fields(event: &Event) -> Vec<(&'static str, String)> {
    let facts = &event.data;
    let by = facts.verified.as_ref().map(|it| format!("{} (verified)", it.name)).or_else(|| facts.by.clone());
    let text = |value: Option<&str>| value.map(str::to_owned);
    let output = facts.output.as_ref().map(|output| {
        let from = output.len().saturating_sub(SHOWN_OUTPUT_BYTES);
        let tail: String = output.char_indices().filter(|(at, _)| *at >= from).map(|(_, c)| c).collect();
        clip(&tail, SHOWN_OUTPUT_BYTES)
    });
    let all = [
        ("Unit", facts.unit.as_ref().map(ToString::to_string)),
        ("Build", facts.artifact.clone()),
        ("Commit", Some(facts.summary.to_string()).filter(|summary| !summary.is_empty())),
        ("By", by),
        ("Why", facts.why.clone()),
        ("Until", facts.until.map(|until| until.to_string())),
        ("Node", text(facts.node.as_ref().map(Node::as_str))),
        ("Step", text(facts.step.map(Step::as_str))),
        ("Reason", facts.reason.clone()),
        ("Output", output),
        ("Epoch", facts.epoch.clone()),
        ("Changes", facts.compare.clone()),
    ];
    all.into_iter().filter_map(|(label, value)| Some((label, value?))).collect()
}

/// The longest value that still stands beside another.
const SHORT_BYTES: usize = 40;

/// The body.
pub(super) fn body(event: &Event) -> Value {
    let fields: Vec<Value> = fields(event)
        .into_iter()
        .map(|(title, value)| {
            let is_short = value.len() <= SHORT_BYTES;
            json!({"title": title, "value": escape_within(&value, LONGEST_VALUE), "short": is_short})
        })
        .collect();
    let mut attachment = json!({
        "color": colour(event.kind).0,
        "title": event.kind.as_str(),
        "fields": fields,
        "footer": event.id,
        "ts": event.timestamp.as_second(),
    });
    if let (Some(link), Some(attachment)) = (&event.data.link, attachment.as_object_mut()) {
        attachment.insert("title_link".to_owned(), json!(link));
    }
    json!({"text": escape_within(&event.data.text, LONGEST_TEXT), "attachments": [attachment]})
}

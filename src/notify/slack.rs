//! Slack's incoming webhooks, which Mattermost, Rocket.Chat and Discord's `/slack` address accept too.
//!
//! `text` is complete by itself, because not all of them show attachments.
//! <https://api.slack.com/messaging/webhooks>, <https://api.slack.com/reference/messaging/attachments>.

use serde_json::{Value, json};

use super::event::Event;
use crate::config::EventKind;
use crate::document::{changes_sentence, step_words};
use crate::protocol::ids::Node;
use crate::protocol::record::clip;

/// How much of a hook's output a message shows, in bytes; `cutover history` has the rest.
const SHOWN_OUTPUT_BYTES: usize = 600;

/// Escapes the control characters of Slack's mrkdwn. <https://api.slack.com/reference/surfaces/formatting#escaping>
#[must_use]
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The longest `text`, in bytes after escaping: Discord accepts 2,000 characters, Slack shows 4,000.
pub(super) const LONGEST_TEXT: usize = 1900;
/// The longest value of a field, in bytes after escaping: Discord accepts 1,024 characters.
pub(super) const LONGEST_VALUE: usize = 1000;

/// Applies [`escape`], and cuts the result at `longest` bytes: a receiver would reject the whole message.
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

/// The fields of a message, with their labels, in this order.
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
        ("Group", facts.unit.as_ref().map(ToString::to_string)),
        ("Build", facts.artifact.clone()),
        ("Commit", Some(facts.summary.to_string()).filter(|summary| !summary.is_empty())),
        ("Ships", facts.changes.as_ref().map(changes_sentence)),
        ("By", by),
        ("Reason", facts.why.clone()),
        ("Until", facts.until.map(|until| until.to_string())),
        ("Node", text(facts.node.as_ref().map(Node::as_str))),
        ("Step", text(facts.step.map(step_words))),
        ("Error", facts.reason.clone()),
        ("Output", output),
        ("Number", facts.epoch.as_ref().map(|epoch| format!("#{epoch}"))),
        ("Changes", facts.compare.clone()),
    ];
    all.into_iter().filter_map(|(label, value)| Some((label, value?))).collect()
}

/// The longest value that Slack may place next to another, in bytes.
const SHORT_BYTES: usize = 40;

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

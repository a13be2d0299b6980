//! Flowdock's messages: an activity in a thread. All events of one deploy are in one thread.
//!
//! The original service was shut down. Other services with its API are supported, at a configured base URL.
//! <https://github.com/flowdock/api-docs/blob/master/docs/Thread-messages.md>

use serde_json::{Value, json};

use super::event::Event;
use super::slack::{LONGEST_TEXT, LONGEST_VALUE, colour, escape, escape_within, fields};
use crate::consul::Secret;

/// The path of messages, appended to the base URL.
pub(super) const PATH: &str = "/messages";

/// The body of a message. Flowdock renders titles as HTML.
pub(super) fn body(event: &Event, flow_token: &Secret) -> Value {
    let fields: Vec<Value> = fields(event)
        .into_iter()
        .map(|(label, value)| json!({"label": label, "value": escape_within(&value, LONGEST_VALUE)}))
        .collect();
    let facts = &event.data;
    let text = escape_within(&facts.text, LONGEST_TEXT);
    let about = facts.unit.as_ref().map_or_else(|| "Cutover".to_owned(), ToString::to_string);
    let about = facts.artifact.as_ref().map_or_else(|| about.clone(), |artifact| format!("{about}: {artifact}"));
    let mut thread = json!({
        "title": escape(&about),
        "body": text,
        "status": {"color": colour(event.kind).1, "value": event.kind.as_str()},
        "fields": fields,
    });
    if let (Some(link), Some(thread)) = (&facts.link, thread.as_object_mut()) {
        thread.insert("external_url".to_owned(), json!(link));
    }
    json!({
        "flow_token": flow_token.expose(),
        "event": "activity",
        "external_thread_id": event.thread,
        "author": {"name": "Cutover"},
        "title": text,
        "thread": thread,
    })
}

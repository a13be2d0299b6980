//! `cutover notify test`: sends one event to one receiver, exactly as the agent does, and prints the answer.

use std::time::Instant;

use jiff::Timestamp;
use serde_json::json;

use crate::cli::args::NotifyTest;
use crate::cli::context;
use crate::cli::output::{self, Format};
use crate::control::{Code, Failure};
use crate::notify::{Event, HttpSender, Receiver, SendError};

/// Sends a test event, once.
///
/// # Errors
///
/// Exit code 2 if the config has no such receiver, 8 if the receiver cannot be reached, 1 if it rejects the event.
pub(crate) async fn test(format: Format, args: &NotifyTest) -> Result<Code, Failure> {
    let settings =
        context::config(args.config.clone(), Code::Usage, "the receiver cannot be read from the config").await?;
    let Some(section) = settings.notify.get(&args.name) else {
        let names: Vec<&str> = settings.notify.keys().map(String::as_str).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let failure = Failure::new(Code::Usage, format!("{} has no [notify.{}]", args.config.display(), args.name));
        return Err(failure.hint(format!("receivers in this config: {known}")));
    };
    let receiver = Receiver::new(args.name.clone(), section.clone());
    // A new id each time, because a receiver may drop an event whose id it has seen.
    let id = format!("evt_{}", uuid::Uuid::now_v7().simple());
    let event = Event::test(&receiver.name, id, Timestamp::now()).linked(settings.api.public_url.as_deref());
    let begun = Instant::now();
    let answered =
        HttpSender::new().send(&receiver, &event, event.timestamp).await.map_err(|error| failure(&receiver, error))?;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (name, kind) = (&receiver.name, receiver.kind().as_str());
    output::result(&match format {
        Format::Json => output::json(&json!({
            "receiver": name,
            "kind": kind,
            "id": event.id,
            "status": answered.status.as_u16(),
            "body": answered.body,
            "took_ms": took_ms,
        }))?,
        Format::Text => {
            let body = output::clean(&answered.body);
            format!(
                "ok  {name} ({kind})\nid  {}\nanswered  {} in {took_ms}ms\nbody  {body}\n",
                event.id, answered.status
            )
        }
    })?;
    Ok(Code::Done)
}

fn failure(receiver: &Receiver, error: SendError) -> Failure {
    let code = if error.is_unreachable() { Code::Unreachable } else { Code::Failed };
    let failure =
        Failure::new(code, format!("{} ({}) did not accept the event", receiver.name, receiver.kind().as_str()));
    let hint = match &error {
        SendError::Content { .. } | SendError::File { .. } => "the agent reads the same file, but as its own user",
        SendError::Gone { .. } => {
            "after such an answer, an agent sends nothing to this receiver until the agent restarts"
        }
        SendError::Refused { .. } => "an agent would retry for a day; the answer may say what the receiver expects",
        SendError::Silent | SendError::Unreachable { .. } => {
            "check the URL in url_file, and whether it can be reached from this machine"
        }
    };
    failure.caused_by(error).hint(hint)
}

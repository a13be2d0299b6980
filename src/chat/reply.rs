//! Replies to chat, as Slack's JSON. Pure.

use http::StatusCode;
use serde_json::{Value, json};

use super::command::Asked;
use super::signature::Rejected;
use crate::control::{Code, Failure};
use crate::document::{Presence, StatusDocument};
use crate::notify::escape_for_slack as escape;
use crate::protocol::ids::{Epoch, Unit};

/// An answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// 200 for everything that the user should read: Slack shows nothing else.
    pub(crate) status: StatusCode,
    /// The JSON; null: an empty body.
    pub(crate) body: Value,
}

impl Reply {
    /// Shown only to the user. `text` is already escaped.
    fn private(text: &str) -> Self {
        Self { status: StatusCode::OK, body: json!({"response_type": "ephemeral", "text": text}) }
    }

    /// Shown to the whole channel, with the typed command.
    fn public(text: &str) -> Self {
        Self { status: StatusCode::OK, body: json!({"response_type": "in_channel", "text": text}) }
    }

    pub(super) fn empty() -> Self {
        Self { status: StatusCode::OK, body: Value::Null }
    }

    /// The call is refused. Slack shows this to nobody.
    pub(super) fn rejected(why: Rejected) -> Self {
        let (status, kind) = match why {
            Rejected::Crowded => (StatusCode::TOO_MANY_REQUESTS, "too_many"),
            Rejected::Forged | Rejected::NotSigned | Rejected::Replayed | Rejected::Stale => {
                (StatusCode::UNAUTHORIZED, "not_slack")
            }
        };
        let hint = "see docs/notifications.md, Deploys from chat";
        Self { status, body: json!({"error": {"kind": kind, "message": why.to_string(), "hint": hint}}) }
    }

    /// The signing secret cannot be read: an operator must fix the settings.
    pub(super) fn broken() -> Self {
        let message = "the signing secret cannot be read; the agent's log says why";
        let body = json!({"error": {"kind": "settings", "message": message, "hint": "see [chat] signing_secret_file"}});
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, body }
    }

    pub(super) fn help(asked: &Asked, problem: &str) -> Self {
        let name = escape(&asked.name);
        let problem = if problem.is_empty() { String::new() } else { format!("{}\n", escape(problem)) };
        Self::private(&format!(
            "{problem}`{name} shop/production master`  deploy a branch or a build\n`{name} rollback shop/production`  \
             roll back to the previous release, or to a build that you name\n`{name} abort shop/production`  abort the \
             running deploy\n`{name} status shop/production`  show what runs"
        ))
    }

    /// The user is not in the settings.
    pub(super) fn unknown(user: &str) -> Self {
        let user = escape(if user.is_empty() { "(none)" } else { user });
        Self::private(&format!(
            "Cutover does not know you, so nothing was done. An operator can add you to cutover.toml: \
             `[chat.users.{user}]` with your `name` and the `token_file` of a Consul token with your permissions."
        ))
    }

    pub(super) fn asked(asked: &Asked, unit: &Unit, what: &str, who: &str, epoch: Epoch) -> Self {
        let (name, what, who) = (escape(&asked.name), escape(what), escape(who));
        Self::public(&format!(
            "{unit}: {who} requested {what} (deploy #{epoch}). `{name} status {unit}` shows the result."
        ))
    }

    pub(super) fn failed(unit: &Unit, who: &str, failure: &Failure) -> Self {
        let who = escape(who);
        let why = escape(&failure.chain());
        Self::private(&match failure.code {
            Code::NotAllowed => format!(
                "{unit}: Consul does not allow this to the token of {who}, so nothing was done ({why}). An operator of \
                 Cutover can give that token the deployer policy for {unit}."
            ),
            Code::Unknown => {
                format!("{unit}: the request may or may not have been made: {why}. Check the status before you retry.")
            }
            Code::Unreachable => format!("{unit}: nothing was done, because Consul does not answer: {why}"),
            _ => format!("{unit}: nothing was done: {why}"),
        })
    }

    /// Consul did not answer in time.
    pub(super) fn late(asked: &Asked, unit: &Unit) -> Self {
        let name = escape(&asked.name);
        Self::private(&format!(
            "{unit}: Consul did not answer in time, so the request may or may not have been made. Check \
             `{name} status {unit}` before you retry."
        ))
    }

    pub(super) fn status(document: &StatusDocument) -> Self {
        let unit = &document.unit;
        let mut lines = vec![match &document.current {
            Some(current) => format!("{unit} runs {} (deploy #{})", current.artifact, current.epoch),
            None => format!("{unit} has never been deployed"),
        }];
        if let Some(running) = &document.running {
            let phase = running.phase.as_str();
            lines.push(format!(
                "in progress: {} by {}, phase {phase} (deploy #{})",
                running.artifact, running.by, running.epoch
            ));
        }
        if let Some(waiting) = &document.waiting {
            lines.push(format!("waiting: {} by {} (deploy #{})", waiting.wants, waiting.by, waiting.epoch));
        }
        if let Some(last) = &document.last {
            let why = last.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            lines.push(format!("last: deploy #{} by {}, {}{why}", last.epoch, last.by, last.outcome.as_str()));
        }
        if let Some(freeze) = &document.freeze {
            lines.push(format!("frozen by {}: {}", freeze.author.by, freeze.author.reason));
        }
        if document.coordinator.is_none() {
            lines.push("no agent coordinates this group, so requests wait".to_owned());
        }
        let absent = document.nodes.iter().filter(|node| node.state == Presence::Absent);
        let absent: Vec<String> = absent.map(|node| node.node.to_string()).collect();
        let alive = document.nodes.len() - absent.len();
        let absent = if absent.is_empty() { String::new() } else { format!(", absent: {}", absent.join(", ")) };
        lines.push(format!("nodes: {alive} alive{absent}"));
        lines.extend(document.troubles.iter().map(|trouble| trouble.text().to_owned()));
        Self::private(&escape(&lines.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_calls_have_another_status_than_forged_calls() {
        for (why, status, kind) in [
            (Rejected::Crowded, 429, "too_many"),
            (Rejected::Forged, 401, "not_slack"),
            (Rejected::NotSigned, 401, "not_slack"),
            (Rejected::Replayed, 401, "not_slack"),
            (Rejected::Stale, 401, "not_slack"),
        ] {
            let reply = Reply::rejected(why);
            assert_eq!((reply.status.as_u16(), &reply.body["error"]["kind"]), (status, &kind.into()), "{why}");
        }
    }
}

//! `[notify.NAME]` and `[chat]`: the receivers of notifications, and the chat users who may send commands.
//!
//! URLs, tokens and secrets are in separate files, so that printed settings never contain them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::events::{EventKind, NotifyKind};
use super::fragment::{ChatFragment, ChatUserFragment, NotifyFragment};
use super::globs::Globs;
use super::merge::{Merged, checked};
use super::{ConfigError, values};
use crate::protocol::ids::App;

/// One receiver of notifications.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NotifySettings {
    pub(crate) kind: NotifyKind,
    /// The file with the URL, which is a secret; absolute. For Flowdock the base URL.
    pub(crate) url_file: PathBuf,
    /// The file with the signing key, `whsec_…`; absolute. Only for webhooks.
    pub(crate) secret_file: Option<PathBuf>,
    /// The file with the flow's token; absolute. Only for Flowdock.
    pub(crate) token_file: Option<PathBuf>,
    /// The selected events; none for all.
    pub(crate) events: Option<BTreeSet<EventKind>>,
    /// The selected groups; none for all.
    pub(crate) units: Option<Globs>,
}

/// Deploys from chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ChatSettings {
    /// The file with the secret that Slack signs its calls with; absolute.
    pub(crate) signing_secret_file: PathBuf,
    /// The allowed users, by their id in the chat.
    pub(crate) users: BTreeMap<String, ChatUser>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ChatUser {
    /// The name that the history shows as the author.
    pub(crate) name: String,
    /// The file with the user's Consul token; absolute.
    pub(crate) token_file: PathBuf,
}

impl NotifySettings {
    pub(super) fn check(merged: &Merged, name: &str, fragment: NotifyFragment) -> Result<Self, ConfigError> {
        // The name becomes part of keys, logs and metrics, so the rules for app names apply.
        name.parse::<App>()
            .map_err(|e| merged.error(&["notify", name], format!("the section's name {}", e.problem)))?;
        let wrong = |key: &str, problem: &str| merged.error(&["notify", name, key], problem.to_owned());
        let file = |key: &str, value: &Option<String>| {
            checked(merged, &["notify", name, key], value.as_deref(), values::absolute)
        };
        let kind = fragment.kind.ok_or_else(|| wrong("kind", "is missing; write slack, flowdock or webhook"))?;
        let url_file = file("url_file", &fragment.url_file)?
            .ok_or_else(|| wrong("url_file", "is missing; set it to a file with the URL"))?;
        let secret_file = file("secret_file", &fragment.secret_file)?;
        let token_file = file("token_file", &fragment.token_file)?;
        match (kind, &secret_file, &token_file) {
            (NotifyKind::Webhook, None, _) => {
                return Err(wrong("secret_file", "is missing; set it to a file with the signing key, whsec_…"));
            }
            (NotifyKind::Flowdock, _, None) => {
                return Err(wrong("token_file", "is missing; set it to a file with the flow's token"));
            }
            (NotifyKind::Flowdock | NotifyKind::Slack, Some(_), _) => {
                return Err(wrong("secret_file", "is only for kind = \"webhook\"; remove it"));
            }
            (NotifyKind::Slack | NotifyKind::Webhook, _, Some(_)) => {
                return Err(wrong("token_file", "is only for kind = \"flowdock\"; remove it"));
            }
            (NotifyKind::Flowdock | NotifyKind::Slack | NotifyKind::Webhook, _, _) => {}
        }
        if fragment.events.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(wrong("events", "is empty; remove the key to get all events, or the section to get none"));
        }
        if fragment.units.as_ref().is_some_and(Globs::is_empty) {
            return Err(wrong("units", "is empty; remove the key to get all groups, or the section to get none"));
        }
        Ok(Self { kind, url_file, secret_file, token_file, events: fragment.events, units: fragment.units })
    }
}

impl ChatSettings {
    pub(super) fn check(merged: &Merged, fragment: ChatFragment) -> Result<Self, ConfigError> {
        let key = ["chat", "signing_secret_file"];
        let signing_secret_file = checked(merged, &key, fragment.signing_secret_file.as_deref(), values::absolute)?
            .ok_or_else(|| merged.error(&key, "is missing; set it to a file with Slack's signing secret".to_owned()))?;
        let mut users = BTreeMap::new();
        for (id, user) in fragment.users {
            let checked = ChatUser::check(merged, &id, &user)?;
            users.insert(id, checked);
        }
        Ok(Self { signing_secret_file, users })
    }
}

impl ChatUser {
    fn check(merged: &Merged, id: &str, fragment: &ChatUserFragment) -> Result<Self, ConfigError> {
        let is_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if !is_id {
            let problem = "is not a user's id; write the member ID of the chat, for example U024BE7LH".to_owned();
            return Err(merged.error(&["chat", "users", id], problem));
        }
        let missing =
            |key: &str, allowed: &str| merged.error(&["chat", "users", id, key], format!("is missing; {allowed}"));
        let name = checked(merged, &["chat", "users", id, "name"], fragment.name.as_deref(), values::line)?
            .ok_or_else(|| missing("name", "set it to the name for the history"))?;
        let key = ["chat", "users", id, "token_file"];
        let token_file = checked(merged, &key, fragment.token_file.as_deref(), values::absolute)?
            .ok_or_else(|| missing("token_file", "set it to a file with the user's Consul token"))?;
        Ok(Self { name, token_file })
    }
}

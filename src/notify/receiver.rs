//! One receiver: its settings, and the secrets in its files.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Uri;

use super::event::Event;
use super::send_error::SendError;
use super::webhook::Key;
use super::{flowdock, slack};
use crate::config::{NotifyKind, NotifySettings};
use crate::consul::Secret;
use crate::protocol::ids::Unit;
use crate::protocol::record::encode;

#[derive(Debug)]
pub(crate) struct Receiver {
    /// Its name in the settings.
    pub(crate) name: String,
    settings: NotifySettings,
    /// Whether the receiver answered 410 Gone.
    is_gone: AtomicBool,
}

/// The content of a receiver's files.
pub(super) struct Opened {
    pub(super) uri: Uri,
    /// The key of a webhook.
    pub(super) key: Option<Key>,
    token: Option<Secret>,
    /// Texts that must not be shown.
    secrets: Vec<String>,
}

impl Receiver {
    /// The receiver of the section `[notify.<name>]`.
    #[must_use]
    pub(crate) fn new(name: String, settings: NotifySettings) -> Self {
        Self { name, settings, is_gone: AtomicBool::new(false) }
    }

    /// The format of its messages.
    #[must_use]
    pub(crate) const fn kind(&self) -> NotifyKind {
        self.settings.kind
    }

    #[must_use]
    pub(crate) fn gets_events_of(&self, unit: &Unit) -> bool {
        self.settings.units.as_ref().is_none_or(|units| units.matches_unit(unit))
    }

    #[must_use]
    pub(crate) fn wants(&self, event: &Event) -> bool {
        self.settings.events.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
            && event.data.unit.as_ref().is_none_or(|unit| self.gets_events_of(unit))
    }

    /// Whether the receiver answered 410 Gone. Nothing is sent to it until the agent restarts.
    #[must_use]
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    /// Records the result of an attempt.
    pub(crate) fn note(&self, sent: Result<(), &SendError>) {
        if matches!(sent, Err(SendError::Gone { .. })) {
            self.is_gone.store(true, Ordering::Relaxed);
        }
    }

    /// The event in the format of this receiver.
    pub(super) fn body(&self, event: &Event, opened: &Opened) -> Vec<u8> {
        match (self.settings.kind, &opened.token) {
            (NotifyKind::Slack, _) => slack::body(event).to_string(),
            (NotifyKind::Flowdock, Some(token)) => flowdock::body(event, token).to_string(),
            // The settings require a token for Flowdock, so this arm is only reached for webhooks.
            (NotifyKind::Flowdock | NotifyKind::Webhook, _) => encode(event),
        }
        .into_bytes()
    }

    /// Checks that its files contain valid secrets.
    ///
    /// # Errors
    ///
    /// [`SendError::File`], [`SendError::Content`]; neither contains a secret.
    pub(crate) async fn check_files(&self) -> Result<(), SendError> {
        self.open().await.map(drop)
    }

    /// Reads its files.
    ///
    /// # Errors
    ///
    /// [`SendError::File`], [`SendError::Content`]; neither contains a secret.
    pub(super) async fn open(&self) -> Result<Opened, SendError> {
        let NotifySettings { kind, url_file, secret_file, token_file, .. } = &self.settings;
        let mut url = read(url_file).await?;
        let mut secrets = vec![url.clone()];
        if *kind == NotifyKind::Flowdock {
            url = format!("{}{}", url.trim_end_matches('/'), flowdock::PATH);
        }
        let content =
            |path: &Path, problem: &str| SendError::Content { path: path.to_owned(), problem: problem.to_owned() };
        let uri: Uri = url.parse().map_err(|_| content(url_file, "contains no valid URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(content(url_file, "must contain a URL that starts with https:// or http://"));
        }
        // The client does not send `user:password@`. A clear error here is better than a rejection by the receiver.
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(content(url_file, "contains a URL with a user, which is not supported; remove the user"));
        }
        secrets.extend(uri.path_and_query().map(|it| it.as_str().to_owned()).filter(|it| it.len() > 1));
        let mut key = None;
        if let Some(path) = secret_file {
            let text = read(path).await?;
            key = Some(Key::parse(&text).ok_or_else(|| content(path, &Key::expected()))?);
            secrets.push(text);
        }
        let mut token = None;
        if let Some(path) = token_file {
            let text = read(path).await?;
            secrets.push(text.clone());
            token = Some(Secret::new(text));
        }
        Ok(Opened { uri, key, token, secrets })
    }
}

impl Opened {
    /// `text` without secrets: an answer may repeat parts of the request.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

async fn read(path: &Path) -> Result<String, SendError> {
    let secret = Secret::read(path).await.map_err(|source| SendError::File { path: path.to_owned(), source })?;
    Ok(secret.expose().to_owned())
}

//! One receiver: what it wants, and what its files hold.

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

/// A receiver of notifications.
#[derive(Debug)]
pub struct Receiver {
    /// Its name in the settings.
    pub name: String,
    settings: NotifySettings,
    /// Whether it has said that it is there no more.
    is_gone: AtomicBool,
}

/// What a receiver's files hold, just read.
pub(super) struct Opened {
    pub(super) uri: Uri,
    /// The key of a webhook.
    pub(super) key: Option<Key>,
    token: Option<Secret>,
    /// What must not be shown.
    secrets: Vec<String>,
}

impl Receiver {
    /// Of the settings' section `[notify.<name>]`.
    #[must_use]
    pub fn new(name: String, settings: NotifySettings) -> Self {
        Self { name, settings, is_gone: AtomicBool::new(false) }
    }

    /// Its shape.
    #[must_use]
    pub const fn kind(&self) -> NotifyKind {
        self.settings.kind
    }

    /// Whether it wants to hear of this unit.
    #[must_use]
    pub fn hears_of(&self, unit: &Unit) -> bool {
        self.settings.units.as_ref().is_none_or(|units| units.matches_unit(unit))
    }

    /// Whether it wants this event.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        self.settings.events.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
            && event.data.unit.as_ref().is_none_or(|unit| self.hears_of(unit))
    }

    /// Whether it has said that it is there no more (410): nothing is sent until the agent starts again.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    /// Notes what a try came to.
    pub fn note(&self, sent: Result<(), &SendError>) {
        if matches!(sent, Err(SendError::Gone { .. })) {
            self.is_gone.store(true, Ordering::Relaxed);
        }
    }

    /// The event as this receiver reads it.
    pub(super) fn body(&self, event: &Event, opened: &Opened) -> Vec<u8> {
        match (self.settings.kind, &opened.token) {
            (NotifyKind::Slack, _) => slack::body(event).to_string(),
            (NotifyKind::Flowdock, Some(token)) => flowdock::body(event, token).to_string(),
            // The settings give every Flowdock a token.
            (NotifyKind::Flowdock | NotifyKind::Webhook, _) => encode(event),
        }
        .into_bytes()
    }

    /// Whether its files hold what is needed to tell it anything.
    ///
    /// # Errors
    ///
    /// [`SendError::File`], [`SendError::Content`]; neither quotes what a file holds.
    pub async fn check_files(&self) -> Result<(), SendError> {
        self.open().await.map(drop)
    }

    /// Reads its files.
    ///
    /// # Errors
    ///
    /// [`SendError::File`], [`SendError::Content`]; neither quotes what a file holds.
    pub(super) async fn open(&self) -> Result<Opened, SendError> {
        let NotifySettings { kind, url_file, secret_file, token_file, .. } = &self.settings;
        let mut url = read(url_file).await?;
        let mut secrets = vec![url.clone()];
        if *kind == NotifyKind::Flowdock {
            url = format!("{}{}", url.trim_end_matches('/'), flowdock::PATH);
        }
        let content =
            |path: &Path, problem: &str| SendError::Content { path: path.to_owned(), problem: problem.to_owned() };
        let uri: Uri = url.parse().map_err(|_| content(url_file, "holds no URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(content(url_file, "holds no URL that begins with https:// or http://"));
        }
        // The client sends no `user:password@`; better to say so than to be turned away without a reason.
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(content(url_file, "holds a URL with a user in it, which is not sent; leave that out"));
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
    /// `text` without what must not be shown: an answer may repeat what was asked.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

async fn read(path: &Path) -> Result<String, SendError> {
    let secret = Secret::read(path).await.map_err(|source| SendError::File { path: path.to_owned(), source })?;
    Ok(secret.expose().to_owned())
}

//! Notifications: which events a receiver gets, in which format, and how they are sent.
//!
//! ```text
//! History, Action, nodes ──► pending: events that this receiver has not had ──► Event
//! Event ──► format: slack | flowdock | webhook ──► HttpSender ──► the receiver's HTTP
//! ```
//!
//! Everything but [`HttpSender`] is pure. Delivery is at least once: an [`Event`]'s id is derived
//! from its record, so a repeat after a failure, or by another coordinator, has the same id. Nothing here reads or writes
//! Consul, decides which agent sends, or retries. The caller must
//!
//! 1. send the events of one receiver one after the other, in the order of [`pending()`];
//! 2. store [`Pending::cursor`](pending::Pending::cursor) only after the receiver has accepted the event before it;
//! 3. never delay a deploy.
//!
//! URLs, tokens and keys are read from their files for each message, so that a new secret needs no restart. No error, log,
//! or `Debug` output contains them.

mod event;
mod flowdock;
mod pending;
mod receiver;
mod send_error;
mod sender;
mod slack;
mod webhook;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use event::Event;
pub(crate) use pending::{Drifts, Records, initial_cursor, pending};
pub(crate) use receiver::Receiver;
pub(crate) use send_error::SendError;
pub(crate) use sender::HttpSender;
pub(crate) use slack::escape as escape_for_slack;

use crate::config::{PublicUrl, Settings};

/// All receivers of an agent, and the HTTP client for them.
#[derive(Debug)]
pub(crate) struct Notifier {
    pub(crate) receivers: Vec<Arc<Receiver>>,
    pub(crate) sender: HttpSender,
    /// The base of links.
    pub(crate) public_url: Option<PublicUrl>,
    /// The form of links that compare commits.
    pub(crate) compare_url: Option<String>,
}

impl Notifier {
    /// Takes the receivers from the settings. Reads no file, and opens no connection.
    #[must_use]
    pub(crate) fn new(settings: &Settings) -> Self {
        let receivers = settings.notify.iter().map(|(name, it)| Arc::new(Receiver::new(name.clone(), it.clone())));
        let (public_url, compare_url) = (settings.api.public_url.clone(), settings.api.compare_url.clone());
        Self { receivers: receivers.collect(), sender: HttpSender::new(), public_url, compare_url }
    }
}

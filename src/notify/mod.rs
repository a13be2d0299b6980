//! Notifications: what is told, in which shape, and how it is sent.
//!
//! ```text
//! History, Action, nodes ──► owed: what this receiver has not been told ──► Event
//! Event ──► shape: slack | flowdock | webhook ──► Post ──► the receiver's HTTP
//! ```
//!
//! Everything but [`Post`] is pure. At least once: an [`Event`]'s id follows from what it tells, so that whoever sends it
//! again, after a failure or in another coordinator's place, sends it as the same. Nothing here reads or writes Consul,
//! decides who sends, or tries again; that is the caller's, who must
//!
//! 1. send the events of one receiver one after the other, in the order of [`owed()`];
//! 2. keep [`Owed::told`] only once the receiver has taken the event before it;
//! 3. let no deploy wait for any of it.
//!
//! URLs, tokens and keys are read from their files for each message, so that a new one needs no restart, and are in no
//! error, log, or `Debug` output.

mod event;
mod flowdock;
mod owed;
mod post;
mod receiver;
mod send_error;
mod slack;
mod webhook;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use event::{Event, Facts};
pub use owed::{Owed, Standing, Troubles, first, owed};
pub use post::{Answered, Post};
pub use receiver::Receiver;
pub use send_error::{SEND_LIMIT, SendError};
pub use slack::escape as escape_for_slack;

use crate::config::{PublicUrl, Settings};

/// Every receiver of an agent, and the way to them.
#[derive(Debug)]
pub struct Desk {
    /// The receivers, by name.
    pub receivers: Vec<Arc<Receiver>>,
    /// The way.
    pub post: Post,
    /// What links begin with.
    pub public_url: Option<PublicUrl>,
    /// Where commits are compared.
    pub compare_url: Option<String>,
}

impl Desk {
    /// For what the settings say. Reads no file and connects to nothing yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let receivers = settings.notify.iter().map(|(name, it)| Arc::new(Receiver::new(name.clone(), it.clone())));
        let (public_url, compare_url) = (settings.api.public_url.clone(), settings.api.compare_url.clone());
        Self { receivers: receivers.collect(), post: Post::new(), public_url, compare_url }
    }
}

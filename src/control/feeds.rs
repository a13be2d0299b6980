//! Watches several keys and prefixes at once, with their changes in one queue.
//!
//! Each watch has a task of its own, so that a change in one does not close the open queries of the others. All of
//! them end when the feeds are dropped.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::access::{Access, Tell};
use super::code::{Code, Failure};
use super::kv::{Kv, by_key};
use crate::consul::{self, Class, Client, Consistency, Watch};
use crate::document::Entries;

/// Changes that wait to be taken before the watches rest. A reader takes them within milliseconds; the room is for
/// the first answers of a handful of watches.
const QUEUE: usize = 32;

/// How long one query rests at Consul. A command that ends leaves its queries behind: Consul 1.8 holds their connections
/// until they are over, and refuses more than 200 from one address.
const BRIEF_WAIT: Duration = Duration::from_secs(5);

/// Something that changed, or was seen for the first time.
#[derive(Debug)]
pub(crate) struct Change {
    /// The key or prefix, as given to [`Feeds::open`].
    pub(crate) watched: String,
    /// What stands there now; empty: nothing.
    pub(crate) entries: Entries,
}

/// The open watches.
#[derive(Debug)]
pub(crate) struct Feeds {
    changes: mpsc::Receiver<Result<Change, consul::Error>>,
    kv: Kv,
    tell: Tell,
    /// Whether it was said that Consul does not answer.
    told: bool,
    _tasks: JoinSet<()>,
}

impl Feeds {
    /// Watches every one of `keys`; those that end in `/` are prefixes. Each reports once at first.
    #[must_use]
    pub(crate) fn open(access: &Access, keys: impl IntoIterator<Item = String>) -> Self {
        let (sender, changes) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        for key in keys {
            tasks.spawn(feed(access.kv.client().clone(), key, sender.clone()));
        }
        Self { changes, kv: access.kv.clone(), tell: access.tell, told: false, _tasks: tasks }
    }

    /// Waits for the next change. Consul's silence is said once, and waited out.
    ///
    /// # Errors
    ///
    /// What no waiting helps: exit code 7 without the right to read, 1 for a record that a newer program wrote.
    ///
    /// # Cancel safety
    ///
    /// Safe: a change is either returned or stays queued; one that a newer program wrote may be lost, and fails the next
    /// read of it too.
    pub(crate) async fn next(&mut self) -> Result<Change, Failure> {
        loop {
            match self.changes.recv().await {
                Some(Ok(change)) => {
                    self.told = false;
                    self.kv.readable(&change.entries).await?;
                    return Ok(change);
                }
                Some(Err(error)) if error.class() == Class::Transient => {
                    if !self.told {
                        (self.tell)(&format!("{}; still trying", Failure::from(error).chain()));
                        self.told = true;
                    }
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::new(Code::Failed, "nothing is watched any more")),
            }
        }
    }

    /// Takes everything that comes within `time`, unseen.
    ///
    /// # Errors
    ///
    /// As [`Feeds::next`].
    pub(crate) async fn drain_for(&mut self, time: Duration) -> Result<(), Failure> {
        let until = tokio::time::Instant::now() + time;
        while let Ok(change) = tokio::time::timeout_at(until, self.next()).await {
            change?;
        }
        Ok(())
    }
}

/// One watch. It ends when the feeds are dropped.
async fn feed(client: Client, key: String, changes: mpsc::Sender<Result<Change, consul::Error>>) {
    if key.ends_with('/') {
        let mut watch = Watch::prefix(&client, key.as_str(), Consistency::Default).with_wait(BRIEF_WAIT);
        loop {
            let change = match watch.next().await {
                consul::Change::Seen(entries) => Ok(Change { watched: key.clone(), entries: by_key(entries) }),
                consul::Change::Failed(error) => Err(error),
            };
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
    let mut watch = Watch::key(&client, key.as_str(), Consistency::Default).with_wait(BRIEF_WAIT);
    loop {
        let change = match watch.next().await {
            consul::Change::Seen(entry) => Ok(Change { watched: key.clone(), entries: by_key(entry) }),
            consul::Change::Failed(error) => Err(error),
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}

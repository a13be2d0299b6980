//! Watches several keys and prefixes at once, and queues their changes.
//!
//! Each watch has a task of its own, so that a change in one does not cancel the open queries of the others. All tasks end
//! when the feeds are dropped.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::access::{Access, PrintLine};
use super::code::{Code, Failure};
use super::kv::{Kv, by_key};
use crate::consul::{self, Class, Client, Consistency, Watch};
use crate::document::Entries;

/// The most queued changes; further ones wait in their watches. Readers take changes within milliseconds, so the queue is
/// only large enough for the first answers of all watches.
const QUEUE: usize = 32;

/// The longest wait of one blocking query. When a command ends, Consul 1.8 keeps the connections of its queries open until
/// their wait is over, and refuses more than 200 from one address.
const BRIEF_WAIT: Duration = Duration::from_secs(5);

/// A change, or the first result of a watch.
#[derive(Debug)]
pub(crate) struct Change {
    /// The key or prefix, as given to [`Feeds::open`].
    pub(crate) watched: String,
    /// The current entries; empty if there are none.
    pub(crate) entries: Entries,
}

#[derive(Debug)]
pub(crate) struct Feeds {
    changes: mpsc::Receiver<Result<Change, consul::Error>>,
    kv: Kv,
    print_line: PrintLine,
    /// Whether the user was told that Consul does not answer.
    is_outage_reported: bool,
    _tasks: JoinSet<()>,
}

impl Feeds {
    /// Watches all of `keys`; those that end in `/` are prefixes. Each watch reports its current entries first.
    #[must_use]
    pub(crate) fn open(access: &Access, keys: impl IntoIterator<Item = String>) -> Self {
        let (sender, changes) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        for key in keys {
            tasks.spawn(feed(access.kv.client().clone(), key, sender.clone()));
        }
        Self { changes, kv: access.kv.clone(), print_line: access.print_line, is_outage_reported: false, _tasks: tasks }
    }

    /// Waits for the next change. While Consul does not answer, keeps trying, and tells the user once.
    ///
    /// # Errors
    ///
    /// Permanent failures: exit code 7 without the right to read, 1 for a record that a newer program wrote.
    ///
    /// # Cancel safety
    ///
    /// Safe: a change is either returned or stays queued. Only a change to a record that a newer program wrote may be lost;
    /// the next read of that record fails too.
    pub(crate) async fn next(&mut self) -> Result<Change, Failure> {
        loop {
            match self.changes.recv().await {
                Some(Ok(change)) => {
                    self.is_outage_reported = false;
                    self.kv.readable(&change.entries).await?;
                    return Ok(change);
                }
                Some(Err(error)) if error.class() == Class::Transient => {
                    if !self.is_outage_reported {
                        (self.print_line)(&format!("{}; still trying", Failure::from(error).chain()));
                        self.is_outage_reported = true;
                    }
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::new(Code::Failed, "the watches of Consul have ended")),
            }
        }
    }

    /// Discards all changes that arrive within `time`.
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

/// Runs one watch until the feeds are dropped.
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

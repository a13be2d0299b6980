//! Reads one document for all streams with the same token.
//!
//! A blocking query on the index of the document's prefix wakes the feed. It costs Consul's agent one connection and a few
//! hundred bytes per answer; watching the keys would cost seven connections, or transfer the unit's whole history at each
//! change. After a change the feed reads the document as the command line does.
//!
//! A feed without streams ends when its query returns, and not before: Consul 1.8 keeps the connection of an abandoned query
//! open until its wait is over, so ending the feed earlier would leave a connection that is not counted. It also means that a
//! page that is reloaded finds its feed.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::events::{Severity, Trouble};
use super::subject::{Body, Subject};
use crate::consul::{Change, Consistency, Watch};
use crate::control::{Access, Failure};
use crate::protocol::ids::ModifyIndex;

/// How long a query blocks at Consul. After it the document is read again, so this is also how long a token that lost its
/// permissions still gets documents, and how long a feed stays after its last stream.
const QUERY_WAIT: Duration = Duration::from_secs(10);
/// The shortest time for which changes are collected before the document is read, so that a deploy without hooks causes one
/// event.
const GATHER_MIN: Duration = Duration::from_millis(100);
/// The longest time for which changes are collected.
const GATHER_MAX: Duration = Duration::from_secs(5);
/// The most bytes that a feed sends to its streams per second, unless it would collect changes for longer than
/// [`GATHER_MAX`]. The document of 1,000 nodes has 400 KiB: 100 streams with 10 versions per second would need 400 MiB per
/// second.
const BYTES_PER_SECOND: usize = 10 * 1024 * 1024;
/// The pause after a failed read. After a failed query the watch pauses by itself.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// The last document; none before the first read.
    pub(super) seen: Option<Seen>,
    /// Why the document may be out of date; none while reads succeed.
    pub(super) trouble: Option<Trouble>,
}

/// A document as it was read.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The newest index of Consul at which the document had this content.
    pub(super) index: ModifyIndex,
    /// Counts the versions of the document, from 1.
    pub(super) edition: u64,
    pub(super) body: Body,
}

/// A task that keeps one document up to date.
pub(super) struct Feed {
    pub(super) subject: Subject,
    pub(super) access: Access,
    pub(super) state: watch::Sender<State>,
    pub(super) shutdown: CancellationToken,
}

impl Feed {
    /// Reads until shutdown, until `is_wanted` returns false, or until the token lacks the permission.
    pub(super) async fn run(self, is_wanted: impl Fn() -> bool + Send) {
        let shutdown = self.shutdown.clone();
        _ = shutdown.run_until_cancelled(self.follow(is_wanted)).await;
    }

    async fn follow(self, is_wanted: impl Fn() -> bool + Send) {
        let (client, prefix) = (self.access.kv.client(), self.subject.prefix(&self.access));
        let mut watch = Watch::prefix_index(client, prefix, Consistency::Default)
            .with_wait(QUERY_WAIT)
            .with_pace(self.subject.pace());
        let mut last = None;
        loop {
            let change = watch.next().await;
            if !is_wanted() {
                return;
            }
            let read = match change {
                Change::Seen(prefix) => {
                    if last.is_some_and(|last| last != prefix.index) {
                        tokio::time::sleep(self.gather_time()).await;
                    }
                    last = Some(prefix.index);
                    self.subject.read(&self.access).await.map(|body| (prefix.index, body))
                }
                Change::Failed(error) => Err(Failure::from(error)),
            };
            match read {
                Ok((index, body)) => self.see(index, body),
                Err(failure) => {
                    let trouble = Trouble::from_failure(&failure);
                    let severity = trouble.severity;
                    self.fail(trouble);
                    if severity == Severity::Final {
                        return;
                    }
                    watch.reset();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Stores a document that was read at `index`. Only a changed document wakes the streams.
    fn see(&self, index: ModifyIndex, body: Body) {
        self.state.send_if_modified(|state| {
            let is_clear = state.trouble.take().is_none();
            match &mut state.seen {
                Some(seen) if seen.body == body => {
                    seen.index = index;
                    !is_clear
                }
                seen => {
                    let edition = seen.as_ref().map_or(1, |seen| seen.edition + 1);
                    *seen = Some(Seen { index, edition, body });
                    true
                }
            }
        });
    }

    /// Wakes the streams when a trouble starts, and when it becomes permanent.
    fn fail(&self, trouble: Trouble) {
        self.state.send_if_modified(|state| {
            let is_new = state.trouble.as_ref().is_none_or(|known| known.severity != trouble.severity);
            if is_new {
                state.trouble = Some(trouble);
            }
            is_new
        });
    }

    fn gather_time(&self) -> Duration {
        let bytes = self.state.borrow().seen.as_ref().map_or(0, |seen| seen.body.len());
        // Each stream holds two receivers.
        gather_time(bytes, self.state.receiver_count() / 2)
    }
}

/// How long to collect changes of a document of this size for this many streams.
fn gather_time(bytes: usize, streams: usize) -> Duration {
    let millis = bytes.saturating_mul(streams).saturating_mul(1000) / BYTES_PER_SECOND;
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).clamp(GATHER_MIN, GATHER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_larger_documents_are_collected_for_longer() {
        assert_eq!(gather_time(3 * 1024, 1), GATHER_MIN);
        assert_eq!(gather_time(3 * 1024, 500), Duration::from_millis(146));
        assert_eq!(gather_time(400 * 1024, 1), GATHER_MIN);
        assert_eq!(gather_time(usize::MAX, 900), GATHER_MAX);
    }
}

//! Follows one key or prefix with blocking queries.
//!
//! Contains the rules that every watch needs: after an index that goes backwards, start again from 0; an equal index is a
//! timeout (or, if it comes too early, a restored snapshot); never wait on 0; a missing key wakes on changes of its siblings, so
//! report only real changes; retry errors with backoff and jitter.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::{Call, Client, Consistency, key_path};
use super::error::{Error, Operation};
use super::kv::{Entry, decode_all};
use crate::backoff::Backoff;
use crate::protocol::ids::ModifyIndex;

/// How long Consul may hold one query. Consul adds up to a sixteenth of it, which spreads the load.
///
/// With 10 s, 1,000 nodes caused 97 answers per second and 4 % of the agent's CPU (measured, Consul 1.8.7); 60 s is a sixth of
/// that. A longer wait would delay the discovery of a peer that hangs with an open connection, and of a snapshot that was
/// restored between two queries.
pub(crate) const WATCH_WAIT: Duration = Duration::from_mins(1);
/// How long the client waits beyond [`WATCH_WAIT`] and the sixteenth: a round trip of the agent on a loaded machine.
const WAIT_GRACE: Duration = Duration::from_secs(5);
/// The pause after the first failure. Measured with 0.5 s: a new value is seen 0.1 s after a new leader took the write.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// The longest pause: Consul's own watches go up to 180 s, and miss a recovered cluster for as long.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// The minimum interval of queries of a prefix. Each query returns the whole subtree, and 1,000 nodes answer within a second:
/// without a limit, that would be 1,000 answers with 500 entries on average. A change after a pause is still seen at once.
const PREFIX_PACE: Duration = Duration::from_millis(100);

/// The minimum interval of queries caused by wake-ups, so that frequent wake-ups cannot overload Consul.
const WAKE_PACE: Duration = Duration::from_millis(100);

/// A report of a watch.
#[derive(Debug)]
pub enum Change<T> {
    /// The current content: at first, when it differs from the last report, and after each failure.
    Seen(T),
    /// A query failed; the watch retries. The last report may be outdated.
    Failed(Error),
}

/// The content that a watch follows: `Option<Entry>` for a key, `Vec<Entry>` for a prefix, [`PrefixIndex`] for a prefix by its index alone.
pub trait Subject: Clone + PartialEq + Send + Sized {
    /// Takes the content from the entries of an answer and its index.
    #[doc(hidden)]
    fn pick(entries: Vec<Entry>, key: &str, index: Option<u64>) -> Self;
    /// The scope of the query.
    #[doc(hidden)]
    const SCOPE: Scope;
}

/// The scope of a watch's query.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Key,
    /// Every key under a prefix.
    Prefix,
    /// Only the index of a prefix.
    Index,
}

/// The index of a prefix: that of the newest change under it.
///
/// A deletion counts as long as Consul keeps its tombstone (15 minutes by default). Then the index goes back to that of the
/// newest remaining key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PrefixIndex {
    /// The index; 0 if Consul returns none.
    pub(crate) index: ModifyIndex,
}

impl Subject for Option<Entry> {
    const SCOPE: Scope = Scope::Key;

    fn pick(entries: Vec<Entry>, key: &str, _: Option<u64>) -> Self {
        entries.into_iter().find(|entry| entry.key == key)
    }
}

impl Subject for Vec<Entry> {
    const SCOPE: Scope = Scope::Prefix;

    fn pick(entries: Vec<Entry>, _: &str, _: Option<u64>) -> Self {
        entries
    }
}

impl Subject for PrefixIndex {
    const SCOPE: Scope = Scope::Index;

    fn pick(_: Vec<Entry>, _: &str, index: Option<u64>) -> Self {
        Self { index: ModifyIndex(index.unwrap_or(0)) }
    }
}

/// Wakes a [`Watch`], so that it reads again at once. Cheap to clone. Several wake-ups can be merged into one.
#[derive(Clone, Debug)]
pub struct WatchWaker(Arc<Notify>);

impl WatchWaker {
    /// Makes the watch read again now, or at its next [`Watch::next`].
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// Follows one key or prefix. Sends nothing until [`Watch::next`] is awaited.
#[derive(Debug)]
pub struct Watch<T> {
    client: Client,
    key: String,
    consistency: Consistency,
    wait: Duration,
    pace: Duration,
    waker: WatchWaker,
    /// The index that the next query waits on; with 0 it is answered at once.
    index: u64,
    /// The last report; `None` before the first one and after a failure.
    last: Option<T>,
    /// Failures in a row.
    backoff: Backoff,
    /// The earliest time of the next query, from the backoff after a failure or from the pace.
    not_before: Option<Instant>,
    /// When the last query was sent.
    sent_at: Option<Instant>,
}

impl Watch<Option<Entry>> {
    /// A watch on one key, which may be missing.
    #[must_use]
    pub fn key(client: &Client, key: impl Into<String>, consistency: Consistency) -> Self {
        Self::new(client, key.into(), consistency)
    }
}

impl Watch<Vec<Entry>> {
    /// A watch on every key under a prefix. Each change transfers the whole subtree, so use it on one node, not on all.
    #[must_use]
    pub fn prefix(client: &Client, prefix: impl Into<String>, consistency: Consistency) -> Self {
        Self::new(client, prefix.into(), consistency)
    }
}

impl Watch<PrefixIndex> {
    /// A watch on the index of a prefix that ends in `/`. Consul only returns the names of the first level, so the cost does
    /// not depend on the number of keys.
    ///
    /// Unlike the others it reports every answer, including timeouts, so that the caller can check whether the watch is still
    /// needed.
    #[must_use]
    pub(crate) fn prefix_index(client: &Client, prefix: impl Into<String>, consistency: Consistency) -> Self {
        Self::new(client, prefix.into(), consistency)
    }
}

impl<T: Subject> Watch<T> {
    fn new(client: &Client, key: String, consistency: Consistency) -> Self {
        Self {
            client: client.clone(),
            key,
            consistency,
            wait: WATCH_WAIT,
            pace: if T::SCOPE == Scope::Key { Duration::ZERO } else { PREFIX_PACE },
            waker: WatchWaker(Arc::new(Notify::new())),
            index: 0,
            last: None,
            backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX),
            not_before: None,
            sent_at: None,
        }
    }

    /// Replaces [`WATCH_WAIT`], for example in a test. Consul allows up to 10 minutes.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Replaces the minimum interval of queries, for a prefix with few keys.
    #[must_use]
    pub(crate) const fn with_pace(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// A handle that makes this watch read at once, also while [`Watch::next`] waits.
    #[must_use]
    pub fn waker(&self) -> WatchWaker {
        self.waker.clone()
    }

    /// Reads again at once at the next [`Watch::next`], and reports only a change.
    pub fn poke(&mut self) {
        self.waker.wake();
    }

    /// Forgets the last report: the next read happens at once, and is always reported.
    pub fn reset(&mut self) {
        self.index = 0;
        self.last = None;
        self.backoff.succeeded();
        self.not_before = None;
    }

    /// Waits for the next report, forever if nothing changes.
    ///
    /// A query may take the wait, a sixteenth of it, and 5 s; after that it counts as failed.
    ///
    /// # Cancel safety
    ///
    /// Safe: all progress is kept in `self` and nothing is lost, but the open query is closed and must be sent again.
    /// In a busy `select!` keep one future pinned across the turns, or give the watch a task of its own.
    pub async fn next(&mut self) -> Change<T> {
        loop {
            let waker = self.waker.clone();
            if let Some(moment) = self.not_before {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(moment) => self.not_before = None,
                    () = waker.0.notified() => {
                        self.woken();
                        continue;
                    }
                }
            }
            let started = Instant::now();
            self.sent_at = Some(started);
            // Only a blocking query is interrupted by a wake-up. Otherwise continuous wake-ups would prevent any answer.
            let is_blocking = self.index > 0;
            let result = tokio::select! {
                biased;
                result = self.query(self.index) => result,
                result = self.read_when_woken(&waker, started), if is_blocking => result,
            };
            match result {
                Ok((index, seen)) => {
                    self.backoff.succeeded();
                    self.advance(index, started);
                    if T::SCOPE == Scope::Index || self.last.as_ref() != Some(&seen) {
                        self.last = Some(seen.clone());
                        return Change::Seen(seen);
                    }
                }
                Err(error) => {
                    self.index = 0;
                    self.last = None;
                    self.not_before = Some(Instant::now() + self.backoff.pause(fastrand::f64()));
                    return Change::Failed(error);
                }
            }
        }
    }

    /// On each wake-up, reads in addition to the pending query, until a read shows a change or fails; the query may hang at a
    /// broken server. The pending query is left open: Consul keeps the connection of a canceled query until its wait is over,
    /// and allows few connections, so frequent wake-ups could use them up.
    ///
    /// `sent_at` is the time when the pending query was sent.
    async fn read_when_woken(&self, waker: &WatchWaker, mut sent_at: Instant) -> Result<(Option<u64>, T), Error> {
        loop {
            waker.0.notified().await;
            // If this future is dropped before it has read, the wake-up is passed on to the next waiter.
            let mut again = WakeOnDrop(Some(waker));
            tokio::time::sleep_until(sent_at + WAKE_PACE).await;
            sent_at = Instant::now();
            let (index, seen) = self.query(0).await?;
            again.0 = None;
            // An answer with a lower index comes from a server that is behind, and is older than the last report.
            if self.last.as_ref() != Some(&seen) && index.is_none_or(|index| index >= self.index) {
                return Ok((index, seen));
            }
        }
    }

    /// After a wake-up: the next query is answered at once, and is sent as soon as [`WAKE_PACE`] allows.
    fn woken(&mut self) {
        self.index = 0;
        self.not_before = self.sent_at.map(|sent_at| sent_at + WAKE_PACE);
    }

    /// Sets the index that the next query waits on.
    ///
    /// - Lower (a restored snapshot, or a server that is behind): 0.
    /// - Equal, after the wait: a timeout, keep the index.
    /// - Equal, but too early: a restore ends pending queries with the old content. The restored store may not reach this
    ///   index for a long time, so: 0.
    /// - Missing: 0, but not in a tight loop.
    fn advance(&mut self, index: Option<u64>, started: Instant) {
        let pause = match index {
            Some(index) if index > self.index => {
                self.index = index;
                self.pace
            }
            Some(index) if index == self.index && started.elapsed() >= self.wait => self.pace,
            Some(index) => {
                let backwards = index < self.index;
                self.index = 0;
                if backwards { self.pace } else { self.pace.max(BACKOFF_MIN) }
            }
            None => {
                self.index = 0;
                BACKOFF_MAX
            }
        };
        self.not_before = (!pause.is_zero()).then(|| started + pause);
    }

    /// Waits for a change after `index`; with 0, reads at once.
    async fn query(&self, index: u64) -> Result<(Option<u64>, T), Error> {
        let (verb, flags): (_, &[&str]) = match T::SCOPE {
            Scope::Key => ("kv watch", &[]),
            Scope::Prefix => ("kv watch prefix", &["recurse"]),
            Scope::Index => ("kv watch index", &["keys", "separator=/"]),
        };
        let operation = Operation::read(verb, self.key.as_str());
        let mut call = Call::get(operation.clone(), format!("/v1/kv/{}", key_path(&self.key)))
            .consistency(self.consistency)
            .also(&[404]);
        for flag in flags {
            call = call.flag(flag);
        }
        if index > 0 {
            call = call
                .param("index", &index.to_string())
                .param("wait", &format!("{}ms", self.wait.as_millis()))
                .blocking(self.wait + self.wait / 16 + WAIT_GRACE);
        }
        let answer = self.client.send(call).await?;
        let entries = if answer.status == StatusCode::NOT_FOUND || T::SCOPE == Scope::Index {
            Vec::new()
        } else {
            decode_all(&operation, answer.parse(&operation)?)?
        };
        Ok((answer.index, T::pick(entries, &self.key, answer.index)))
    }
}

/// Wakes the next waiter when dropped, unless the waker was taken out.
struct WakeOnDrop<'a>(Option<&'a WatchWaker>);

impl Drop for WakeOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(waker) = self.0 {
            waker.wake();
        }
    }
}

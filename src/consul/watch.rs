//! Following one key or prefix by blocking queries.
//!
//! The rules that every watch of Consul needs, kept in one place: an index that goes backwards starts again from 0, an
//! equal one is a timeout (or, too early for that, a restored snapshot), 0 is never waited on, an absent key wakes on its siblings (so only a real change of content
//! or presence is reported), and errors are retried with backoff and jitter.

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

/// How long one query rests at Consul; Consul itself adds up to a sixteenth, which spreads the fleet.
///
/// 1,000 nodes that poll with 10 s were measured at 97 answers a second and 4 % of the agent's CPU
/// (consul 1.8.7); 60 s makes that a sixth. Not longer, because a peer that hangs without closing its connection is
/// noticed only when this time is over, and so is a snapshot that was restored between two queries.
pub const WATCH_WAIT: Duration = Duration::from_mins(1);
/// What the client adds to the wait before it gives the query up: the agent's own round trip, on a loaded machine.
const WAIT_GRACE: Duration = Duration::from_secs(5);
/// The pause after the first failure. Measured with 0.5 s: a new value is seen 0.1 s after a new leader took the write.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// The longest pause: Consul's own watches go up to 180 s, and miss a recovered cluster for as long.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// The least time between two queries of a prefix. Each one brings the whole subtree, and 1,000 nodes answer within a
/// second: unpaced, that is 1,000 answers of 500 entries on average. A change after a rest is still seen at once.
const PREFIX_PACE: Duration = Duration::from_millis(100);

/// The least time between two queries because of the bell: whoever can ring it must not be able to make a storm of it.
const RING_PACE: Duration = Duration::from_millis(100);

/// What a watch has to report.
#[derive(Debug)]
pub enum Change<T> {
    /// What stands there now: the first time, whenever it differs from the last report, and after each failure.
    Seen(T),
    /// A query failed; the watch goes on by itself. What was seen last may be out of date.
    Failed(Error),
}

/// What a watch follows; `Option<Entry>` for a key, `Vec<Entry>` for a prefix, [`Stand`] for a prefix by its index alone.
pub trait Subject: Clone + PartialEq + Send + Sized {
    /// The subject among the entries of an answer, and the answer's index.
    #[doc(hidden)]
    fn pick(entries: Vec<Entry>, key: &str, index: Option<u64>) -> Self;
    /// What the query asks for.
    #[doc(hidden)]
    const SCOPE: Scope;
}

/// What a watch's query asks for.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One key.
    Key,
    /// Every key under a prefix.
    Prefix,
    /// Only whether something happens under a prefix.
    Index,
}

/// Where a prefix stands: Consul's index of the newest change under it.
///
/// A deleted key counts for as long as Consul keeps its tombstone (15 minutes by default); then the index goes back to
/// that of the newest key that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// The index; 0 where Consul names none.
    pub index: ModifyIndex,
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

impl Subject for Stand {
    const SCOPE: Scope = Scope::Index;

    fn pick(_: Vec<Entry>, _: &str, index: Option<u64>) -> Self {
        Self { index: ModifyIndex(index.unwrap_or(0)) }
    }
}

/// Wakes a [`Watch`] from elsewhere: it reads again at once. Cheap to clone; ringing twice is ringing once.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<Notify>);

impl Doorbell {
    /// Makes the watch read again now, or at its next [`Watch::next`].
    pub fn ring(&self) {
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
    doorbell: Doorbell,
    /// Where the next query waits from; 0: it answers at once.
    index: u64,
    /// What was reported last; `None` before the first report and after a failure.
    last: Option<T>,
    /// Failures in a row.
    backoff: Backoff,
    /// No query before this moment: the backoff after a failure, or the pace.
    not_before: Option<Instant>,
    /// When the last query was sent.
    asked: Option<Instant>,
}

impl Watch<Option<Entry>> {
    /// A watch on exactly one key, which may be absent.
    #[must_use]
    pub fn key(client: &Client, key: impl Into<String>, consistency: Consistency) -> Self {
        Self::new(client, key.into(), consistency)
    }
}

impl Watch<Vec<Entry>> {
    /// A watch on every key under a prefix. Each change brings the whole subtree: for one reader, never for a fleet.
    #[must_use]
    pub fn prefix(client: &Client, prefix: impl Into<String>, consistency: Consistency) -> Self {
        Self::new(client, prefix.into(), consistency)
    }
}

impl Watch<Stand> {
    /// A watch on whatever happens under a prefix that ends in `/`. Consul answers with the names of the first level
    /// alone, so it costs the same however much lies there.
    ///
    /// Unlike the others it reports every answer, also the one that only says that the wait is over: whoever reads for
    /// others looks then whether anybody still wants it.
    #[must_use]
    pub fn stand(client: &Client, prefix: impl Into<String>, consistency: Consistency) -> Self {
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
            doorbell: Doorbell(Arc::new(Notify::new())),
            index: 0,
            last: None,
            backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX),
            not_before: None,
            asked: None,
        }
    }

    /// Another wait than [`WATCH_WAIT`], for example for a test; Consul takes up to 10 minutes.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Another least time between two queries, for a prefix with few keys under it.
    #[must_use]
    pub const fn with_pace(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// The bell that makes this watch read at once, also while [`Watch::next`] waits.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    /// Reads again at once at the next [`Watch::next`], and reports only a change.
    pub fn poke(&mut self) {
        self.doorbell.ring();
    }

    /// Forgets what was seen: the next read is at once, and is reported whatever it shows.
    pub fn reset(&mut self) {
        self.index = 0;
        self.last = None;
        self.backoff.succeeded();
        self.not_before = None;
    }

    /// Waits for the next thing to report: without end, if nothing changes.
    ///
    /// One query is at most the wait, a sixteenth of it, and 5 s long; then it counts as failed.
    ///
    /// # Cancel safety
    ///
    /// Safe: all progress is kept in `self` and nothing is lost, but the open query is closed and must be sent again.
    /// In a busy `select!` keep one future pinned across the turns, or give the watch a task of its own.
    pub async fn next(&mut self) -> Change<T> {
        loop {
            let bell = self.doorbell.clone();
            if let Some(moment) = self.not_before {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(moment) => self.not_before = None,
                    () = bell.0.notified() => {
                        self.rung();
                        continue;
                    }
                }
            }
            let started = Instant::now();
            self.asked = Some(started);
            // A query that answers at once is let answer, or rings without end would keep it from ever doing so.
            let may_rest = self.index > 0;
            let result = tokio::select! {
                biased;
                result = self.query(self.index) => result,
                result = self.look_when_rung(&bell, started), if may_rest => result,
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

    /// Reads besides the query that rests whenever somebody rings, until that shows something new or fails: the query may
    /// hang at a server that is ill. It is left open meanwhile: Consul keeps the connection of a query that was given up
    /// until its wait is over, and takes few, so whoever can ring could use them up.
    ///
    /// `asked` is when the resting query was sent.
    async fn look_when_rung(&self, bell: &Doorbell, mut asked: Instant) -> Result<(Option<u64>, T), Error> {
        loop {
            bell.0.notified().await;
            // Dropped before it has read, it rings again for whoever waits next.
            let mut again = RingOnDrop(Some(bell));
            tokio::time::sleep_until(asked + RING_PACE).await;
            asked = Instant::now();
            let (index, seen) = self.query(0).await?;
            again.0 = None;
            // A server that is behind has nothing new to show.
            if self.last.as_ref() != Some(&seen) && index.is_none_or(|index| index >= self.index) {
                return Ok((index, seen));
            }
        }
    }

    /// Somebody rang: the next query answers at once, and is sent as soon as [`RING_PACE`] allows.
    fn rung(&mut self) {
        self.index = 0;
        self.not_before = self.asked.map(|asked| asked + RING_PACE);
    }

    /// Where the next query waits from.
    ///
    /// - Backwards (a restored snapshot, or a server that is behind): from the start.
    /// - Equal, and the wait is over: a timeout, go on.
    /// - Equal, and too early: a restore gives up the queries that rest, with what they saw before it. The index may be
    ///   one that the restored store will not reach for long, so: from the start.
    /// - None at all: from the start, but not in a tight loop.
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

    /// Waits for something newer than `index`; 0: reads at once.
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
                .resting(self.wait + self.wait / 16 + WAIT_GRACE);
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

/// Rings the bell when it is dropped with one.
struct RingOnDrop<'a>(Option<&'a Doorbell>);

impl Drop for RingOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(bell) = self.0 {
            bell.ring();
        }
    }
}

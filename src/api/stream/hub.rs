//! The running feeds and the open streams, and their limits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::feed::{Feed, State};
use super::subject::Subject;
use super::wanted::Wanted;
use super::{MOST_FEEDS, MOST_FEEDS_PER_TOKEN, MOST_STREAMS, MOST_STREAMS_PER_TOKEN, Refused};
use crate::consul::TokenDigest;
use crate::control::Access;
use crate::protocol::ids::Unit;

/// All streams of an agent. Cheap to clone; clones are the same hub.
#[derive(Clone, Debug)]
pub struct Hub {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shutdown: CancellationToken,
    tasks: TaskTracker,
    board: Mutex<Board>,
}

#[derive(Debug, Default)]
struct Board {
    feeds: HashMap<FeedId, Running>,
    /// The number of open streams per token; an entry is removed at zero.
    streams: HashMap<TokenDigest, usize>,
    /// The number of feeds started so far, which distinguishes a feed from its successor.
    begun: u64,
}

/// The identity of a feed. It contains the token, because only callers with the same token share a feed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FeedId {
    token: TokenDigest,
    subject: Subject,
}

#[derive(Debug)]
struct Running {
    state: watch::Sender<State>,
    number: u64,
}

/// Counts one open stream until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    hub: Hub,
    token: TokenDigest,
}

/// Removes a feed from the board when its task ends.
struct Registration {
    hub: Hub,
    id: FeedId,
    number: u64,
}

impl Hub {
    /// A hub whose streams and feeds end when `shutdown` is cancelled. The feeds run as tasks of `tasks`.
    #[must_use]
    pub fn new(shutdown: CancellationToken, tasks: TaskTracker) -> Self {
        Self { inner: Arc::new(Inner { shutdown, tasks, board: Mutex::default() }) }
    }

    /// The wanted units that no feed with this caller's token follows yet.
    #[must_use]
    pub(crate) fn unfollowed<'a>(&self, access: &Access, wanted: &'a Wanted) -> Vec<&'a Unit> {
        let token = access.kv.client().token_digest();
        let id = |unit: &Unit| FeedId { token, subject: Subject::Status(unit.clone()) };
        let board = self.board();
        wanted.units.iter().filter(|unit| !board.feeds.contains_key(&id(unit))).collect()
    }

    /// The number of documents that are followed now.
    #[must_use]
    pub fn feeds(&self) -> usize {
        self.board().feeds.len()
    }

    /// The number of open streams.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.board().streams.values().sum()
    }

    /// Cancelled when the agent stops.
    pub(super) fn shutdown(&self) -> &CancellationToken {
        &self.inner.shutdown
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.inner.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn permit(&self, access: &Access) -> Result<Permit, Refused> {
        let token = access.kv.client().token_digest();
        let mut board = self.board();
        if board.streams.values().sum::<usize>() >= MOST_STREAMS {
            return Err(Refused::TooManyStreams);
        }
        let of_token = board.streams.entry(token).or_default();
        if *of_token >= MOST_STREAMS_PER_TOKEN {
            return Err(Refused::TooManyOfToken);
        }
        *of_token += 1;
        Ok(Permit { hub: self.clone(), token })
    }

    /// Subscribes to the feed of this document; starts the feed if there is none.
    ///
    /// # Errors
    ///
    /// [`Refused::TooManyFeeds`], [`Refused::TooManyFeedsOfToken`].
    pub(super) fn subscribe(&self, access: &Access, subject: &Subject) -> Result<watch::Receiver<State>, Refused> {
        let id = FeedId { token: access.kv.client().token_digest(), subject: subject.clone() };
        let mut board = self.board();
        let (count, number) = (board.feeds.len(), board.begun);
        let of_token = board.feeds.keys().filter(|it| it.token == id.token).count();
        let vacant = match board.feeds.entry(id.clone()) {
            Entry::Occupied(running) => return Ok(running.get().state.subscribe()),
            Entry::Vacant(_) if of_token >= MOST_FEEDS_PER_TOKEN => return Err(Refused::TooManyFeedsOfToken),
            Entry::Vacant(_) if count >= MOST_FEEDS => return Err(Refused::TooManyFeeds),
            Entry::Vacant(vacant) => vacant,
        };
        let (state, receiver) = watch::channel(State::default());
        vacant.insert(Running { state: state.clone(), number });
        board.begun += 1;
        drop(board);
        let registration = Registration { hub: self.clone(), id, number };
        let (subject, access) = (subject.clone(), access.clone());
        let feed = Feed { subject, access, state, shutdown: self.inner.shutdown.clone() };
        self.inner.tasks.spawn(async move { feed.run(|| registration.is_wanted()).await });
        Ok(receiver)
    }
}

impl Registration {
    /// Whether a stream still uses the feed. An unused feed is removed; a later stream starts a new one.
    fn is_wanted(&self) -> bool {
        let mut board = self.hub.board();
        let Some(running) = self.running(&board) else { return false };
        let is_wanted = running.state.receiver_count() > 0;
        if !is_wanted {
            board.feeds.remove(&self.id);
        }
        is_wanted
    }

    fn running<'a>(&self, board: &'a Board) -> Option<&'a Running> {
        board.feeds.get(&self.id).filter(|running| running.number == self.number)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut board = self.hub.board();
        if self.running(&board).is_some() {
            board.feeds.remove(&self.id);
        }
        let (subject, left) = (&self.id.subject, board.feeds.len());
        tracing::debug!(%subject, left, "stopped reading {subject} for streams; {left} documents are still read");
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut board = self.hub.board();
        if let Entry::Occupied(mut count) = board.streams.entry(self.token) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

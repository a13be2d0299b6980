//! One open stream: sends the documents of its feeds that the client does not have yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::response::sse::Event;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamMap};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Refused;
use super::events::{self, Severity, Trouble};
use super::feed::State;
use super::hub::{Hub, Permit};
use super::subject::{Body, Subject};
use super::wanted::{EventId, Wanted};
use crate::control::Access;
use crate::protocol::ids::{ModifyIndex, Unit};

/// The longest time without an event, after which a ping is sent. Proxies close a connection without data after a minute,
/// and only a write reveals that the client is gone.
const SILENCE: Duration = Duration::from_secs(15);

/// The events of one client. Ends at shutdown, or when the client's token may not read a document.
pub struct Open {
    hub: Hub,
    access: Access,
    /// The last event that the client received on an earlier stream.
    after: Option<EventId>,
    feeds: StreamMap<Subject, WatchStream<State>>,
    followed: BTreeMap<Subject, Followed>,
    /// The events to send next. Usually one; several if units appear or disappear together.
    queue: VecDeque<Event>,
    last_id: Option<EventId>,
    has_trouble: bool,
    has_ended: bool,
    silence: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: Permit,
}

/// The state of one document on this stream.
struct Followed {
    state: watch::Receiver<State>,
    /// The edition that was sent last; 0 before the first one.
    edition: u64,
    /// The index of Consul at which that edition was read.
    index: ModifyIndex,
    /// The [`Body::digest`] of that edition.
    digest: u32,
    /// Whether the document must be sent again although it has not changed, because the client was told of trouble.
    is_due: bool,
    is_gone: bool,
}

impl Followed {
    /// The index of Consul up to which the client has this document; none before the first edition.
    fn covered(&self) -> Option<EventId> {
        if self.edition == 0 {
            return None;
        }
        let state = self.state.borrow();
        // The feed may have confirmed the same edition at a later index without waking the streams.
        let newer = state.seen.as_ref().filter(|seen| seen.edition == self.edition).map(|seen| seen.index);
        Some(EventId { index: newer.unwrap_or(self.index), digest: self.digest })
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("followed", &self.followed.keys()).finish_non_exhaustive()
    }
}

impl Hub {
    /// Opens a stream with the permissions of `access`. `last_event_id` is the id of the last event that the client
    /// received. A document that has not changed since then is not sent again.
    ///
    /// # Errors
    ///
    /// [`Refused`] at a limit, or while the agent stops. Errors of Consul are reported as events of the stream.
    pub fn open(&self, access: &Access, wanted: &Wanted, last_event_id: Option<EventId>) -> Result<Open, Refused> {
        if self.shutdown().is_cancelled() {
            return Err(Refused::Stopping);
        }
        let permit = self.permit(access)?;
        let after = last_event_id.or(wanted.last_event_id);
        Open::new(self.clone(), permit, access.clone(), wanted.subjects(), after)
    }
}

impl Open {
    fn new(
        hub: Hub,
        permit: Permit,
        access: Access,
        subjects: Vec<Subject>,
        after: Option<EventId>,
    ) -> Result<Self, Refused> {
        let shutdown = Box::pin(hub.shutdown().clone().cancelled_owned());
        let mut open = Self {
            hub,
            access,
            after,
            feeds: StreamMap::new(),
            followed: BTreeMap::new(),
            queue: VecDeque::from([events::greeting()]),
            last_id: None,
            has_trouble: false,
            has_ended: false,
            silence: Box::pin(tokio::time::sleep(SILENCE)),
            shutdown,
            _permit: permit,
        };
        for subject in subjects {
            open.follow(subject)?;
        }
        Ok(open)
    }

    fn follow(&mut self, subject: Subject) -> Result<(), Refused> {
        let state = self.hub.subscribe(&self.access, &subject)?;
        self.feeds.insert(subject.clone(), WatchStream::new(state.clone()));
        let followed = Followed { state, edition: 0, index: ModifyIndex(0), digest: 0, is_due: false, is_gone: false };
        self.followed.insert(subject, followed);
        Ok(())
    }

    /// Handles a new state of a feed.
    fn take(&mut self, subject: &Subject, state: State) {
        let Some(followed) = self.followed.get_mut(subject) else { return };
        if let Some(trouble) = &state.trouble {
            followed.is_due = true;
            self.trouble(trouble);
            return;
        }
        let Some(seen) = state.seen else { return };
        if seen.edition == followed.edition && !followed.is_due {
            return;
        }
        // Skip the document only if the client has exactly this one. A higher index is not enough, because the index of a
        // restored Consul starts lower.
        let newest = EventId { index: seen.index, digest: seen.body.digest() };
        let is_known = followed.edition == 0 && !followed.is_due && self.after == Some(newest);
        followed.digest = newest.digest;
        (followed.edition, followed.index, followed.is_due) = (seen.edition, seen.index, false);
        followed.is_gone = seen.body == Body::Gone;
        self.has_trouble = false;
        if is_known && *subject != Subject::Units {
            return;
        }
        let id = self.id();
        self.queue_event(events::news(subject, &seen.body), id);
        if let Body::Units(units) = &seen.body {
            self.see_units(units);
        }
    }

    /// Follows new units, and reports removed units to the client.
    fn see_units(&mut self, units: &BTreeSet<Unit>) {
        let wanted: BTreeSet<Subject> = units.iter().cloned().map(Subject::Status).collect();
        let known: BTreeSet<Subject> = self.followed.keys().filter(|it| **it != Subject::Units).cloned().collect();
        for subject in known.difference(&wanted) {
            self.feeds.remove(subject);
            if self.followed.remove(subject).is_some_and(|followed| !followed.is_gone) {
                self.queue_event(events::gone(subject), None);
            }
        }
        for subject in wanted.difference(&known) {
            if let Err(refused) = self.follow(subject.clone()) {
                self.trouble(&Trouble::from_refusal(&refused));
                return;
            }
        }
    }

    /// Reports a trouble once, even if it affects several documents.
    fn trouble(&mut self, trouble: &Trouble) {
        let ends = trouble.severity == Severity::Final;
        if !self.has_trouble || ends {
            self.queue_event(trouble.event(), None);
        }
        self.has_trouble = true;
        self.has_ended |= ends;
    }

    /// The id from which the client can resume: every document was sent at this index or later. None while a document is
    /// missing.
    ///
    /// It is the lowest of the documents' indexes. With a higher one, a change of another document that was not sent yet
    /// would be skipped.
    fn id(&self) -> Option<EventId> {
        let documents = self.followed.iter().filter(|(subject, _)| **subject != Subject::Units);
        let covered: Option<Vec<EventId>> = documents.map(|(_, followed)| followed.covered()).collect();
        covered?.into_iter().min_by_key(|id| id.index)
    }

    fn queue_event(&mut self, event: Event, id: Option<EventId>) {
        self.queue.push_back(match id {
            Some(id) => event.id(id.to_string()),
            None => event,
        });
        self.last_id = id.or(self.last_id);
    }

    /// Queues a ping. It carries the id if the id has changed since the last event.
    fn ping(&mut self) {
        let id = self.id().filter(|id| Some(*id) != self.last_id);
        self.queue_event(events::ping(), id);
    }
}

impl Stream for Open {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = self.get_mut();
        if this.shutdown.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        loop {
            if let Some(event) = this.queue.pop_front() {
                this.silence.as_mut().reset(Instant::now() + SILENCE);
                return Poll::Ready(Some(event));
            }
            if this.has_ended {
                return Poll::Ready(None);
            }
            match Pin::new(&mut this.feeds).poll_next(context) {
                Poll::Ready(Some((subject, state))) => this.take(&subject, state),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending if this.silence.as_mut().poll(context).is_ready() => this.ping(),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

//! A candidate for coordinator, and what it does while it holds the lock; `src/agent/coordinator/candidate.rs` and `leading.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Sim;
use super::agenda::{Answer, Ask, Task, Timer};
use crate::consul::{Op as TxnOp, Session};
use crate::protocol::coordinator::{Coordinator, Decision, Now, Snapshot};
use crate::protocol::record::Barrier;
use crate::protocol::transition::Transition;

const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How long without a renewal it still acts.
const IN_DOUBT_AFTER: Duration = Duration::from_secs(8);
const JITTER_MS: u64 = 150;
const PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// How far a candidate is.
#[derive(Debug)]
pub(crate) enum Stand {
    /// Is the lock free?
    Asking,
    /// A session to take it with.
    Creating {
        begun: Duration,
    },
    /// What was held is given back, or a try has failed.
    Ending {
        has_led: bool,
        session: Session,
    },
    Leading(Box<Lead>),
    Taking {
        begun: Duration,
        session: Session,
    },
    /// Another holds it.
    Watching,
}

impl Stand {
    pub(crate) const fn is_leading(&self) -> bool {
        matches!(self, Self::Leading(_))
    }

    /// Whether it coordinates, and does nothing because a person must look.
    pub(crate) fn is_halted(&self) -> bool {
        matches!(self, Self::Leading(lead) if lead.halted.is_some())
    }
}

/// How far a round is.
#[derive(Debug)]
enum Round {
    /// Waits for a change, or a moment.
    Resting,
    /// The catalog is read apart from the keys, before or after them.
    Catalog {
        keys: Option<Box<Snapshot>>,
    },
    Keys {
        is_full: bool,
    },
    History {
        keys: Box<Snapshot>,
    },
    Resolving,
    /// Decided; about to be sent.
    Sending,
    Writing,
    /// A read or a write has failed.
    Pausing,
}

/// The coordinator, for as long as it holds the lock.
#[derive(Debug)]
pub(crate) struct Lead {
    session: Session,
    coordinator: Coordinator,
    began: Duration,
    renewed: Duration,
    asked: Duration,
    round: Round,
    /// The keys changed since the round began.
    is_notified: bool,
    /// What this node has followed, as it was before the keys were read.
    floor: Option<Barrier>,
    /// The catalog, where it was read before the keys.
    catalog: Option<BTreeSet<String>>,
    is_busy: bool,
    pause: Duration,
    /// Counts the waits.
    wait: u64,
    halted: Option<String>,
}

impl Sim {
    fn lead(&mut self, i: usize) -> Option<&mut Lead> {
        match &mut self.agent(i).stand {
            Stand::Leading(lead) => Some(lead),
            _ => None,
        }
    }

    /// The lock may be free.
    pub(crate) fn stand(&mut self, i: usize) {
        if matches!(self.agent(i).stand, Stand::Watching) {
            self.agent(i).stand = Stand::Asking;
            let key = self.kv.names.coordinator();
            self.call(i, Task::Stand, Ask::Key(key));
        }
    }

    fn watch_lock(&mut self, i: usize, pause: Duration) {
        self.agent(i).stand = Stand::Watching;
        let jitter = self.chance.within_ms(JITTER_MS);
        self.timer(i, pause + jitter, Timer::Stand);
    }

    fn around_a_second(&mut self) -> Duration {
        self.chance.span(Duration::from_millis(500), Duration::from_millis(1500))
    }

    pub(crate) fn stand_answered(&mut self, i: usize, answer: Answer) {
        let now = self.now;
        let stand = std::mem::replace(&mut self.agent(i).stand, Stand::Watching);
        match (stand, answer) {
            (Stand::Asking, Answer::Key(Some(seen))) if seen.holder.is_some() => {
                // A query that rests with this index is answered at once if the lock has changed since.
                if seen.index != self.lock_at {
                    self.watch_lock(i, Duration::ZERO);
                }
            }
            (Stand::Asking, Answer::Key(_)) => {
                self.agent(i).stand = Stand::Creating { begun: now };
                self.call(i, Task::Stand, Ask::Create);
            }
            (Stand::Creating { begun }, Answer::Created(Some(session))) => {
                self.agent(i).stand = Stand::Taking { begun, session };
                let (key, name) = (self.kv.names.coordinator(), self.nodes[i].name.to_string());
                let lock = TxnOp::Lock { key, value: name.into_bytes().into(), session };
                self.call(i, Task::Stand, Ask::Txn(vec![lock]));
            }
            (Stand::Taking { begun, session }, Answer::Txn(Ok(_))) => self.begin_to_lead(i, begun, session),
            (Stand::Taking { session, .. }, _) => {
                self.agent(i).stand = Stand::Ending { has_led: false, session };
                self.call(i, Task::Stand, Ask::Destroy(session));
            }
            (Stand::Ending { has_led: true, session }, _) => {
                self.agent(i).stand = Stand::Ending { has_led: false, session };
                self.call(i, Task::Stand, Ask::Destroy(session));
            }
            (Stand::Leading(lead), answer) => {
                self.agent(i).stand = Stand::Leading(lead);
                self.round_answered(i, answer);
            }
            // Beaten, failed, or done with: it looks again after a while.
            (_, _) => {
                let pause = self.around_a_second();
                self.watch_lock(i, pause);
            }
        }
    }

    fn begin_to_lead(&mut self, i: usize, begun: Duration, session: Session) {
        say!(self, "{} coordinates", self.nodes[i].name);
        self.cover_phase("takeover", i);
        let name = self.nodes[i].name.clone();
        let coordinator = Coordinator::new(name, self.kv_unit(), self.mix.policy.clone());
        self.agent(i).stand = Stand::Leading(Box::new(Lead {
            session,
            coordinator,
            began: self.now,
            renewed: begun,
            asked: begun,
            round: Round::Resting,
            is_notified: false,
            floor: None,
            catalog: None,
            is_busy: false,
            pause: PAUSE,
            wait: 0,
            halted: None,
        }));
        self.timer(i, Duration::from_micros(1), Timer::Renew);
        self.doubt_later(i, begun);
        self.look(i);
    }

    fn doubt_later(&mut self, i: usize, renewed: Duration) {
        let pause = (renewed + IN_DOUBT_AFTER).saturating_sub(self.now);
        self.timer(i, pause, Timer::Doubt);
    }

    /// Not renewed for too long: others may have the lock by now.
    pub(crate) fn doubts(&mut self, i: usize) {
        let now = self.now;
        // What this clock takes for the time is a little off where it drifts.
        if self.lead(i).is_some_and(|lead| now + Duration::from_millis(900) >= lead.renewed + IN_DOUBT_AFTER) {
            self.coverage.hit("leaves in doubt");
            self.leave(i);
        }
    }

    pub(crate) fn renew_lock(&mut self, i: usize) {
        let now = self.now;
        let Some(lead) = self.lead(i) else { return };
        let session = lead.session;
        lead.asked = now;
        self.timer(i, RENEW_EVERY, Timer::Renew);
        self.call(i, Task::Renew, Ask::Renew(session));
    }

    pub(crate) fn renew_answered(&mut self, i: usize, answer: &Answer) {
        let Some(lead) = self.lead(i) else { return };
        match answer {
            Answer::Done(true) => {
                lead.renewed = lead.asked;
                let renewed = lead.renewed;
                self.doubt_later(i, renewed);
            }
            Answer::Done(false) => {
                self.coverage.hit("leaves without session");
                self.leave(i);
            }
            _ => {}
        }
    }

    /// Leads no longer: a goodbye, which may not arrive.
    fn leave(&mut self, i: usize) {
        let Some(lead) = self.lead(i) else { return };
        let session = lead.session;
        say!(self, "{} coordinates no longer", self.nodes[i].name);
        self.agent(i).stand = Stand::Ending { has_led: true, session };
        self.call(i, Task::Stand, Ask::Release(session));
    }

    /// Something changed that a coordinator watches.
    pub(crate) fn wake_leader(&mut self, i: usize) {
        let Some(lead) = self.lead(i) else { return };
        if std::mem::replace(&mut lead.is_notified, true) || !matches!(lead.round, Round::Resting) {
            return;
        }
        let wait = lead.wait;
        let pause = self.chance.within_ms(self.mix.latency_ms);
        self.timer(i, pause, Timer::Look(wait));
    }

    pub(crate) fn look_again(&mut self, i: usize, wait: u64) {
        if self.lead(i).is_some_and(|lead| lead.wait == wait) {
            self.look(i);
        }
    }

    fn look(&mut self, i: usize) {
        let floor = self.nodes[i].journal().record;
        let is_catalog_first = self.chance.one_in(2);
        let Some(lead) = self.lead(i) else { return };
        lead.wait += 1;
        lead.is_notified = false;
        lead.floor = floor;
        let ask = if lead.is_busy && is_catalog_first {
            lead.round = Round::Catalog { keys: None };
            Ask::Catalog
        } else {
            lead.round = Round::Keys { is_full: lead.is_busy };
            Ask::Snapshot { is_full: lead.is_busy }
        };
        self.call(i, Task::Stand, ask);
    }

    fn round_answered(&mut self, i: usize, answer: Answer) {
        let Some(lead) = self.lead(i) else { return };
        let round = std::mem::replace(&mut lead.round, Round::Resting);
        match (round, answer) {
            (Round::Keys { is_full: false }, Answer::Snapshot(keys)) => {
                lead.is_busy = keys.is_busy();
                if lead.is_busy {
                    lead.round = Round::Keys { is_full: true };
                    self.call(i, Task::Stand, Ask::Snapshot { is_full: true });
                } else {
                    self.decide(i, keys);
                }
            }
            (Round::Keys { is_full: true }, Answer::Snapshot(keys)) if lead.catalog.is_none() => {
                lead.round = Round::Catalog { keys: Some(keys) };
                self.call(i, Task::Stand, Ask::Catalog);
            }
            (Round::Keys { is_full: true }, Answer::Snapshot(keys)) => self.read_history(i, keys),
            (Round::Catalog { keys }, Answer::Catalog(catalog)) => {
                lead.catalog = Some(catalog);
                if let Some(keys) = keys {
                    self.read_history(i, keys);
                } else {
                    lead.round = Round::Keys { is_full: true };
                    self.call(i, Task::Stand, Ask::Snapshot { is_full: true });
                }
            }
            (Round::History { mut keys }, Answer::Key(seen)) => {
                let key = "history";
                keys.history = seen.and_then(|seen| crate::protocol::record::decode(key, &seen.value).ok());
                self.decide(i, keys);
            }
            (Round::Resolving, Answer::Resolved(epoch, result)) => {
                lead.coordinator.resolved(epoch, *result);
                self.look(i);
            }
            (Round::Writing, Answer::Txn(Ok(_))) => self.look(i),
            (Round::Writing, Answer::Txn(Err(refusals))) => {
                // Every transition begins with the check of the lock.
                if refusals.iter().any(|(place, _)| *place == 0) {
                    self.coverage.hit("leaves fenced");
                    return self.leave(i);
                }
                let pause = Duration::from_millis(20);
                self.rest(i, Round::Pausing, pause);
            }
            (_, _) => {
                let pause = lead.pause;
                lead.pause = (pause * 2).min(LONGEST_PAUSE);
                self.rest(i, Round::Pausing, pause);
            }
        }
    }

    fn rest(&mut self, i: usize, round: Round, pause: Duration) {
        let Some(lead) = self.lead(i) else { return };
        lead.round = round;
        lead.catalog = None;
        let wait = lead.wait;
        self.timer(i, pause, Timer::Look(wait));
    }

    /// The history is read by the epoch of the barrier that was read.
    fn read_history(&mut self, i: usize, mut keys: Box<Snapshot>) {
        let Some(lead) = self.lead(i) else { return };
        keys.catalog = lead.catalog.take().unwrap_or_default();
        let epoch = keys.barrier.as_ref().and_then(|slot| slot.value.as_ref().ok()).map(|barrier| barrier.epoch);
        let Some(epoch) = epoch else { return self.decide(i, keys) };
        lead.round = Round::History { keys };
        let key = self.kv.names.history(epoch);
        self.call(i, Task::Stand, Ask::Key(key));
    }

    fn decide(&mut self, i: usize, mut keys: Box<Snapshot>) {
        let (wall, at, pace) = (self.wall(i), self.now, self.nodes[i].pace);
        let Some(lead) = self.lead(i) else { return };
        lead.pause = PAUSE;
        lead.is_busy = keys.is_busy();
        keys.floor = lead.floor.take();
        let monotonic = at.saturating_sub(lead.began) * pace / 1000;
        let decision = lead.coordinator.decide(Now { monotonic, wall }, &keys);
        if !matches!(decision, Decision::Halt { .. }) {
            lead.halted = None;
        }
        let until = match decision {
            Decision::Resolve { epoch, request } => {
                lead.round = Round::Resolving;
                self.call(i, Task::Stand, Ask::Resolve(epoch, request));
                return;
            }
            Decision::Write(transition) => {
                lead.round = Round::Sending;
                // Anything can come between a decision and its way to Consul.
                let pause = self.chance.within_ms(2);
                return self.timer(i, pause, Timer::Send(transition));
            }
            Decision::Halt { reason } => {
                if lead.halted.as_ref() != Some(&reason) {
                    lead.halted = Some(reason.clone());
                    self.coverage.hit("halts");
                    say!(self, "{} halts: {reason}", self.nodes[i].name);
                }
                None
            }
            Decision::StandDown { record } => panic!("no program of this world is newer: {record}"),
            Decision::Stay { until } => until,
        };
        let Some(lead) = self.lead(i) else { return };
        let is_notified = lead.is_notified;
        let left = until.map_or(LOOK_AGAIN, |until| until.saturating_sub(monotonic)).min(LOOK_AGAIN);
        self.rest(i, Round::Resting, if is_notified { Duration::from_micros(1) } else { left });
    }

    pub(crate) fn send(&mut self, i: usize, transition: Box<Transition>) {
        let Some(lead) = self.lead(i) else { return };
        if matches!(lead.round, Round::Sending) {
            lead.round = Round::Writing;
            let session = lead.session;
            self.call(i, Task::Stand, Ask::Transition(session, transition));
        }
    }
}

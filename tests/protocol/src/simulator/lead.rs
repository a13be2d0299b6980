//! A candidate for coordinator, as `src/agent/coordinator/candidate.rs` has it, and the rounds of one that holds the lock:
//! the product's own machine, [`rounds::Lead`], whose steps are carried out here.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Sim;
use super::agenda::{Answer, Ask, Task, Timer};
use crate::consul::{Op as TxnOp, Session};
use crate::protocol::coordinator::{Coordinator, Now};
use crate::protocol::shell::lead::{self as rounds, Event, Moment, Outcome, Step};
use crate::protocol::transition::Transition;

const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How long without a renewal it still acts.
const IN_DOUBT_AFTER: Duration = Duration::from_secs(8);
const JITTER_MS: u64 = 150;

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
        matches!(self, Self::Leading(lead) if lead.is_halted)
    }
}

/// The coordinator, for as long as it holds the lock: the product's own rounds, and what carries them out here.
#[derive(Debug)]
pub(crate) struct Lead {
    session: Session,
    machine: rounds::Lead,
    began: Duration,
    renewed: Duration,
    asked: Duration,
    /// A change is on its way to it.
    is_called: bool,
    /// The machine has halted, and has not resumed.
    is_halted: bool,
    /// Somebody's hand was on the keys when its newest read began.
    reads_tampered: bool,
    /// Counts what it waits for: only the newest wakes it.
    wakes: u64,
    /// The transaction that waits to be sent, by its ticket.
    sending: Option<u64>,
    /// The rounds that have asked Consul, by the question's ticket.
    rounds: BTreeMap<u64, u64>,
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
        let (name, at) = (self.nodes[i].name.clone(), self.kv.names.clone());
        let coordinator = Coordinator::new(name, self.kv_unit(), self.mix.policy.clone());
        self.agent(i).stand = Stand::Leading(Box::new(Lead {
            session,
            machine: rounds::Lead::new(coordinator, at),
            began: self.now,
            renewed: begun,
            asked: begun,
            is_called: false,
            is_halted: false,
            reads_tampered: false,
            wakes: 0,
            sending: None,
            rounds: BTreeMap::new(),
        }));
        self.timer(i, Duration::from_micros(1), Timer::Renew);
        self.doubt_later(i, begun);
        self.lead_on(i, Event::Due);
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
        if std::mem::replace(&mut lead.is_called, true) {
            return;
        }
        let pause = self.chance.within_ms(self.mix.latency_ms);
        self.timer(i, pause, Timer::Changed);
    }

    /// A watch of the coordinator's has seen the change.
    pub(crate) fn has_changed(&mut self, i: usize) {
        if let Some(lead) = self.lead(i) {
            lead.is_called = false;
            self.lead_on(i, Event::Changed);
        }
    }

    /// What it waited for has come, unless it waits for something else by now.
    pub(crate) fn is_due(&mut self, i: usize, wake: u64) {
        if self.lead(i).is_some_and(|lead| lead.wakes == wake) {
            self.lead_on(i, Event::Due);
        }
    }

    fn ask(&mut self, i: usize, round: u64, ask: Ask) {
        let ticket = self.call(i, Task::Round, ask);
        if let Some(lead) = self.lead(i) {
            lead.rounds.insert(ticket, round);
        }
    }

    /// Consul has answered what a round has asked, or nobody heard of it.
    pub(crate) fn round_answered(&mut self, i: usize, ticket: u64, answer: Answer) {
        // Another has led since, or nobody leads.
        let Some(round) = self.lead(i).and_then(|lead| lead.rounds.remove(&ticket)) else { return };
        let event = match answer {
            Answer::Snapshot(keys) => Event::Keys { round, keys },
            Answer::Catalog(nodes) => Event::Catalog { round, nodes },
            Answer::Key(seen) => Event::History { round, value: seen.map(|seen| seen.value.to_vec()) },
            Answer::Resolved(result) => Event::Resolved { round, result },
            Answer::Txn(Ok(_)) => Event::Written { round, outcome: Outcome::Applied },
            // Every transition begins with the check of the lock.
            Answer::Txn(Err(refusals)) if refusals.iter().any(|(place, _)| *place == 0) => {
                Event::Written { round, outcome: Outcome::Lost }
            }
            Answer::Txn(Err(_)) => Event::Written { round, outcome: Outcome::Conflict },
            Answer::Barrier(_)
            | Answer::Created(_)
            | Answer::Done(_)
            | Answer::First(_)
            | Answer::Lost
            | Answer::SessionNode(_) => Event::Failed { round },
        };
        self.lead_on(i, event);
    }

    fn lead_on(&mut self, i: usize, event: Event) {
        let (wall, at, pace) = (self.wall(i), self.now, self.nodes[i].pace);
        let followed = self.nodes[i].journal().record;
        let chance = self.chance.fraction();
        let Some(lead) = self.lead(i) else { return };
        let monotonic = at.saturating_sub(lead.began) * pace / 1000;
        let moment = Moment { now: Now { monotonic, wall }, followed: followed.as_ref(), chance };
        for step in lead.machine.on(&moment, event) {
            self.carry_out_round(i, monotonic, step);
        }
    }

    fn carry_out_round(&mut self, i: usize, monotonic: Duration, step: Step) {
        match step {
            Step::ReadKeys { round, extent } => {
                // The answer may show keys that are mended while it is under way.
                let was_tampered = self.is_tampered;
                if let Some(lead) = self.lead(i) {
                    lead.reads_tampered = was_tampered;
                }
                self.ask(i, round, Ask::Snapshot(extent));
            }
            Step::ReadCatalog { round } => self.ask(i, round, Ask::Catalog),
            Step::ReadHistory { round, key } => self.ask(i, round, Ask::Key(key)),
            Step::Resolve { round, request, .. } => self.ask(i, round, Ask::Resolve(request)),
            Step::Write { round, transition } => {
                // Anything can come between a decision and its way to Consul.
                let pause = self.chance.within_ms(2);
                let ticket = self.ticket();
                if let Some(lead) = self.lead(i) {
                    lead.sending = Some(ticket);
                }
                self.timer(i, pause, Timer::Send { ticket, round, transition });
            }
            Step::Wake { at } => {
                let Some(lead) = self.lead(i) else { return };
                lead.wakes += 1;
                let wake = lead.wakes;
                // Never before it by a clock that drifts: what comes too early is waited for once more, at the same moment.
                self.timer(i, at.saturating_sub(monotonic) + Duration::from_micros(2), Timer::Due(wake));
            }
            Step::Leave => {
                self.coverage.hit("leaves fenced");
                self.leave(i);
            }
            Step::StandDown { record } => panic!("no program of this world is newer: {record}"),
            Step::Halted { reason } => {
                self.coverage.hit("halts");
                if let Some(lead) = self.lead(i) {
                    lead.is_halted = true;
                }
                say!(self, "{} halts: {reason}", self.nodes[i].name);
                if !self.lead(i).is_some_and(|lead| lead.reads_tampered) {
                    self.judge_halt(i, &reason);
                }
            }
            // Every change reaches every coordinator here, and it has no other duties.
            Step::AtRest | Step::WatchAnswers { .. } => {}
            Step::Resumed => {
                if let Some(lead) = self.lead(i) {
                    lead.is_halted = false;
                }
            }
        }
    }

    pub(crate) fn send(&mut self, i: usize, ticket: u64, round: u64, transition: Box<Transition>) {
        let Some(lead) = self.lead(i) else { return };
        if lead.sending.take_if(|sending| *sending == ticket).is_some() {
            let session = lead.session;
            self.ask(i, round, Ask::Transition(session, transition));
        }
    }
}

//! The driver of a coordinator that holds the lock: it carries out the steps of the product's own machine,
//! [`rounds::Lead`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::Sim;
use super::agenda::{Answer, Ask, Task, Timer};
use crate::consul::Session;
use crate::protocol::coordinator::{Coordinator, Now};
use crate::protocol::shell::candidate;
use crate::protocol::shell::lead::{self as rounds, Event, Moment, Outcome, Step};
use crate::protocol::transition::Transition;

/// A coordinator, for as long as it holds the lock.
#[derive(Debug)]
pub(crate) struct Lead {
    session: Session,
    machine: rounds::Lead,
    began: Duration,
    /// A change is on its way to the coordinator.
    is_called: bool,
    /// The machine has halted, and has not resumed.
    pub(crate) is_halted: bool,
    /// The keys were tampered with when its newest read began.
    reads_tampered: bool,
    /// Counts its waits. Only the end of the newest one wakes it.
    wakes: u64,
    /// The transaction that waits to be sent, by its ticket.
    sending: Option<u64>,
    /// The rounds of the requests to Consul, by ticket.
    rounds: BTreeMap<u64, u64>,
}

impl Sim {
    fn lead(&mut self, i: usize) -> Option<&mut Lead> {
        self.agent(i).lead.as_deref_mut()
    }

    pub(crate) fn begin_to_lead(&mut self, i: usize, session: Session) {
        say!(self, "{} coordinates", self.nodes[i].name);
        self.cover_phase("takeover", i);
        let (name, at) = (self.nodes[i].name.clone(), self.kv.names.clone());
        let coordinator = Coordinator::new(name, self.kv_unit(), self.mix.policy.clone());
        self.agent(i).lead = Some(Box::new(Lead {
            session,
            machine: rounds::Lead::new(coordinator, at),
            began: self.now,
            is_called: false,
            is_halted: false,
            reads_tampered: false,
            wakes: 0,
            sending: None,
            rounds: BTreeMap::new(),
        }));
        self.lead_on(i, Event::Due);
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
                self.stand(i, candidate::Event::Left);
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

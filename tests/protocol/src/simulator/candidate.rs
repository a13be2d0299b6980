//! The driver of a candidate for coordinator: it carries out the steps of the product's own machine.

use std::time::Duration;

use super::Sim;
use super::agenda::{Answer, Ask, KeyRead, Task, Timer};
use crate::consul::{Op as TxnOp, Session};
use crate::protocol::shell::candidate::{Event, Failure, Leaving, Lock, Step};

impl Sim {
    pub(crate) fn begin_to_stand(&mut self, i: usize) {
        let steps = self.agent(i).candidate.begin();
        self.take_candidate_steps(i, steps);
    }

    pub(crate) fn stand(&mut self, i: usize, event: Event<Session>) {
        let moment = self.moment(i);
        let steps = self.agent(i).candidate.on(moment, event);
        self.take_candidate_steps(i, steps);
    }

    fn take_candidate_steps(&mut self, i: usize, steps: Vec<Step<Session>>) {
        for step in steps {
            self.take_candidate_step(i, step);
        }
    }

    fn take_candidate_step(&mut self, i: usize, step: Step<Session>) {
        let key = self.kv.names.coordinator();
        let ask = match step {
            Step::Acquire(session) => {
                let value = self.nodes[i].name.to_string().into_bytes().into();
                Ask::Txn(vec![TxnOp::Lock { key, value, session }])
            }
            Step::AskHolder(holder) => Ask::SessionNode(holder),
            Step::AwaitReadable(record) => panic!("no program of this world is newer: {record}"),
            Step::Create => Ask::Create,
            Step::Destroy(session) => Ask::Destroy(session),
            Step::DestroyFormer(session) => {
                self.coverage.hit("former life ended");
                Ask::Destroy(session)
            }
            Step::EndTerm(leaving) => return self.end_term(i, leaving),
            Step::FindNewer => return self.stand(i, Event::Checked(None)),
            Step::Lead(session) => return self.begin_to_lead(i, session),
            Step::ReadLock => Ask::Key(key),
            Step::Release(session) => Ask::Release(session),
            Step::Renew(session) => {
                self.call(i, Task::Renew, Ask::Renew(session));
                return;
            }
            Step::Wait(pause) => {
                let ticket = self.ticket();
                self.agent(i).tickets[Task::Candidate as usize] = ticket;
                return self.timer(i, pause, Timer::Candidate(ticket));
            }
            Step::Watch => return self.timer(i, Duration::from_micros(1), Timer::WatchLock),
        };
        self.call(i, Task::Candidate, ask);
    }

    fn end_term(&mut self, i: usize, leaving: Leaving) {
        match leaving {
            Leaving::InDoubt => self.coverage.hit("leaves in doubt"),
            Leaving::Left => {}
            Leaving::SessionGone => self.coverage.hit("leaves without session"),
        }
        say!(self, "{} coordinates no longer", self.nodes[i].name);
        let ticket = self.ticket();
        let agent = self.agent(i);
        agent.lead = None;
        agent.tickets[Task::Renew as usize] = ticket;
        self.stand(i, Event::TermEnded);
    }

    pub(crate) fn candidate_waited(&mut self, i: usize, ticket: u64) {
        if self.agent(i).tickets[Task::Candidate as usize] == ticket {
            self.stand(i, Event::Waited);
        }
    }

    pub(crate) fn candidate_answered(&mut self, i: usize, answer: Answer) {
        let event = match answer {
            Answer::Key(read) => Event::Read(read.as_ref().map(lock)),
            Answer::Created(Some(session)) => Event::Created(session),
            Answer::Done(_) => Event::Done,
            Answer::SessionNode(node) => Event::HolderIs(node),
            Answer::Txn(Ok(_)) => Event::Acquired,
            Answer::Txn(Err(_)) => Event::Refused,
            Answer::Created(None) | Answer::Lost => Event::Failed(Failure::Unanswered),
            other => unreachable!("a candidate asks for nothing like {other:?}"),
        };
        self.stand(i, event);
    }

    pub(crate) fn renew_answered(&mut self, i: usize, answer: &Answer) {
        let event = match answer {
            Answer::Done(true) => Event::Renewed,
            Answer::Done(false) => Event::Gone,
            _ => Event::RenewalFailed,
        };
        self.stand(i, event);
    }

    /// The watch of the lock reads it.
    pub(crate) fn watch_lock(&mut self, i: usize) {
        if self.agent(i).candidate.is_watching() {
            let key = self.kv.names.coordinator();
            self.call(i, Task::WatchLock, Ask::Key(key));
        }
    }

    pub(crate) fn lock_answered(&mut self, i: usize, answer: Answer) {
        let Answer::Key(read) = answer else {
            let pause = self.chance.span(Duration::from_millis(200), Duration::from_secs(2));
            return self.timer(i, pause, Timer::WatchLock);
        };
        // A blocking query with an old index is answered at once.
        if read.as_ref().is_some_and(|read| read.index != self.lock_at) {
            self.timer(i, Duration::from_micros(1), Timer::WatchLock);
        }
        if self.agent(i).candidate.is_watching() {
            self.stand(i, Event::Watched(read.as_ref().map(lock)));
        }
    }
}

fn lock(read: &KeyRead) -> Lock<Session> {
    Lock { holder: read.holder, value: read.value.to_vec() }
}

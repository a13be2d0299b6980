//! A node's answers: each until it is written, or the record that it answers is another; `src/agent/node/outbox.rs`.

use std::time::Duration;

use super::Sim;
use super::agenda::{Answer, Ask, Task, Timer};
use super::node::backoff;
use crate::protocol::ids::{Epoch, ModifyIndex};
use crate::protocol::record::{Ack, Answer as Word, FORMAT, Fault, NodeRecord, Timings, decode, encode};

/// One answer on its way.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    /// Where the record that it answers stands.
    index: ModifyIndex,
    ack: Ack,
    /// What the node runs by then, with the report of a switch.
    record: Option<NodeRecord>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Idle,
    /// Where the former answer stands.
    Reading,
    Writing,
    /// Refused: does the record still stand?
    Asking {
        is_session: bool,
    },
    /// No session to write with.
    Waiting,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    letter: Option<Letter>,
    /// Where this agent's last answer stands; none: to be read.
    standing: Option<ModifyIndex>,
    step: Step,
    failures: u32,
}

impl Sim {
    /// A new answer takes the place of any that is on its way; what was sent for that one may still happen.
    pub(crate) fn post(&mut self, i: usize, index: ModifyIndex, epoch: Epoch, answer: Word, fault: Option<Fault>) {
        let ack = Ack { format: FORMAT, epoch, answer, fault, took: Timings::default(), at: self.wall(i) };
        let is_report = matches!(answer, Word::Switched | Word::Failed | Word::Reverted | Word::Stuck);
        let record = is_report.then(|| self.describe(i));
        let outbox = &mut self.agent(i).outbox;
        outbox.letter = Some(Letter { index, ack, record });
        outbox.failures = 0;
        self.try_to_answer(i);
    }

    fn try_to_answer(&mut self, i: usize) {
        let agent = self.agent(i);
        let session = agent.session;
        let Some(letter) = agent.outbox.letter.clone() else { return };
        let Some(session) = session else {
            agent.outbox.step = Step::Waiting;
            return;
        };
        let standing = agent.outbox.standing;
        let name = self.nodes[i].name.clone();
        let Some(standing) = standing else {
            self.agent(i).outbox.step = Step::Reading;
            let key = self.kv.names.ack(&name);
            self.call(i, Task::Outbox, Ask::Key(key));
            return;
        };
        self.agent(i).outbox.step = Step::Writing;
        let ops = self.kv.answer((&name, session), letter.index, standing, &letter.ack, letter.record.as_ref());
        self.call(i, Task::Outbox, Ask::Txn(ops));
    }

    /// Presence has a session again.
    pub(crate) fn session_is_back(&mut self, i: usize) {
        if self.agent(i).outbox.step == Step::Waiting {
            self.try_to_answer(i);
        }
    }

    fn later_again(&mut self, i: usize) {
        let outbox = &mut self.agent(i).outbox;
        outbox.standing = None;
        outbox.step = Step::Idle;
        let failures = outbox.failures;
        outbox.failures += 1;
        let ticket = self.ticket();
        self.agent(i).tickets[Task::Outbox as usize] = ticket;
        let pause = backoff(self, Duration::from_secs(1), Duration::from_mins(1), failures);
        self.timer(i, pause, Timer::Outbox(ticket));
    }

    pub(crate) fn post_again(&mut self, i: usize, ticket: u64) {
        if self.agent(i).tickets[Task::Outbox as usize] == ticket {
            self.try_to_answer(i);
        }
    }

    fn done_with_it(&mut self, i: usize) {
        let outbox = &mut self.agent(i).outbox;
        outbox.letter = None;
        outbox.step = Step::Idle;
    }

    pub(crate) fn outbox_answered(&mut self, i: usize, answer: Answer) {
        let step = self.agent(i).outbox.step;
        let Some(letter) = self.agent(i).outbox.letter.clone() else { return };
        match (step, answer) {
            (Step::Reading, Answer::Key(seen)) => {
                if seen.as_ref().is_some_and(|seen| *seen.value == *encode(&letter.ack).as_bytes()) {
                    // A write whose answer was lost had gone through.
                    self.coverage.hit("answer found written");
                    return self.done_with_it(i);
                }
                let former = seen.as_ref().and_then(|seen| decode::<Ack>("ack", &seen.value).ok());
                if former.is_some_and(|former| !letter.ack.may_replace(&former)) {
                    self.coverage.hit("promise kept");
                    return self.done_with_it(i);
                }
                self.agent(i).outbox.standing = Some(seen.map_or(ModifyIndex(0), |seen| seen.index));
                self.try_to_answer(i);
            }
            (Step::Writing, Answer::Txn(Ok(index))) => {
                let agent = self.agent(i);
                agent.outbox.standing = Some(index);
                if let Some(record) = &letter.record {
                    agent.presence.wrote(record);
                }
                self.done_with_it(i);
            }
            (Step::Writing, Answer::Txn(Err(refusals))) => {
                let is_session = refusals.iter().any(|(place, _)| *place == 0);
                self.agent(i).outbox.step = Step::Asking { is_session };
                let key = self.kv.names.barrier();
                self.call(i, Task::Outbox, Ask::Key(key));
            }
            (Step::Asking { is_session }, Answer::Key(seen)) => {
                if seen.is_none_or(|seen| seen.index != letter.index) {
                    self.coverage.hit("answer fenced");
                    return self.done_with_it(i);
                }
                if is_session {
                    self.coverage.hit("answer without session");
                    let agent = self.agent(i);
                    agent.presence.forget_written();
                    agent.session = None;
                    self.timer(i, Duration::from_millis(50), Timer::Presence);
                }
                self.later_again(i);
            }
            (_, _) => self.later_again(i),
        }
    }
}

//! The driver of a node's publisher: its answers, its session, and its record.

use jiff::Timestamp;

use super::Sim;
use super::agenda::{Answer, Ask, KeyRead, Task, Timer};
use crate::consul::{Op as TxnOp, Session};
use crate::protocol::record::{NodeRecord, Timings};
use crate::protocol::shell::describe::Problems;
use crate::protocol::shell::outbox::{self, Acknowledgement, Delivery, Outcome};
use crate::protocol::shell::presence;
use crate::protocol::shell::publisher::{Event, Step};
use crate::protocol::shell::{Found, Key, Moment, Op};

impl Sim {
    /// The time by a node's own clock.
    pub(crate) fn moment(&mut self, i: usize) -> Moment {
        let since_start = self.now * self.nodes[i].pace / 1000;
        Moment { since_start, chance: self.chance.fraction() }
    }

    fn describe(&mut self, i: usize) -> NodeRecord {
        let at = self.wall(i);
        let node = &self.nodes[i];
        let agent = node.agent.as_ref().expect("it runs");
        let found = node.disk.look(agent.reporter.look(&agent.machine));
        agent.reporter.describe(
            &agent.machine,
            found,
            Problems { halted: agent.is_halted().then(|| "halted".to_owned()), ..Problems::default() },
            at,
        )
    }

    /// Publishes the node's record where it has changed.
    pub(crate) fn report(&mut self, i: usize) {
        let record = self.describe(i);
        if self.agent(i).reporter.is_changed(&record) {
            self.publish(i, Event::Presence(presence::Event::Record(Box::new(record))));
        }
    }

    pub(crate) fn answer(&mut self, i: usize, given: Acknowledgement) {
        let (at, record): (Timestamp, NodeRecord) = (self.wall(i), self.describe(i));
        let delivery = Delivery::new(given, Timings::default(), at, record);
        self.publish(i, Event::Outbox(outbox::Event::Deliver(Box::new(delivery))));
    }

    pub(crate) fn publish(&mut self, i: usize, event: Event<Session>) {
        let moment = self.moment(i);
        for step in self.agent(i).publisher.on(moment, event) {
            match step {
                Step::Outbox(step) => self.deliver(i, step),
                Step::Presence(step) => self.attend(i, step),
                Step::Session(session) => self.agent(i).session = session,
            }
        }
    }

    fn deliver(&mut self, i: usize, step: outbox::Step<Session>) {
        match step {
            outbox::Step::Drop => {
                let ticket = self.ticket();
                self.agent(i).tickets[Task::Outbox as usize] = ticket;
            }
            outbox::Step::Ended(outcome, _) => match outcome {
                Outcome::Delivered => {}
                Outcome::FoundWritten => self.coverage.hit("answer found written"),
                Outcome::Fenced => self.coverage.hit("answer fenced"),
                Outcome::PromiseKept => self.coverage.hit("promise kept"),
            },
            outbox::Step::Newer(_) | outbox::Step::NotYet(..) | outbox::Step::Readable(_) => {}
            outbox::Step::Read(key) => self.ask_key(i, Task::Outbox, key),
            outbox::Step::SessionLost => self.coverage.hit("answer without session"),
            outbox::Step::Wait(pause) => {
                let ticket = self.ticket();
                self.agent(i).tickets[Task::Outbox as usize] = ticket;
                self.timer(i, pause, Timer::Outbox(ticket));
            }
            outbox::Step::Write(ops) => self.ask_txn(i, Task::Outbox, ops),
        }
    }

    fn attend(&mut self, i: usize, step: presence::Step<Session>) {
        let ask = match step {
            presence::Step::AskHolder(holder) => Ask::SessionNode(holder),
            presence::Step::Create => Ask::Create,
            presence::Step::Destroy(holder) => Ask::Destroy(holder),
            presence::Step::Renew(session) => Ask::Renew(session),
            presence::Step::Keep(session) => {
                self.nodes[i].disk.session = Some(session);
                return;
            }
            presence::Step::Look(key) | presence::Step::Read(key) => return self.ask_key(i, Task::Presence, key),
            presence::Step::Write(ops) => return self.ask_txn(i, Task::Presence, ops),
            presence::Step::Wait(pause) => {
                let ticket = self.ticket();
                self.agent(i).tickets[Task::Presence as usize] = ticket;
                return self.timer(i, pause, Timer::Presence(ticket));
            }
            presence::Step::NotWritten(_) | presence::Step::SessionKept | presence::Step::SessionNotKept(_) => return,
            presence::Step::Taken(holder) => panic!("one agent for each node: {holder}"),
        };
        self.call(i, Task::Presence, ask);
    }

    fn ask_key(&mut self, i: usize, task: Task, key: Key) {
        let key = key.of(&self.kv.names, &self.nodes[i].name);
        self.call(i, task, Ask::Key(key));
    }

    fn ask_txn(&mut self, i: usize, task: Task, ops: Vec<Op<Session>>) {
        let key = |key: Key| key.of(&self.kv.names, &self.nodes[i].name);
        let bytes = |value: String| value.into_bytes().into();
        let op = |op| match op {
            Op::Cas { key: at, index, value } => TxnOp::Cas { key: key(at), value: bytes(value), index: index.0 },
            Op::CheckIndex { key: at, index } => TxnOp::CheckIndex { key: key(at), index: index.0 },
            Op::CheckHolder { key: at, session } => TxnOp::CheckSession { key: key(at), session },
            Op::Lock { key: at, session, value } => TxnOp::Lock { key: key(at), value: bytes(value), session },
            Op::Set { key: at, value } => TxnOp::Set { key: key(at), value: bytes(value) },
        };
        let ops = ops.into_iter().map(op).collect();
        self.call(i, task, Ask::Txn(ops));
    }

    /// Ends a pause of the outbox or of presence, unless other work is under way by now.
    pub(crate) fn waited(&mut self, i: usize, task: Task, ticket: u64) {
        if self.agent(i).tickets[task as usize] == ticket {
            let event = if task == Task::Outbox {
                Event::Outbox(outbox::Event::Waited)
            } else {
                Event::Presence(presence::Event::Waited)
            };
            self.publish(i, event);
        }
    }

    pub(crate) fn outbox_answered(&mut self, i: usize, answer: Answer) {
        let event = match answer {
            Answer::Key(seen) => outbox::Event::Read(seen.map(found)),
            Answer::Txn(Ok(index)) => outbox::Event::Applied(index),
            Answer::Txn(Err(refusals)) => outbox::Event::Refused(refusals.iter().map(|(place, _)| *place).collect()),
            Answer::Lost => outbox::Event::Failed("lost".to_owned()),
            other => unreachable!("the outbox asks for nothing like {other:?}"),
        };
        self.publish(i, Event::Outbox(event));
    }

    pub(crate) fn presence_answered(&mut self, i: usize, answer: Answer) {
        let event = match answer {
            Answer::Key(seen) => presence::Event::Read(seen.map(found)),
            Answer::Txn(Ok(_)) => presence::Event::Applied,
            Answer::Txn(Err(_)) => presence::Event::Refused,
            Answer::Done(true) => presence::Event::Done,
            Answer::Done(false) => presence::Event::Gone,
            Answer::Created(Some(session)) => presence::Event::Created(session),
            Answer::SessionNode(node) => presence::Event::HolderIs(node),
            Answer::Created(None) | Answer::Lost => presence::Event::Failed("lost".to_owned()),
            other => unreachable!("presence asks for nothing like {other:?}"),
        };
        self.publish(i, Event::Presence(event));
    }
}

fn found(seen: KeyRead) -> Found<Session> {
    Found { key: seen.key, index: seen.index, value: seen.value.to_vec(), holder: seen.holder }
}

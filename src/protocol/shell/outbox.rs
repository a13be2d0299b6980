//! The outbox: delivers the node's newest answer, until it is written or the record that it answers is another.
//!
//! An answer is written only while the node's session holds `nodes/<node>`, while `barrier` stands where the answer was
//! given, and while `acks/<node>` is as it was read (P3, S6). The node's record goes with it where it says something new:
//! that costs no write of its own.

use std::time::Duration;

use jiff::Timestamp;

use super::own::{OwnRecord, Writer};
use super::presence::said;
use super::{Found, Key, Moment, Op};
use crate::backoff::Backoff;
use crate::protocol::ids::ModifyIndex;
use crate::protocol::record::{Ack, FORMAT, NodeRecord, RecordError, Timings, decode, encode};
use crate::protocol::rule::{Rule, holds};

/// The pauses between two tries.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

pub(crate) use crate::protocol::participant::Acknowledgement;

/// One answer on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    index: ModifyIndex,
    ack: Ack,
    record: NodeRecord,
}

impl Delivery {
    /// `record` is what the node says about itself by now. The participant's answer is the proof that its journal is
    /// durable.
    pub(crate) fn new(given: Acknowledgement, took: Timings, at: Timestamp, record: NodeRecord) -> Self {
        let Acknowledgement { index, epoch, answer, fault, .. } = given;
        Self { index, ack: Ack { format: FORMAT, epoch, answer, fault, took, at }, record }
    }

    pub(crate) const fn ack(&self) -> &Ack {
        &self.ack
    }
}

/// What the outbox is told.
#[derive(Clone, Debug)]
pub(crate) enum Event<S> {
    /// An answer is to be delivered, in place of any that is on its way.
    Deliver(Box<Delivery>),
    /// The transaction applied; its index.
    Applied(ModifyIndex),
    /// Consul could not be asked, or its answer was lost: it may have happened, or happen yet.
    Failed(String),
    /// There is a session, and nobody else writes the node's record.
    MayWrite,
    /// [`Step::Read`] has ended.
    Read(Option<Found<S>>),
    /// The transaction did not apply: the places of the operations that did not hold.
    Refused(Vec<usize>),
    /// [`Step::Wait`] has ended.
    Waited,
}

/// What the outbox wants done. One thing is under way at a time: each step that waits for an outcome replaces the one
/// before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step<S> {
    /// Nothing more is to be heard of what is under way.
    Drop,
    /// The answer is done with.
    Ended(Outcome, Box<Delivery>),
    /// A newer agent wrote the former answer: it is left as it is, and tried again.
    Newer(RecordError),
    /// For the log: it was not written yet, and why.
    NotYet(String, Box<Delivery>),
    /// Read the key consistently.
    Read(Key),
    /// The record under this key can be read, again or still.
    Readable(String),
    /// The node's session, or the record that it held, is gone.
    SessionLost,
    Wait(Duration),
    Write(Vec<Op<S>>),
}

/// How the delivery of an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Delivered,
    /// A write whose outcome was lost had gone through.
    FoundWritten,
    /// The barrier is another by now.
    Fenced,
    /// A former life of this node has promised what this one would refuse.
    PromiseKept,
}

#[derive(Clone, Debug, Default)]
enum Stage {
    /// Does `barrier` still stand, after a refusal?
    Asking {
        cause: Cause,
    },
    #[default]
    Idle,
    Pausing,
    /// Where does the former answer stand?
    Reading,
    /// No session to write with, or the node's record is being written.
    Waiting,
    Writing {
        said: String,
        /// What stood in `nodes/<node>` before.
        before: Option<String>,
    },
}

/// Why a write was refused.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// A key is not as it was read.
    Changed,
    /// The node's session does not hold its record.
    SessionLost,
}

#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    delivery: Option<Box<Delivery>>,
    /// Where this agent's last answer stands; none: to be read.
    standing: Option<ModifyIndex>,
    stage: Stage,
    backoff: Backoff,
}

impl Outbox {
    pub(super) const fn new() -> Self {
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self { delivery: None, standing: None, stage: Stage::Idle, backoff }
    }

    /// Whether it waits for [`Event::MayWrite`].
    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    pub(super) fn on<S: Clone>(&mut self, own: &mut OwnRecord<S>, moment: Moment, event: Event<S>) -> Vec<Step<S>> {
        let stage = std::mem::take(&mut self.stage);
        match (stage, event) {
            (_, Event::Deliver(delivery)) => {
                own.release(Writer::Outbox);
                self.delivery = Some(delivery);
                self.backoff.succeeded();
                [vec![Step::Drop], self.attempt(own)].concat()
            }
            (Stage::Waiting, Event::MayWrite) | (Stage::Pausing, Event::Waited) => self.attempt(own),
            (Stage::Reading, Event::Read(former)) => self.compare(own, moment, former),
            (Stage::Writing { said, .. }, Event::Applied(index)) => {
                self.standing = Some(index);
                own.written = Some(said);
                self.end(own, Outcome::Delivered)
            }
            (Stage::Writing { before, .. }, Event::Refused(places)) => {
                // The first operation is the check of the session.
                let cause = if places.contains(&0) { Cause::SessionLost } else { Cause::Changed };
                if matches!(cause, Cause::Changed) {
                    own.written = before;
                }
                own.release(Writer::Outbox);
                self.stage = Stage::Asking { cause };
                vec![Step::Read(Key::Barrier)]
            }
            (Stage::Asking { cause }, Event::Read(barrier)) => self.judge_refusal(own, moment, cause, barrier),
            (Stage::Reading | Stage::Writing { .. } | Stage::Asking { .. }, Event::Failed(reason)) => {
                let told = self.delivery.clone().map(|delivery| Step::NotYet(reason, delivery));
                told.into_iter().chain(self.try_later(own, moment)).collect()
            }
            // Late: the outcome of something that a newer answer has replaced.
            (
                stage @ (Stage::Idle | Stage::Waiting | Stage::Pausing),
                Event::Applied(_) | Event::Failed(_) | Event::Read(_) | Event::Refused(_),
            )
            | (stage @ (Stage::Reading | Stage::Asking { .. }), Event::Applied(_) | Event::Refused(_))
            | (stage @ Stage::Writing { .. }, Event::Read(_))
            // Nothing waits for these.
            | (
                stage @ (Stage::Idle | Stage::Reading | Stage::Writing { .. } | Stage::Asking { .. }),
                Event::MayWrite | Event::Waited,
            )
            | (stage @ Stage::Pausing, Event::MayWrite)
            | (stage @ Stage::Waiting, Event::Waited) => {
                self.stage = stage;
                Vec::new()
            }
        }
    }

    fn attempt<S: Clone>(&mut self, own: &mut OwnRecord<S>) -> Vec<Step<S>> {
        let Some(delivery) = &self.delivery else { return Vec::new() };
        // Only with a session: a claim without one would keep presence from writing its record.
        let session = own.session.clone().filter(|_| own.claim(Writer::Outbox));
        let Some(session) = session else {
            own.release(Writer::Outbox);
            self.stage = Stage::Waiting;
            return Vec::new();
        };
        let Some(index) = self.standing else {
            self.stage = Stage::Reading;
            return vec![Step::Read(Key::Ack)];
        };
        let mut ops = vec![
            Op::CheckHolder { key: Key::Node, session },
            Op::CheckIndex { key: Key::Barrier, index: delivery.index },
            if holds(Rule::AnswerAsRead) {
                Op::Cas { key: Key::Ack, index, value: encode(&delivery.ack) }
            } else {
                Op::Set { key: Key::Ack, value: encode(&delivery.ack) }
            },
        ];
        let said = said(&delivery.record);
        // Until Consul has answered, what stands there is not known.
        let before = own.written.take();
        if before.as_ref() != Some(&said) {
            ops.push(Op::Set { key: Key::Node, value: encode(&delivery.record) });
        }
        self.stage = Stage::Writing { said, before };
        vec![Step::Write(ops)]
    }

    /// The former answer was read.
    fn compare<S: Clone>(&mut self, own: &mut OwnRecord<S>, moment: Moment, former: Option<Found<S>>) -> Vec<Step<S>> {
        let Some(delivery) = &self.delivery else { return Vec::new() };
        let ack = &delivery.ack;
        if former.as_ref().is_some_and(|former| former.value == encode(ack).as_bytes()) {
            return self.end(own, Outcome::FoundWritten);
        }
        let mut steps = Vec::new();
        match former.as_ref().map(|former| (&former.key, decode::<Ack>(&former.key, &former.value))) {
            Some((_, Err(error))) if error.is_newer() => {
                // It may hold a promise that this agent cannot read, and must not take back.
                return [vec![Step::Newer(error)], self.try_later(own, moment)].concat();
            }
            Some((key, Ok(promise))) => {
                steps.push(Step::Readable(key.clone()));
                // P3. What was promised once stands, whatever this life has come to.
                if !ack.may_replace(&promise) && holds(Rule::PromiseStands) {
                    return [steps, self.end(own, Outcome::PromiseKept)].concat();
                }
            }
            // What cannot be read, and is no newer agent's, is overwritten.
            Some((key, Err(_))) => steps.push(Step::Readable(key.clone())),
            None => {}
        }
        self.standing = Some(former.map_or(ModifyIndex(0), |former| former.index));
        [steps, self.attempt(own)].concat()
    }

    /// A write was refused, and `barrier` was read after that.
    fn judge_refusal<S: Clone>(
        &mut self,
        own: &mut OwnRecord<S>,
        moment: Moment,
        cause: Cause,
        barrier: Option<Found<S>>,
    ) -> Vec<Step<S>> {
        let answered = self.delivery.as_ref().map(|delivery| delivery.index);
        if barrier.map(|barrier| barrier.index) != answered {
            return self.end(own, Outcome::Fenced);
        }
        let mut steps = self.try_later(own, moment);
        match cause {
            Cause::Changed => {}
            Cause::SessionLost => {
                own.session = None;
                steps.push(Step::SessionLost);
            }
        }
        steps
    }

    fn try_later<S: Clone>(&mut self, own: &mut OwnRecord<S>, moment: Moment) -> Vec<Step<S>> {
        own.release(Writer::Outbox);
        self.standing = None;
        self.stage = Stage::Pausing;
        vec![Step::Wait(self.backoff.pause(moment.chance))]
    }

    fn end<S: Clone>(&mut self, own: &mut OwnRecord<S>, outcome: Outcome) -> Vec<Step<S>> {
        own.release(Writer::Outbox);
        self.delivery.take().map(|delivery| Step::Ended(outcome, delivery)).into_iter().collect()
    }
}

//! The outbox: delivers the node's newest answer until it is written, or `barrier` is another record.
//!
//! An answer is written only while the node's session holds `nodes/<node>`, while `barrier` is the record answered, and
//! while `acks/<node>` is as it was read (P3, S6). Where the node's record has changed, the same transaction writes it:
//! that costs no write of its own.

use std::time::Duration;

use jiff::Timestamp;

use super::own::{OwnRecord, Writer};
use super::presence::report_content;
use super::{Found, Key, Moment, Op};
use crate::backoff::Backoff;
use crate::protocol::ids::ModifyIndex;
use crate::protocol::record::{Ack, FORMAT, NodeRecord, RecordError, Timings, decode, encode};
use crate::protocol::rule::{Rule, holds};

/// The pauses between two attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

pub(crate) use crate::protocol::participant::Acknowledgement;

/// One answer to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    index: ModifyIndex,
    ack: Ack,
    record: NodeRecord,
}

impl Delivery {
    /// `record` is the node's newest report. That the participant gave the answer proves that its journal is durable.
    pub(crate) fn new(given: Acknowledgement, took: Timings, at: Timestamp, record: NodeRecord) -> Self {
        let Acknowledgement { index, epoch, answer, fault, .. } = given;
        Self { index, ack: Ack { format: FORMAT, epoch, answer, fault, took, at }, record }
    }

    pub(crate) const fn ack(&self) -> &Ack {
        &self.ack
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Event<S> {
    /// Deliver this answer, in place of any other.
    Deliver(Box<Delivery>),
    /// The transaction applied, at this index.
    Applied(ModifyIndex),
    /// The request failed, or its answer was lost: a write may have applied, or may yet apply.
    Failed(String),
    /// There is a session, and presence is not writing the node's record.
    MayWrite,
    /// [`Step::Read`] has ended.
    Read(Option<Found<S>>),
    /// The transaction did not apply: the positions of the operations that did not hold.
    Refused(Vec<usize>),
    /// [`Step::Wait`] has ended.
    Waited,
}

/// Work for the driver. At most one piece is under way: each step that waits for an outcome replaces the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step<S> {
    /// Ignore the outcome of the work under way.
    Drop,
    Ended(Outcome, Box<Delivery>),
    /// A newer agent wrote the former answer: it is not overwritten, and read again later.
    Newer(RecordError),
    /// For the log: the answer was not written yet, for this reason.
    NotYet(String, Box<Delivery>),
    /// Read the key consistently.
    Read(Key),
    /// The record under this key can be read.
    Readable(String),
    /// The node's session does not hold its record any more.
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
    /// The barrier is another record by now.
    Fenced,
    /// A former life of this node promised what this life would refuse.
    PromiseKept,
}

#[derive(Clone, Debug, Default)]
enum Stage {
    /// After a refusal: reading `barrier` to learn whether it is still the record answered.
    Asking {
        cause: Cause,
    },
    #[default]
    Idle,
    Pausing,
    /// Reading the former answer.
    Reading,
    /// There is no session, or presence is writing the node's record.
    Waiting,
    Writing {
        content: String,
        /// The content of `nodes/<node>` before.
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
    /// ModifyIndex of this agent's last answer; none: it must be read.
    ack_index: Option<ModifyIndex>,
    stage: Stage,
    backoff: Backoff,
}

impl Outbox {
    pub(super) const fn new() -> Self {
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self { delivery: None, ack_index: None, stage: Stage::Idle, backoff }
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
            (Stage::Writing { content, .. }, Event::Applied(index)) => {
                self.ack_index = Some(index);
                own.written = Some(content);
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
            // Late: the outcome of work that a newer answer has replaced.
            (
                stage @ (Stage::Idle | Stage::Waiting | Stage::Pausing),
                Event::Applied(_) | Event::Failed(_) | Event::Read(_) | Event::Refused(_),
            )
            | (stage @ (Stage::Reading | Stage::Asking { .. }), Event::Applied(_) | Event::Refused(_))
            | (stage @ Stage::Writing { .. }, Event::Read(_))
            // Not waited for in this stage.
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
        // Only with a session: a claim without one would keep presence from writing the record.
        let session = own.session.clone().filter(|_| own.claim(Writer::Outbox));
        let Some(session) = session else {
            own.release(Writer::Outbox);
            self.stage = Stage::Waiting;
            return Vec::new();
        };
        let Some(index) = self.ack_index else {
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
        let content = report_content(&delivery.record);
        // Until Consul has answered, the content of the key is not known.
        let before = own.written.take();
        if before.as_ref() != Some(&content) {
            ops.push(Op::Set { key: Key::Node, value: encode(&delivery.record) });
        }
        self.stage = Stage::Writing { content, before };
        vec![Step::Write(ops)]
    }

    /// Compares the answer with the former one, which was read.
    fn compare<S: Clone>(&mut self, own: &mut OwnRecord<S>, moment: Moment, former: Option<Found<S>>) -> Vec<Step<S>> {
        let Some(delivery) = &self.delivery else { return Vec::new() };
        let ack = &delivery.ack;
        if former.as_ref().is_some_and(|former| former.value == encode(ack).as_bytes()) {
            return self.end(own, Outcome::FoundWritten);
        }
        let mut steps = Vec::new();
        match former.as_ref().map(|former| (&former.key, decode::<Ack>(&former.key, &former.value))) {
            Some((_, Err(error))) if error.is_newer() => {
                // It may be a promise, which this agent must not take back.
                return [vec![Step::Newer(error)], self.try_later(own, moment)].concat();
            }
            Some((key, Ok(promise))) => {
                steps.push(Step::Readable(key.clone()));
                // P3. A promise stays, whatever this life has found.
                if !ack.may_replace(&promise) && holds(Rule::PromiseStands) {
                    return [steps, self.end(own, Outcome::PromiseKept)].concat();
                }
            }
            // A damaged answer is overwritten.
            Some((key, Err(_))) => steps.push(Step::Readable(key.clone())),
            None => {}
        }
        self.ack_index = Some(former.map_or(ModifyIndex(0), |former| former.index));
        [steps, self.attempt(own)].concat()
    }

    /// Decides what a refused write means, by a read of `barrier` after it.
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
        self.ack_index = None;
        self.stage = Stage::Pausing;
        vec![Step::Wait(self.backoff.pause(moment.chance))]
    }

    fn end<S: Clone>(&mut self, own: &mut OwnRecord<S>, outcome: Outcome) -> Vec<Step<S>> {
        own.release(Writer::Outbox);
        self.delivery.take().map(|delivery| Step::Ended(outcome, delivery)).into_iter().collect()
    }
}

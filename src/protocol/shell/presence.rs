//! Presence: the node's session, and its `nodes/<node>` record.
//!
//! The session is the node's sign of life. It is renewed, or created anew where it is gone. Its id is kept on disk, so
//! that an agent that restarts within the TTL never looks absent. The record is written when it changes, and when a look
//! at Consul shows that it is gone.

use std::time::Duration;

use jiff::Timestamp;

use super::own::{OwnRecord, Writer};
use super::{Found, Key, Moment, Op};
use crate::protocol::ids::Epoch;
use crate::protocol::record::{NodeRecord, decode, encode};
use crate::protocol::rule::{Rule, holds};

/// How often the session is renewed. Its TTL is 10 s, and Consul ends it after at most 20 s: six attempts.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How often the record is looked at in Consul: somebody may have deleted it, and a healthy node writes it only when it
/// changes.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// How often the record is looked at while this node may not follow `barrier`: its own keys may be lost too, and `cutover
/// recover` needs to know what each node runs. 1,000 nodes make 100 small reads a second.
const LOOK_IN_TROUBLE_EVERY: Duration = Duration::from_secs(10);
/// Spreads a fleet that sees the same problem at the same moment.
const SPREAD: Duration = Duration::from_secs(1);
/// The pause after a refused write: another session holds the key, and may hold it for a while.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Changes within this time are written together, with an answer if there is one.
const GATHER: Duration = Duration::from_millis(50);

/// Whether this node may follow `barrier`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trust {
    /// It is gone, or the node may not follow it: the node's own keys may be lost too.
    Suspect,
    #[default]
    Well,
}

#[derive(Clone, Debug)]
pub(crate) enum Event<S> {
    /// The transaction applied.
    Applied,
    Created(S),
    /// [`Step::Renew`] or [`Step::Destroy`] has succeeded.
    Done,
    /// The request failed, or its answer was lost.
    Failed(String),
    /// The session to renew no longer exists.
    Gone,
    /// [`Step::AskHolder`] has ended: the Consul node of the session; none: the session no longer exists.
    HolderIs(Option<String>),
    /// The outbox is not writing the node's record.
    MayWrite,
    /// [`Step::Read`] or [`Step::Look`] has ended.
    Read(Option<Found<S>>),
    /// The node's newest report.
    Record(Box<NodeRecord>),
    /// The transaction did not apply.
    Refused,
    /// The outbox has found that the session does not hold the record any more.
    SessionLost,
    /// The trust in `barrier`.
    Trust(Trust),
    /// [`Step::Wait`] has ended.
    Waited,
}

/// Work for the driver. At most one piece is under way: each step that waits for an outcome replaces the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step<S> {
    /// Find the Consul node of this session.
    AskHolder(S),
    Create,
    Destroy(S),
    /// Write the session's id to disk, before anything that follows.
    Keep(S),
    /// Read the key from the leader; the read need not be consistent.
    Look(Key),
    /// For the log: the record was not written, for this reason.
    NotWritten(String),
    /// Read the key consistently.
    Read(Key),
    Renew(S),
    /// The session was renewed, or created.
    SessionKept,
    /// The session could neither be renewed nor created, for this reason.
    SessionNotKept(String),
    /// Another live agent uses this node's name, on this Consul node: this agent must end.
    Taken(String),
    Wait(Duration),
    Write(Vec<Op<S>>),
}

#[derive(Clone, Debug)]
enum Stage<S> {
    /// Asking for the Consul node of the session that holds this node's key.
    AskingHolder {
        holder: S,
    },
    Creating,
    Destroying,
    /// Reading which session holds this node's key.
    FindingHolder,
    /// Waiting for more changes.
    Gathering,
    /// Reading whether the record is still in Consul.
    Looking,
    Renewing {
        session: S,
    },
    Resting,
    /// Waiting for the outbox, which is writing the record.
    Waiting,
    Writing {
        content: String,
    },
}

/// What has changed since it was last seen to.
#[derive(Clone, Copy, Debug, Default)]
struct Changes {
    is_record: bool,
    is_session: bool,
    is_trust: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Presence<S> {
    consul_node: String,
    /// The newest session of this node, alive or not.
    known: Option<S>,
    record: Option<NodeRecord>,
    trust: Trust,
    changes: Changes,
    stage: Stage<S>,
    renew_at: Duration,
    looked_at: Duration,
    must_look: bool,
}

impl<S: Clone + PartialEq> Presence<S> {
    pub(super) const fn new(consul_node: String, known: Option<S>, moment: Moment) -> Self {
        Self {
            consul_node,
            known,
            record: None,
            trust: Trust::Well,
            changes: Changes { is_record: false, is_session: false, is_trust: false },
            stage: Stage::Resting,
            renew_at: moment.since_start,
            looked_at: moment.since_start,
            must_look: false,
        }
    }

    /// Whether it waits for [`Event::MayWrite`].
    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    pub(super) fn on(&mut self, own: &mut OwnRecord<S>, moment: Moment, event: Event<S>) -> Vec<Step<S>> {
        match event {
            Event::Record(record) => {
                self.record = Some(*record);
                self.changes.is_record = true;
                self.notice(moment)
            }
            Event::SessionLost => {
                self.changes.is_session = true;
                self.notice(moment)
            }
            Event::Trust(trust) => {
                self.changes.is_trust |= trust != self.trust;
                self.trust = trust;
                self.notice(moment)
            }
            Event::Applied
            | Event::Created(_)
            | Event::Done
            | Event::Failed(_)
            | Event::Gone
            | Event::HolderIs(_)
            | Event::MayWrite
            | Event::Read(_)
            | Event::Refused
            | Event::Waited => self.ended(own, moment, event),
        }
    }

    /// Takes the end of the work under way.
    fn ended(&mut self, own: &mut OwnRecord<S>, moment: Moment, event: Event<S>) -> Vec<Step<S>> {
        let stage = std::mem::replace(&mut self.stage, Stage::Resting);
        match (stage, event) {
            (Stage::Resting | Stage::Waiting, Event::Waited) => {
                self.renew_at = moment.since_start.saturating_add(RENEW_EVERY);
                self.take_changes(moment);
                self.ensure(own)
            }
            (Stage::Gathering, Event::Waited) => {
                self.take_changes(moment);
                if own.session.is_some() { self.publish(own, moment) } else { self.ensure(own) }
            }
            (Stage::Waiting, Event::MayWrite) => self.publish(own, moment),
            (Stage::Renewing { session }, Event::Done) => self.hold(own, moment, session),
            (Stage::Renewing { .. }, Event::Gone) => self.find_holder(own),
            // The node's key may be held by a session of a former life whose id was lost, or by another live agent.
            (Stage::FindingHolder, Event::Read(found)) => self.ask_holder(found),
            (Stage::AskingHolder { holder }, Event::HolderIs(Some(node))) if node == self.consul_node => {
                self.stage = Stage::Destroying;
                vec![Step::Destroy(holder)]
            }
            (Stage::AskingHolder { .. }, Event::HolderIs(Some(node))) => vec![Step::Taken(node)],
            (Stage::AskingHolder { .. }, Event::HolderIs(None)) | (Stage::Destroying, Event::Done) => self.create(),
            (Stage::Creating, Event::Created(session)) => {
                self.known = Some(session.clone());
                [vec![Step::Keep(session.clone())], self.hold(own, moment, session)].concat()
            }
            (Stage::Looking, Event::Read(found)) => {
                let stands = found.filter(|found| found.holder == own.session);
                let stands = stands.and_then(|found| decode::<NodeRecord>(&found.key, &found.value).ok());
                // The record may be an older one, restored or put by hand: then it differs, and is written again.
                own.written = stands.as_ref().map(report_content);
                self.must_look = false;
                self.write(own, moment)
            }
            (Stage::Writing { content }, Event::Applied) => {
                own.written = Some(content);
                own.release(Writer::Presence);
                self.rest(moment)
            }
            (Stage::Writing { .. }, Event::Refused) => {
                own.release(Writer::Presence);
                own.session = None;
                self.stage = Stage::Gathering;
                vec![Step::Wait(REFUSED_PAUSE)]
            }
            (
                Stage::Renewing { .. }
                | Stage::FindingHolder
                | Stage::AskingHolder { .. }
                | Stage::Destroying
                | Stage::Creating,
                Event::Failed(reason),
            ) => [vec![Step::SessionNotKept(reason)], self.rest(moment)].concat(),
            (Stage::Looking | Stage::Writing { .. }, Event::Failed(reason)) => {
                own.release(Writer::Presence);
                [vec![Step::NotWritten(reason)], self.rest(moment)].concat()
            }
            // Late, or not waited for in this stage.
            (
                stage,
                Event::Applied
                | Event::Created(_)
                | Event::Done
                | Event::Failed(_)
                | Event::Gone
                | Event::HolderIs(_)
                | Event::MayWrite
                | Event::Read(_)
                | Event::Record(_)
                | Event::Refused
                | Event::SessionLost
                | Event::Trust(_)
                | Event::Waited,
            ) => {
                self.stage = stage;
                Vec::new()
            }
        }
    }

    /// Handles a change now, or when the work under way has ended.
    fn notice(&mut self, moment: Moment) -> Vec<Step<S>> {
        match self.stage {
            Stage::Resting | Stage::Waiting => self.rest(moment),
            Stage::AskingHolder { .. }
            | Stage::Creating
            | Stage::Destroying
            | Stage::FindingHolder
            | Stage::Gathering
            | Stage::Looking
            | Stage::Renewing { .. }
            | Stage::Writing { .. } => Vec::new(),
        }
    }

    fn rest(&mut self, moment: Moment) -> Vec<Step<S>> {
        let Changes { is_record, is_session, is_trust } = self.changes;
        let pause = if is_trust {
            moment.within(SPREAD)
        } else if is_record || is_session {
            GATHER
        } else {
            self.stage = Stage::Resting;
            return vec![Step::Wait(self.renew_at.saturating_sub(moment.since_start))];
        };
        self.stage = Stage::Gathering;
        vec![Step::Wait(pause)]
    }

    fn take_changes(&mut self, moment: Moment) {
        self.must_look |= self.changes.is_trust && self.trust == Trust::Suspect;
        if self.must_look {
            self.looked_at = moment.since_start;
        }
        self.changes = Changes::default();
    }

    /// Renews the session that is held, or the last one known, or begins a new one.
    fn ensure(&mut self, own: &mut OwnRecord<S>) -> Vec<Step<S>> {
        let Some(session) = own.session.clone().or_else(|| self.known.clone()) else { return self.find_holder(own) };
        self.stage = Stage::Renewing { session: session.clone() };
        vec![Step::Renew(session)]
    }

    fn find_holder(&mut self, own: &mut OwnRecord<S>) -> Vec<Step<S>> {
        own.session = None;
        own.written = None;
        self.stage = Stage::FindingHolder;
        vec![Step::Read(Key::Node)]
    }

    fn ask_holder(&mut self, found: Option<Found<S>>) -> Vec<Step<S>> {
        let Some(holder) = found.and_then(|found| found.holder) else { return self.create() };
        self.stage = Stage::AskingHolder { holder: holder.clone() };
        vec![Step::AskHolder(holder)]
    }

    fn create(&mut self) -> Vec<Step<S>> {
        self.stage = Stage::Creating;
        vec![Step::Create]
    }

    fn hold(&mut self, own: &mut OwnRecord<S>, moment: Moment, session: S) -> Vec<Step<S>> {
        own.session = Some(session);
        // A renewal does not cut the gathering short: an answer may come, and is written together with the change.
        let next = match own.written {
            Some(_) if self.changes.is_record => self.rest(moment),
            Some(_) | None => self.publish(own, moment),
        };
        [vec![Step::SessionKept], next].concat()
    }

    /// Writes the record where it differs from the last write, or is gone.
    fn publish(&mut self, own: &mut OwnRecord<S>, moment: Moment) -> Vec<Step<S>> {
        let every = match self.trust {
            Trust::Suspect => LOOK_IN_TROUBLE_EVERY,
            Trust::Well => LOOK_EVERY,
        };
        self.must_look |= moment.since_start.saturating_sub(self.looked_at) >= every;
        self.take_changes(moment);
        if self.record.is_none() || own.session.is_none() {
            return self.rest(moment);
        }
        if !own.claim(Writer::Presence) {
            // The outbox has the same record, and writes it.
            self.stage = Stage::Waiting;
            return vec![Step::Wait(self.renew_at.saturating_sub(moment.since_start))];
        }
        if self.must_look && holds(Rule::RecordLooked) {
            self.stage = Stage::Looking;
            return vec![Step::Look(Key::Node)];
        }
        self.write(own, moment)
    }

    fn write(&mut self, own: &mut OwnRecord<S>, moment: Moment) -> Vec<Step<S>> {
        let content = self.record.as_ref().map(report_content);
        match (own.session.clone(), &self.record, content) {
            (Some(session), Some(record), Some(content)) if own.written.as_ref() != Some(&content) => {
                // Until Consul has answered, the content of the key is not known.
                own.written = None;
                self.stage = Stage::Writing { content };
                vec![Step::Write(vec![Op::Lock { key: Key::Node, session, value: encode(record) }])]
            }
            (_, _, _) => {
                own.release(Writer::Presence);
                self.rest(moment)
            }
        }
    }
}

/// The record without its time and free space. A record that differs only there is not written again.
///
/// Of the floor only the era counts, which `cutover recover` waits for: so a deploy costs no write for its number. A node
/// that cannot follow shows that in other fields, and then writes the whole floor.
pub(crate) fn report_content(record: &NodeRecord) -> String {
    let floor = record.floor.map(|floor| Epoch { number: 0, ..floor });
    encode(&NodeRecord { at: Timestamp::UNIX_EPOCH, free_bytes: 0, floor, ..record.clone() })
}

//! Following `barrier`: how each read of the key is judged.
//!
//! The watch reads from any server: it is fast, and may be late. A record that looks late, or gone, is read again
//! consistently. That tells a server that lags from keys that were restored; only restored keys are an alarm
//! (PROTOCOL.md F1).
//!
//! A node without a floor, because it is new or has lost its journal, cannot tell an old record from a new one. Until it
//! holds a record it believes consistent reads only, and its floor is the newest epoch that its own releases, its own
//! keys, or a live node know of.
//!
//! Non-goals: deciding what the node does. The participant compares each record with its floor by itself; this module
//! only decides which reads are repeated.

use std::time::Duration;

use super::Moment;
use super::presence::Trust;
use crate::protocol::floor::Admission;
use crate::protocol::ids::{Epoch, ModifyIndex, Node};
use crate::protocol::participant::{self, admission};
use crate::protocol::record::{Ack, Barrier, FORMAT, NodeRecord, RecordError, check_format, decode};
use crate::protocol::rule::{Rule, holds};

/// The pause before a late record is read consistently, and between two attempts. A server that lags has caught up by
/// then, and a whole fleet that sees old keys costs Consul's leader one read per node and second.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// The longest pause before `barrier` is read again while the watch shows another value. The pause is random, so that a
/// fleet whose server lags does not read all at once: 1,000 nodes cost the leader about 200 reads a second.
const CATCH_UP: Duration = Duration::from_secs(10);

/// `barrier` as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BarrierRead {
    pub(crate) index: ModifyIndex,
    pub(crate) value: Vec<u8>,
}

/// A node's record or answer as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRead {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    /// Whether a session holds the key: the node is alive.
    pub(crate) is_held: bool,
}

/// The result of [`Step::ReadFirst`]: all keys at one position in Consul's log.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstRead {
    pub(crate) barrier: Option<BarrierRead>,
    pub(crate) own_ack: Option<KeyRead>,
    pub(crate) nodes: Vec<KeyRead>,
    /// [`known_epoch`](super::rebuild::known_epoch) of this node's releases.
    pub(crate) on_disk: Option<Epoch>,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A read failed, for this reason.
    Failed(String),
    First(Box<FirstRead>),
    /// [`Step::Read`] has ended.
    Read(Option<BarrierRead>),
    /// [`Step::Wait`] has ended.
    Waited,
    /// The watch has shown this, from any server.
    Watched(Option<BarrierRead>),
    /// The watch has failed, for this reason. It goes on by itself.
    WatchFailed(String),
}

/// Work for the driver. At most one read or wait is under way, beside the watch.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A newer agent wrote a record that this agent needs: this agent leaves the unit as it runs.
    Newer(RecordError),
    /// Read `barrier` consistently.
    Read,
    /// The record under this key can be read.
    Readable(String),
    /// Read `barrier`, this node's own answer, and the records of all nodes, consistently.
    ReadFirst,
    /// A read of `barrier` succeeded.
    ReadSucceeded,
    /// A read of `barrier` failed, for this reason.
    ReadFailed(String),
    Tell(participant::Event),
    /// The trust in `barrier` has changed.
    Trust(Trust),
    Wait(Duration),
    /// Watch `barrier` from now on.
    Watch,
}

/// How a read of `barrier` was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consistency {
    Consistent,
    Stale,
}

/// The result of a read; none: the key is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReadResult {
    barrier: Option<BarrierRead>,
}

#[derive(Clone, Debug)]
enum Stage {
    /// The first read of a node that holds no record.
    Beginning,
    /// The first read has failed, and is retried after a pause.
    BeginningLater,
    /// A record that looks late is being read consistently. The watch's results are kept until that has ended.
    Confirming {
        kept: Option<ReadResult>,
    },
    /// A record looks late, and is read consistently after a pause.
    Doubting,
    Watching,
}

/// An epoch that some node is known to have followed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    epoch: Epoch,
    by: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Follower {
    node: Node,
    /// The key, for messages.
    key: String,
    /// The record that the participant holds, once it has taken all events.
    held: Option<Barrier>,
    /// The floor while no record is held: no record below it is followed.
    least: Option<Known>,
    watch_shows: Option<ReadResult>,
    stage: Stage,
    trust: Trust,
}

impl Follower {
    /// `held` is the record in the journal at the start; `key` names `barrier` in messages.
    pub(crate) const fn new(node: Node, key: String, held: Option<Barrier>) -> Self {
        Self { node, key, held, least: None, watch_shows: None, stage: Stage::Watching, trust: Trust::Well }
    }

    pub(crate) fn begin(&mut self) -> Vec<Step> {
        if self.held.is_some() || !holds(Rule::FirstConsistent) {
            return vec![Step::Watch];
        }
        self.stage = Stage::Beginning;
        vec![Step::ReadFirst]
    }

    pub(crate) fn on(&mut self, moment: Moment, event: Event) -> Vec<Step> {
        let stage = std::mem::replace(&mut self.stage, Stage::Watching);
        match (stage, event) {
            (Stage::Beginning, Event::First(first)) => self.take_first(*first),
            (Stage::Beginning, Event::Failed(reason)) => {
                self.stage = Stage::BeginningLater;
                vec![Step::ReadFailed(reason), Step::Wait(CONFIRM_AFTER)]
            }
            (Stage::BeginningLater, Event::Waited) => {
                self.stage = Stage::Beginning;
                vec![Step::ReadFirst]
            }
            (Stage::Doubting, Event::Waited) => {
                self.stage = Stage::Confirming { kept: None };
                vec![Step::Read]
            }
            // The watch's result may be newer than the read that is under way, so it is judged after the read.
            (Stage::Confirming { .. }, Event::Watched(seen)) => {
                self.stage = Stage::Confirming { kept: Some(ReadResult { barrier: seen }) };
                Vec::new()
            }
            (Stage::Confirming { kept }, Event::Read(seen)) => {
                let read = ReadResult { barrier: seen.clone() };
                let steps = self.see(seen, Consistency::Consistent);
                let later = kept.map(|kept| self.watched(kept.barrier)).unwrap_or_default();
                [steps, later, self.await_the_watch(moment, &read)].concat()
            }
            (Stage::Confirming { kept }, Event::Failed(reason)) => {
                self.stage = Stage::Doubting;
                let steps = vec![Step::ReadFailed(reason), Step::Wait(CONFIRM_AFTER)];
                let later = kept.map(|kept| self.watched(kept.barrier)).unwrap_or_default();
                [steps, later].concat()
            }
            (stage @ (Stage::Doubting | Stage::Watching), Event::Watched(seen)) => {
                self.stage = stage;
                self.watched(seen)
            }
            (stage, Event::WatchFailed(reason)) => {
                self.stage = stage;
                vec![Step::ReadFailed(reason)]
            }
            // Late, or never asked for.
            (stage @ (Stage::Beginning | Stage::BeginningLater), Event::Watched(_) | Event::Read(_))
            | (
                stage @ (Stage::BeginningLater | Stage::Doubting | Stage::Watching),
                Event::First(_) | Event::Failed(_),
            )
            | (stage @ (Stage::Doubting | Stage::Watching), Event::Read(_))
            | (stage @ (Stage::Beginning | Stage::Confirming { .. } | Stage::Watching), Event::Waited)
            | (stage @ Stage::Confirming { .. }, Event::First(_)) => {
                self.stage = stage;
                Vec::new()
            }
        }
    }

    /// The first read of a node that holds no record.
    fn take_first(&mut self, first: FirstRead) -> Vec<Step> {
        let FirstRead { barrier, own_ack, nodes, on_disk } = first;
        let mut steps = Vec::new();
        for KeyRead { key, value, .. } in own_ack.iter().chain(&nodes) {
            steps.push(match check_format(key, value, FORMAT) {
                Ok(()) => Step::Readable(key.clone()),
                Err(error) => Step::Newer(error),
            });
        }
        if steps.iter().any(|step| matches!(step, Step::Newer(_))) {
            // A floor that cannot be read may be the newest: the node follows nothing without it.
            self.stage = Stage::BeginningLater;
            steps.push(Step::Wait(CONFIRM_AFTER));
            return steps;
        }
        self.least = self.least(own_ack.as_ref(), &nodes, on_disk);
        steps.extend(self.see(barrier, Consistency::Consistent));
        steps.push(Step::Watch);
        steps
    }

    fn least(&self, own_ack: Option<&KeyRead>, nodes: &[KeyRead], on_disk: Option<Epoch>) -> Option<Known> {
        let own = own_ack.and_then(|ack| decode::<Ack>(&ack.key, &ack.value).ok()).map(|ack| ack.epoch);
        let own = own.max(on_disk).map(|epoch| Known { epoch, by: "this node".to_owned() });
        let floor = |peer: &KeyRead| {
            let record = decode::<NodeRecord>(&peer.key, &peer.value).ok()?;
            // The record of an absent node may be old and restored, so only live nodes count, and this node itself.
            (peer.is_held || record.node == self.node).then_some(())?;
            Some(Known { epoch: record.floor?, by: record.node.to_string() })
        };
        nodes.iter().filter_map(floor).chain(own).max().filter(|known| known.epoch > Epoch::default())
    }

    fn watched(&mut self, seen: Option<BarrierRead>) -> Vec<Step> {
        self.watch_shows = Some(ReadResult { barrier: seen.clone() });
        self.see(seen, Consistency::Stale)
    }

    /// The watch reports only changes of its own last result. While that differs from the consistent read, the watch would
    /// not report a return to it: the keys could be deleted or restored unseen. So the read is repeated until both agree.
    fn await_the_watch(&mut self, moment: Moment, read: &ReadResult) -> Vec<Step> {
        let agrees = self.watch_shows.as_ref().is_none_or(|shown| shown == read);
        match &self.stage {
            Stage::Watching if !agrees => self.doubt(moment.within(CATCH_UP).max(CONFIRM_AFTER)),
            Stage::Watching | Stage::Beginning | Stage::BeginningLater | Stage::Confirming { .. } | Stage::Doubting => {
                Vec::new()
            }
        }
    }

    fn see(&mut self, seen: Option<BarrierRead>, consistency: Consistency) -> Vec<Step> {
        [vec![Step::ReadSucceeded], self.judge(seen, consistency)].concat()
    }

    fn judge(&mut self, seen: Option<BarrierRead>, consistency: Consistency) -> Vec<Step> {
        let Some(seen) = seen else { return self.miss(consistency) };
        let record = match Barrier::decode(&self.key, &seen.value) {
            Ok(record) => record,
            // The keys are fine, and this agent is too old for them: it follows nothing.
            Err(error) if error.is_newer() => return vec![Step::Newer(error)],
            Err(error) => {
                return self.tell(participant::Event::Unreadable { reason: error.to_string() }, Trust::Suspect);
            }
        };
        if let (None, Some(Known { epoch: least, by })) = (&self.held, &self.least)
            && record.epoch < *least
        {
            let at = record.epoch;
            let reason =
                format!("barrier is at {at}, and {by} has followed {least}: the keys were restored to an older state");
            return self.tell(participant::Event::Unreadable { reason }, Trust::Suspect);
        }
        let is_consistent = consistency == Consistency::Consistent;
        if self.held.is_none() && !is_consistent && holds(Rule::FirstConsistent) {
            // Without a floor, any older record would pass for new.
            return self.doubt(Duration::ZERO);
        }
        let trust = match (admission(self.held.as_ref(), &record), consistency) {
            (Admission::New, _) => {
                self.held = Some(record.clone());
                Trust::Well
            }
            (Admission::Same, _) => Trust::Well,
            (Admission::Late, Consistency::Stale) => return self.doubt(CONFIRM_AFTER),
            (Admission::Late, Consistency::Consistent) | (Admission::Contradicts, _) => Trust::Suspect,
        };
        let told = participant::Event::Record { index: seen.index, record: Box::new(record), is_consistent };
        self.tell(told, trust)
    }

    /// There is no record.
    fn miss(&mut self, consistency: Consistency) -> Vec<Step> {
        // Where no record was ever followed none is missing: the first coordinator makes it.
        if self.held.is_none() && self.least.is_none() {
            return Vec::new();
        }
        match consistency {
            // A server that lags may not have it yet.
            Consistency::Stale => self.doubt(CONFIRM_AFTER),
            Consistency::Consistent => {
                let reason = format!("{} is gone: the keys were deleted, or Consul was rebuilt", self.key);
                self.tell(participant::Event::Unreadable { reason }, Trust::Suspect)
            }
        }
    }

    fn doubt(&mut self, pause: Duration) -> Vec<Step> {
        self.stage = Stage::Doubting;
        vec![Step::Wait(pause)]
    }

    fn tell(&mut self, event: participant::Event, trust: Trust) -> Vec<Step> {
        let mut steps = vec![Step::Readable(self.key.clone())];
        // Only changes: on each one, presence waits for a random pause and looks at its record.
        if std::mem::replace(&mut self.trust, trust) != trust {
            steps.push(Step::Trust(trust));
        }
        steps.push(Step::Tell(event));
        steps
    }
}

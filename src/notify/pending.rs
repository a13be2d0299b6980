//! The events that a receiver has not had yet, in order. Pure.
//!
//! A cursor ([`ReceiverCursor`]) records how far a receiver is. Each step consists of an event and the cursor after it;
//! the caller sends the event, then stores the cursor.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::event::Event;
use crate::protocol::ids::Epoch;
use crate::protocol::record::{Action, History, ReceiverCursor};

/// The records in Consul that may contain new events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    /// Requests after the cursor, by epoch.
    pub(crate) histories: Vec<History>,
    /// Actions after the cursor, by epoch.
    pub(crate) actions: Vec<Action>,
    /// The epoch of the barrier, read **before** the records; none if there is no barrier.
    pub(crate) barrier: Option<Epoch>,
    pub(crate) drifts: Drifts,
}

/// The drift of nodes, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drifts {
    /// Drift that has lasted long enough, by node.
    pub(crate) lasted: BTreeMap<String, Event>,
    /// Nodes whose state is not known yet: absent, or drifting for too short a time. None if no node was checked yet.
    pub(crate) undecided: Option<BTreeSet<String>>,
}

impl Drifts {
    /// Whether a node's drift has ended, or the node no longer exists.
    fn has_ended(&self, node: &str) -> bool {
        let is_known = self.undecided.as_ref().is_some_and(|undecided| !undecided.contains(node));
        is_known && !self.lasted.contains_key(node)
    }
}

/// One step: an event, and the cursor after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// The event to send; none if only the cursor moves.
    pub(crate) event: Option<Event>,
    /// The cursor to store once the receiver has accepted the event.
    pub(crate) cursor: ReceiverCursor,
}

/// The part of the cursor that a step moves.
enum Mark {
    Action(Epoch),
    Begun(Epoch),
    Ended(Epoch),
}

/// The cursor of a new receiver: it gets only events from now on.
#[must_use]
pub(crate) fn initial_cursor(histories: &[Epoch], actions: &[Epoch], running: Option<Epoch>) -> ReceiverCursor {
    ReceiverCursor {
        begun: histories.iter().max().copied(),
        // The running deploy has not ended yet, so the receiver gets its end.
        ended: histories.iter().filter(|epoch| running != Some(**epoch)).max().copied(),
        action: actions.iter().max().copied(),
        troubles: BTreeMap::new(),
    }
}

/// The pending steps of a receiver at `cursor`.
///
/// The start of a deploy comes before its end. Deploys and actions are each in the order of their epochs, and merged by
/// time. Drift comes last.
#[must_use]
pub(crate) fn pending(cursor: &ReceiverCursor, records: &Records) -> Vec<Pending> {
    let mut deploys = deploys(cursor, records).into_iter().peekable();
    let actions = records.actions.iter().filter(|action| cursor.action.is_none_or(|last| action.epoch > last));
    let mut actions = actions.map(|it| (it.at, Mark::Action(it.epoch), Event::acted(it))).peekable();
    let mut steps = Vec::new();
    let mut now = cursor.clone();
    loop {
        let is_deploy_next = match (deploys.peek(), actions.peek()) {
            (None, None) => break,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((deploy, ..)), Some((action, ..))) => deploy <= action,
        };
        let Some((_, mark, event)) = (if is_deploy_next { deploys.next() } else { actions.next() }) else { break };
        match mark {
            Mark::Action(epoch) => now.action = Some(epoch),
            Mark::Begun(epoch) => now.begun = Some(epoch),
            Mark::Ended(epoch) => now.ended = Some(epoch),
        }
        steps.push(Pending { event, cursor: now.clone() });
    }
    for (node, event) in &records.drifts.lasted {
        // Compared by text and not by id: drift that outlasts a deploy is still the same drift.
        let what = event.data.reason.clone().unwrap_or_default();
        if now.troubles.get(node) != Some(&what) {
            now.troubles.insert(node.clone(), what);
            steps.push(Pending { event: Some(event.clone()), cursor: now.clone() });
        }
    }
    let before = now.troubles.len();
    now.troubles.retain(|node, _| !records.drifts.has_ended(node));
    if now.troubles.len() < before {
        steps.push(Pending { event: None, cursor: now });
    }
    steps
}

fn deploys(cursor: &ReceiverCursor, records: &Records) -> Vec<(Timestamp, Mark, Option<Event>)> {
    let mut steps = Vec::new();
    let mut is_open = false;
    for history in &records.histories {
        let epoch = history.epoch;
        if cursor.begun.is_none_or(|last| epoch > last) {
            steps.push((history.started_at, Mark::Begun(epoch), Event::started(history)));
        }
        if is_open || cursor.ended.is_some_and(|last| epoch <= last) {
            continue;
        }
        match history.ended_at {
            Some(at) if history.outcome.is_some() => steps.push((at, Mark::Ended(epoch), Event::ended(history))),
            // The deploy has not ended, so later ends wait. If the barrier has already moved past its epoch, its end was
            // lost together with the keys of an earlier era, and waiting would never stop.
            _ => is_open = records.barrier.is_none_or(|barrier| barrier <= epoch),
        }
    }
    steps
}

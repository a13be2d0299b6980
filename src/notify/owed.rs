//! What a receiver has not been told yet, in order. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::event::Event;
use crate::protocol::ids::Epoch;
use crate::protocol::record::{Action, History, Told};

/// What stands in Consul, as far as it may be news.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Requests that are newer than what was told, by epoch.
    pub histories: Vec<History>,
    /// Actions that are newer than what was told, by epoch.
    pub actions: Vec<Action>,
    /// The epoch of the barrier, read **before** the records; none: there is none.
    pub barrier: Option<Epoch>,
    /// What is wrong with nodes.
    pub troubles: Troubles,
}

/// What is wrong with nodes, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// What has lasted, by node.
    pub lasted: BTreeMap<String, Event>,
    /// Nodes of which it is not known yet: away, or in trouble for too short a time. None: nobody has looked.
    pub undecided: Option<BTreeSet<String>>,
}

impl Troubles {
    /// Whether a node was seen to be well, or is no more.
    fn has_ended(&self, node: &str) -> bool {
        let is_known = self.undecided.as_ref().is_some_and(|undecided| !undecided.contains(node));
        is_known && !self.lasted.contains_key(node)
    }
}

/// One step: an event, and what was told once the receiver has taken it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// What is to be sent; none: nothing, only what stands moves on.
    pub event: Option<Event>,
    /// What was told after this.
    pub told: Told,
}

/// What moves by a step.
enum Mark {
    Action(Epoch),
    Begun(Epoch),
    Ended(Epoch),
}

/// The record for a receiver that was never told anything: from here on, and nothing of the past.
#[must_use]
pub fn first(histories: &[Epoch], actions: &[Epoch], running: Option<Epoch>) -> Told {
    Told {
        begun: histories.iter().max().copied(),
        // The end of what runs now is still to come.
        ended: histories.iter().filter(|epoch| running != Some(**epoch)).max().copied(),
        action: actions.iter().max().copied(),
        troubles: BTreeMap::new(),
    }
}

/// What is owed to a receiver that has been told `told`.
///
/// Each deploy's beginning before its end, deploys in the order of their epochs, actions in the order of theirs; the two
/// by their time. Troubles come last.
#[must_use]
pub fn owed(told: &Told, standing: &Standing) -> Vec<Owed> {
    let mut deploys = deploys(told, standing).into_iter().peekable();
    let actions = standing.actions.iter().filter(|action| told.action.is_none_or(|last| action.epoch > last));
    let mut actions = actions.map(|it| (it.at, Mark::Action(it.epoch), Event::acted(it))).peekable();
    let mut steps = Vec::new();
    let mut now = told.clone();
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
        steps.push(Owed { event, told: now.clone() });
    }
    for (node, event) in &standing.troubles.lasted {
        // By what it says, and not by the id: a trouble that outlives a deploy is the same.
        let what = event.data.reason.clone().unwrap_or_default();
        if now.troubles.get(node) != Some(&what) {
            now.troubles.insert(node.clone(), what);
            steps.push(Owed { event: Some(event.clone()), told: now.clone() });
        }
    }
    let before = now.troubles.len();
    now.troubles.retain(|node, _| !standing.troubles.has_ended(node));
    if now.troubles.len() < before {
        steps.push(Owed { event: None, told: now });
    }
    steps
}

fn deploys(told: &Told, standing: &Standing) -> Vec<(Timestamp, Mark, Option<Event>)> {
    let mut steps = Vec::new();
    let mut is_open = false;
    for history in &standing.histories {
        let epoch = history.epoch;
        if told.begun.is_none_or(|last| epoch > last) {
            steps.push((history.started_at, Mark::Begun(epoch), Event::started(history)));
        }
        if is_open || told.ended.is_some_and(|last| epoch <= last) {
            continue;
        }
        match history.ended_at {
            Some(at) if history.outcome.is_some() => steps.push((at, Mark::Ended(epoch), Event::ended(history))),
            // Its end is still to come, and those after it wait for that. One that the barrier had left behind when it
            // was read lost its end with the keys of an earlier era: nobody waits for it.
            _ => is_open = standing.barrier.is_none_or(|barrier| barrier <= epoch),
        }
    }
    steps
}

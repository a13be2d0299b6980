//! I8: the invariant of a fleet at rest.

use super::Broken;
use crate::protocol::ids::Node;
use crate::protocol::record::{Barrier, Release};

/// A fleet after the last fault, once nothing happens any more.
#[derive(Clone, Debug)]
pub(crate) struct RestView<'a> {
    /// None: the record is absent or cannot be read.
    pub(crate) barrier: Option<&'a Barrier>,
    pub(crate) has_request: bool,
    /// Every live node.
    pub(crate) nodes: Vec<RestingNode<'a>>,
}

/// A node at rest.
#[derive(Clone, Debug)]
pub(crate) struct RestingNode<'a> {
    pub(crate) name: &'a Node,
    /// The running release by the journal.
    pub(crate) runs: Option<&'a Release>,
    /// What `current` points to; none: its origin.
    pub(crate) current: Option<&'a Release>,
    pub(crate) alarm: Option<String>,
    /// The node has lost its origin, so it cannot go back to it without a person.
    pub(crate) has_lost_origin: bool,
}

/// I8. A fleet at rest has settled, has answered every request, and runs `committed` everywhere, without an alarm.
///
/// # Errors
///
/// [`Broken`], with the first reason why the fleet is not at rest.
pub(crate) fn check_i8(view: &RestView<'_>) -> Result<(), Broken> {
    let broken = |what: String| Err(Broken { invariant: "I8", what });
    let Some(barrier) = view.barrier else { return broken("there is no barrier".to_owned()) };
    if !barrier.phase.is_settled() {
        return broken(format!("{} stays at {}", barrier.epoch, barrier.phase.as_str()));
    }
    if view.has_request {
        return broken("a request still waits".to_owned());
    }
    let committed = barrier.committed.as_ref();
    for node in &view.nodes {
        // An operator began this era from nothing: the node keeps its release, with an alarm.
        let is_apart = committed.is_none() && node.runs.is_some_and(|runs| runs.epoch.era < barrier.epoch.era);
        if is_apart && node.alarm.is_some() {
            continue;
        }
        let is_there = match (node.current, committed) {
            // A rollback's directory has the epoch that made it.
            (Some(current), Some(committed)) => current.same_tree(committed),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let is_excused = node.has_lost_origin && committed.is_none();
        if !is_excused && (!is_there || node.runs != committed) {
            let has = node.current.map_or("its origin".to_owned(), |release| release.epoch.to_string());
            return broken(format!("{} runs {has}, which is not what is committed", node.name));
        }
        if let Some(alarm) = &node.alarm {
            return broken(format!("{} alarms: {alarm}", node.name));
        }
    }
    Ok(())
}

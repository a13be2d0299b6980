//! The invariants of PROTOCOL.md, written once.
//!
//! Pure predicates over what one can see of a fleet from outside: the log of Consul, and each node's durable state.
//! Tests and the model call them after every step; none of them knows how a state came about.

use std::collections::BTreeSet;

use super::floor::{Admission, admit};
use super::ids::{Epoch, Node};
use super::journal::{Journal, Target};
use super::record::{Answer, Barrier, Phase, Release};

/// One applied write that an invariant speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// `acks/<node>`.
    Ack {
        /// Whose.
        node: Node,
        /// To which epoch.
        epoch: Epoch,
        /// Yes or no.
        answer: Answer,
    },
    /// `barrier`.
    Barrier(Box<Barrier>),
    /// `members/<epoch>`.
    Members {
        /// The epoch.
        epoch: Epoch,
        /// The frozen names.
        members: Vec<Node>,
    },
}

/// What one node's disk holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeView {
    /// Its name.
    pub name: Node,
    /// Its journal, as it would be read after a crash now.
    pub journal: Journal,
    /// What `current` points to now; none: its origin.
    pub current: Option<Release>,
}

/// A fleet at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FleetView {
    /// Every applied write, oldest first.
    pub log: Vec<Write>,
    /// Every node.
    pub nodes: Vec<NodeView>,
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} is broken: {what}")]
pub struct Broken {
    /// Its name, as in PROTOCOL.md.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

fn holds(is_so: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if is_so { Ok(()) } else { Err(Broken { invariant, what: what() }) }
}

impl FleetView {
    fn barriers(&self) -> impl Iterator<Item = (usize, &Barrier)> {
        self.log.iter().enumerate().filter_map(|(at, write)| match write {
            Write::Barrier(barrier) => Some((at, barrier.as_ref())),
            Write::Ack { .. } | Write::Members { .. } => None,
        })
    }

    /// What `node` had last answered to `epoch` before the write at `at`.
    fn answer_before(&self, at: usize, node: &Node, epoch: Epoch) -> Option<Answer> {
        self.log.iter().take(at).rev().find_map(|write| match write {
            Write::Ack { node: by, epoch: to, answer } if by == node && *to == epoch => Some(*answer),
            Write::Ack { .. } | Write::Barrier(_) | Write::Members { .. } => None,
        })
    }

    /// The members of `epoch`, where they were written before `at`.
    fn members_before(&self, at: usize, epoch: Epoch) -> Option<&[Node]> {
        self.log.iter().take(at).find_map(|write| match write {
            Write::Members { epoch: of, members } if *of == epoch => Some(members.as_slice()),
            Write::Ack { .. } | Write::Barrier(_) | Write::Members { .. } => None,
        })
    }
}

/// I1. Before every commit, each member had acknowledged that very epoch as prepared.
///
/// # Errors
///
/// [`Broken`], naming the epoch and the member. So do all checks of this module.
pub fn check_i1(view: &FleetView) -> Result<(), Broken> {
    for (at, barrier) in view.barriers().filter(|(_, barrier)| barrier.phase == Phase::Commit) {
        let epoch = barrier.epoch;
        let members = view.members_before(at, epoch).unwrap_or_default();
        holds(!members.is_empty(), "I1", || format!("commit of {epoch} without members"))?;
        for node in members {
            let answer = view.answer_before(at, node, epoch);
            holds(answer == Some(Answer::Prepared), "I1", || {
                format!("commit of {epoch}, and {node} had answered {answer:?}")
            })?;
        }
    }
    Ok(())
}

/// I2. An epoch is decided once, goes back only after its commit, and a record is overwritten by its successor only.
///
/// # Errors
///
/// [`Broken`].
pub fn check_i2(view: &FleetView) -> Result<(), Broken> {
    let has = |epoch: Epoch, phase: Phase, before: usize| {
        view.barriers().any(|(at, barrier)| at < before && (barrier.epoch, barrier.phase) == (epoch, phase))
    };
    let mut previous: Option<&Barrier> = None;
    for (at, barrier) in view.barriers() {
        let (epoch, phase) = (barrier.epoch, barrier.phase);
        let text = || format!("{} {} at place {at}", epoch, phase.as_str());
        holds(phase != Phase::Commit || !has(epoch, Phase::Aborted, at), "I2", text)?;
        holds(phase != Phase::Aborted || !has(epoch, Phase::Commit, at), "I2", text)?;
        holds(phase != Phase::Revert || has(epoch, Phase::Commit, at), "I2", text)?;
        if let Some(previous) = previous.filter(|previous| previous.epoch == epoch) {
            let follows = matches!(
                (previous.phase, phase),
                (Phase::Prepare, Phase::Commit | Phase::Aborted)
                    | (Phase::Commit, Phase::Done | Phase::Revert)
                    | (Phase::Revert, Phase::Reverted)
            );
            holds(follows && previous.deploy == barrier.deploy && previous.from == barrier.from, "I2", text)?;
        }
        previous = Some(barrier);
    }
    Ok(())
}

/// I3. The log's (era, epoch, rank) only rises, and nothing is prepared while another epoch is unfinished.
///
/// # Errors
///
/// [`Broken`].
pub fn check_i3(view: &FleetView) -> Result<(), Broken> {
    let mut previous: Option<&Barrier> = None;
    for (_, barrier) in view.barriers() {
        let text = || format!("{} {} after {previous:?}", barrier.epoch, barrier.phase.as_str());
        holds(admit(previous, barrier) == Admission::New, "I3", text)?;
        let may_begin = previous.is_none_or(|previous| previous.phase.is_settled());
        holds(barrier.phase != Phase::Prepare || may_begin, "I3", text)?;
        previous = Some(barrier);
    }
    Ok(())
}

/// I5. The members of an epoch are written once, and a request is taken at most once.
///
/// # Errors
///
/// [`Broken`].
pub fn check_i5(view: &FleetView) -> Result<(), Broken> {
    let (mut frozen, mut begun) = (BTreeSet::new(), BTreeSet::new());
    for write in &view.log {
        match write {
            Write::Members { epoch, .. } => {
                holds(frozen.insert(*epoch), "I5", || format!("members/{epoch} was written twice"))?;
            }
            Write::Barrier(barrier) if barrier.phase == Phase::Prepare => {
                holds(begun.insert(barrier.epoch), "I5", || format!("{} was begun twice", barrier.epoch))?;
            }
            Write::Barrier(_) | Write::Ack { .. } => {}
        }
    }
    Ok(())
}

/// I7. No node's floor has gone down from one moment to a later one.
///
/// # Errors
///
/// [`Broken`].
pub fn check_i7(before: &FleetView, after: &FleetView) -> Result<(), Broken> {
    for old in &before.nodes {
        let Some(new) = after.nodes.iter().find(|new| new.name == old.name) else { continue };
        let (held, holds_now) = (old.journal.record.as_ref(), new.journal.record.as_ref());
        let is_above = match (held, holds_now) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(held), Some(now)) => matches!(admit(Some(held), now), Admission::New | Admission::Same),
        };
        holds(is_above, "I7", || format!("the floor of {} fell from {held:?} to {holds_now:?}", old.name))?;
    }
    Ok(())
}

/// I9, and the half of I1 that is about nodes: nobody runs, or sets out for, what the log never had as committed.
///
/// # Errors
///
/// [`Broken`].
pub fn check_i9(view: &FleetView) -> Result<(), Broken> {
    let decided: BTreeSet<Epoch> =
        view.barriers().filter_map(|(_, barrier)| barrier.committed.as_ref()).map(|release| release.epoch).collect();
    for node in &view.nodes {
        let moving = match &node.journal.moving {
            Some(Target::Release(release)) => Some(release),
            Some(Target::Origin) | None => None,
        };
        for release in [node.current.as_ref(), node.journal.runs.as_ref(), moving].into_iter().flatten() {
            holds(decided.contains(&release.epoch), "I9", || {
                format!("{} runs {}, which was never committed", node.name, release.epoch)
            })?;
        }
    }
    Ok(())
}

/// I11, its first half: who has answered the record that stands with a yes runs what that record has as committed.
///
/// # Errors
///
/// [`Broken`].
pub fn check_i11(view: &FleetView) -> Result<(), Broken> {
    let Some((_, barrier)) = view.barriers().last() else { return Ok(()) };
    let yes = match barrier.phase {
        Phase::Commit | Phase::Done => Answer::Switched,
        Phase::Revert | Phase::Reverted => Answer::Reverted,
        Phase::Idle | Phase::Prepare | Phase::Aborted => return Ok(()),
    };
    for node in &view.nodes {
        let has_answered = view.answer_before(view.log.len(), &node.name, barrier.epoch) == Some(yes);
        holds(!has_answered || node.current == barrier.committed, "I11", || {
            format!("{} answered {yes:?} to {} and runs {:?}", node.name, barrier.epoch, node.current)
        })?;
    }
    Ok(())
}

/// Every check that looks at one moment.
///
/// # Errors
///
/// The first [`Broken`].
pub fn check_moment(view: &FleetView) -> Result<(), Broken> {
    check_i1(view)?;
    check_i2(view)?;
    check_i3(view)?;
    check_i5(view)?;
    check_i9(view)?;
    check_i11(view)
}

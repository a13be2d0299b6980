//! The invariants of PROTOCOL.md, written once.
//!
//! Pure predicates over what one can see of a fleet from outside: the log of Consul, and each node's durable state.
//! Tests and the model call them after every step; none of them knows how a state came about.

use std::collections::BTreeSet;

use super::floor::{Admission, admit};
use super::ids::{Epoch, Node};
use super::journal::{Journal, Target};
use super::record::{Answer, Barrier, Phase, Release, Wanted};

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
    /// `deploy`.
    Request {
        /// What waits from now on; none: nothing, or no readable request.
        wanted: Option<Wanted>,
    },
}

/// What one node's disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a Node,
    /// Its journal, as it would be read after a crash now.
    pub journal: &'a Journal,
    /// What `current` points to now; none: its origin.
    pub current: Option<&'a Release>,
}

/// A fleet at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FleetView<'a> {
    /// Every applied write, oldest first.
    pub log: &'a [Write],
    /// Every node.
    pub nodes: Vec<NodeView<'a>>,
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

impl Broken {
    /// A word for metrics and programs: the same for each of these errors.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        "broken"
    }
}

fn holds(is_so: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if is_so { Ok(()) } else { Err(Broken { invariant, what: what() }) }
}

fn in_short(barrier: &Barrier) -> String {
    format!("{} {}", barrier.epoch, barrier.phase.as_str())
}

impl FleetView<'_> {
    fn barriers(&self) -> impl Iterator<Item = (usize, &Barrier)> {
        self.log.iter().enumerate().filter_map(|(at, write)| match write {
            Write::Barrier(barrier) => Some((at, barrier.as_ref())),
            Write::Ack { .. } | Write::Members { .. } | Write::Request { .. } => None,
        })
    }

    /// What `node` had last answered to `epoch` before the write at `at`.
    fn answer_before(&self, at: usize, node: &Node, epoch: Epoch) -> Option<Answer> {
        self.log.iter().take(at).rev().find_map(|write| match write {
            Write::Ack { node: by, epoch: to, answer } if by == node && *to == epoch => Some(*answer),
            Write::Ack { .. } | Write::Barrier(_) | Write::Members { .. } | Write::Request { .. } => None,
        })
    }

    /// The members of `epoch`, where they were written before `at`.
    fn members_before(&self, at: usize, epoch: Epoch) -> Option<&[Node]> {
        self.log.iter().take(at).find_map(|write| match write {
            Write::Members { epoch: of, members } if *of == epoch => Some(members.as_slice()),
            Write::Ack { .. } | Write::Barrier(_) | Write::Members { .. } | Write::Request { .. } => None,
        })
    }

    /// The request that waited when the write at `at` was applied.
    fn waiting_at(&self, at: usize) -> Option<&Wanted> {
        self.log.iter().take(at).rev().find_map(|write| match write {
            Write::Request { wanted } => Some(wanted.as_ref()),
            Write::Ack { .. } | Write::Barrier(_) | Write::Members { .. } => None,
        })?
    }
}

/// I1. Before every commit, each member had acknowledged that very epoch as prepared.
///
/// # Errors
///
/// [`Broken`], naming the epoch and the member. So do all checks of this module.
pub fn check_i1(view: &FleetView<'_>) -> Result<(), Broken> {
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
pub fn check_i2(view: &FleetView<'_>) -> Result<(), Broken> {
    let has = |epoch: Epoch, phase: Phase, before: usize| {
        view.barriers().any(|(at, barrier)| at < before && (barrier.epoch, barrier.phase) == (epoch, phase))
    };
    let mut previous: Option<&Barrier> = None;
    for (at, barrier) in view.barriers() {
        let (epoch, phase) = (barrier.epoch, barrier.phase);
        let text = || format!("{} at place {at}", in_short(barrier));
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
pub fn check_i3(view: &FleetView<'_>) -> Result<(), Broken> {
    let mut previous: Option<&Barrier> = None;
    for (_, barrier) in view.barriers() {
        let text = || format!("{} after {}", in_short(barrier), previous.map_or("nothing".to_owned(), in_short));
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
pub fn check_i5(view: &FleetView<'_>) -> Result<(), Broken> {
    let (mut frozen, mut begun) = (BTreeSet::new(), BTreeSet::new());
    for write in view.log {
        match write {
            Write::Members { epoch, .. } => {
                holds(frozen.insert(*epoch), "I5", || format!("members/{epoch} was written twice"))?;
            }
            Write::Barrier(barrier) if barrier.phase == Phase::Prepare => {
                holds(begun.insert(barrier.epoch), "I5", || format!("{} was begun twice", barrier.epoch))?;
            }
            Write::Barrier(_) | Write::Ack { .. } | Write::Request { .. } => {}
        }
    }
    Ok(())
}

/// I7. A node's floor has not gone down from one moment to a later one.
///
/// # Errors
///
/// [`Broken`].
pub fn check_i7(node: &Node, before: &Journal, after: &Journal) -> Result<(), Broken> {
    let (held, now) = (before.record.as_ref(), after.record.as_ref());
    let is_above = match (held, now) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(_), Some(now)) => matches!(admit(held, now), Admission::New | Admission::Same),
    };
    let words = |record: Option<&Barrier>| record.map_or("nothing".to_owned(), in_short);
    holds(is_above, "I7", || format!("the floor of {node} fell from {} to {}", words(held), words(now)))
}

/// I9, and the half of I1 that is about nodes: nobody runs, or sets out for, what the log never had as committed.
///
/// # Errors
///
/// [`Broken`].
pub fn check_i9(view: &FleetView<'_>) -> Result<(), Broken> {
    let decided: BTreeSet<Epoch> =
        view.barriers().filter_map(|(_, barrier)| barrier.committed.as_ref()).map(|release| release.epoch).collect();
    for node in &view.nodes {
        let moving = match &node.journal.moving {
            Some(Target::Release(release)) => Some(release),
            Some(Target::Origin) | None => None,
        };
        for release in [node.current, node.journal.runs.as_ref(), moving].into_iter().flatten() {
            holds(decided.contains(&release.epoch), "I9", || {
                format!("{} runs {}, which was never committed", node.name, release.epoch)
            })?;
        }
    }
    Ok(())
}

/// I11, its first half: who has answered a commit with a yes runs its release, and a revert, what ran before.
///
/// # Errors
///
/// [`Broken`].
pub fn check_i11(view: &FleetView<'_>) -> Result<(), Broken> {
    let Some((_, barrier)) = view.barriers().last() else { return Ok(()) };
    // Not by `committed`: that it was set back is what is to be shown.
    let (yes, runs) = match barrier.phase {
        Phase::Commit | Phase::Done => (Answer::Switched, barrier.target()),
        Phase::Revert | Phase::Reverted => (Answer::Reverted, barrier.from.as_ref()),
        Phase::Idle | Phase::Prepare | Phase::Aborted => return Ok(()),
    };
    for node in &view.nodes {
        let has_answered = view.answer_before(view.log.len(), node.name, barrier.epoch) == Some(yes);
        holds(!has_answered || node.current == runs, "I11", || {
            let epoch = node.current.map_or("its origin".to_owned(), |release| release.epoch.to_string());
            format!("{} answered {yes:?} to {} and runs {epoch}", node.name, barrier.epoch)
        })?;
    }
    Ok(())
}

/// I12. No rollback outlives the revert that does what it asks for: taken later, it would take the fleet back too far.
///
/// # Errors
///
/// [`Broken`].
pub fn check_i12(view: &FleetView<'_>) -> Result<(), Broken> {
    for (at, barrier) in view.barriers().filter(|(_, barrier)| barrier.phase == Phase::Reverted) {
        let outlives = match view.waiting_at(at) {
            None | Some(Wanted::Deploy(_)) => false,
            Some(Wanted::Rollback(None)) => true,
            Some(Wanted::Rollback(Some(artifact))) => {
                barrier.from.as_ref().is_some_and(|from| from.artifact == *artifact)
            }
        };
        holds(!outlives, "I12", || format!("a rollback still waits after {} was reverted", barrier.epoch))?;
    }
    Ok(())
}

/// Every check that looks at one moment.
///
/// # Errors
///
/// The first [`Broken`].
pub fn check_moment(view: &FleetView<'_>) -> Result<(), Broken> {
    check_i1(view)?;
    check_i2(view)?;
    check_i3(view)?;
    check_i5(view)?;
    check_i9(view)?;
    check_i11(view)?;
    check_i12(view)
}

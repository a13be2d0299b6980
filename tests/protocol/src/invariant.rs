//! The invariants of PROTOCOL.md, each written once.
//!
//! Pure predicates over views of a fleet from outside: the log of Consul, and each node's journal and disk. Model check,
//! simulator and traces call them after every step. No predicate knows how a state came about.

use std::collections::BTreeSet;
use std::fmt;

use crate::protocol::floor::{Admission, admit};
use crate::protocol::ids::{Epoch, Node};
use crate::protocol::journal::{Journal, Target};
use crate::protocol::record::{Answer, Barrier, Phase, Release, Wanted};

/// One applied write to a key that an invariant is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Write {
    /// `acks/<node>`.
    Ack { node: Node, epoch: Epoch, answer: Answer },
    /// `barrier`.
    Barrier(Box<Barrier>),
    /// `members/<epoch>`.
    Members { epoch: Epoch, members: Vec<Node> },
    /// `deploy`.
    Request {
        /// The waiting request from now on; none: `deploy` holds no readable request.
        wanted: Option<Wanted>,
    },
}

/// One node's journal and link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeView<'a> {
    pub(crate) name: &'a Node,
    /// As it would be read after a crash now.
    pub(crate) journal: &'a Journal,
    /// What `current` points to now; none: its origin.
    pub(crate) current: Option<&'a Release>,
}

/// A fleet at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FleetView<'a> {
    /// Every applied write, oldest first.
    pub(crate) log: &'a [Write],
    pub(crate) nodes: Vec<NodeView<'a>>,
}

/// The complete releases on one disk.
pub(crate) trait Releases {
    fn holds(&self, release: &Release) -> bool;
}

/// One node's disk at one moment.
#[derive(Clone, Copy)]
pub(crate) struct DiskView<'a> {
    pub(crate) name: &'a Node,
    /// What `current` points to now; none: its origin.
    pub(crate) current: Option<&'a Release>,
    pub(crate) releases: &'a dyn Releases,
}

impl fmt::Debug for DiskView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskView").field("name", self.name).field("current", &self.current).finish_non_exhaustive()
    }
}

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

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} is broken: {what}")]
pub(crate) struct Broken {
    /// The name in PROTOCOL.md, for example "I1".
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
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

    /// The last answer of `node` to `epoch` before the write at `at`.
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

/// I1. Before every commit, each member had answered that very epoch with prepared.
///
/// # Errors
///
/// [`Broken`], naming the epoch and the member. So do all checks of this module.
pub(crate) fn check_i1(view: &FleetView<'_>) -> Result<(), Broken> {
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

/// P3. No node refuses an epoch that it has answered with prepared.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_p3(view: &FleetView<'_>) -> Result<(), Broken> {
    for (at, write) in view.log.iter().enumerate() {
        let Write::Ack { node, epoch, answer: Answer::Refused } = write else { continue };
        let before = view.answer_before(at, node, *epoch);
        holds(before != Some(Answer::Prepared), "P3", || format!("{node} refused {epoch}, which it had promised"))?;
    }
    Ok(())
}

/// I2. An epoch is decided once and reverted only after its commit, and only a successor overwrites a record.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i2(view: &FleetView<'_>) -> Result<(), Broken> {
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

/// I3. The log's (era, epoch, rank) only rises, and no prepare is written while another epoch is unfinished.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i3(view: &FleetView<'_>) -> Result<(), Broken> {
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

/// I4. A coordinator's transaction applied, so its session must have held the lock.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i4<S: PartialEq>(transition: &str, writer: &S, holder: Option<&S>) -> Result<(), Broken> {
    holds(holder == Some(writer), "I4", || format!("{transition} was written without the lock"))
}

/// I5. The members of an epoch are written once, and a request is taken at most once.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i5(view: &FleetView<'_>) -> Result<(), Broken> {
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

/// I6. A node with a promise has the release and `from` on its disk.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i6(log: &[Write], disks: &[DiskView<'_>]) -> Result<(), Broken> {
    let view = FleetView { log, nodes: Vec::new() };
    let Some((_, barrier)) = view.barriers().last() else { return Ok(()) };
    // An aborted or reverted epoch binds no node any more.
    if barrier.phase.is_settled() && barrier.committed.as_ref() != barrier.target() {
        return Ok(());
    }
    for disk in disks {
        let answer = view.answer_before(log.len(), disk.name, barrier.epoch);
        let needed = match answer {
            Some(Answer::Prepared | Answer::Switched) => [barrier.target(), barrier.from.as_ref()],
            Some(Answer::Refused | Answer::Failed | Answer::Reverted | Answer::Stuck) | None => continue,
        };
        let missing = needed.into_iter().flatten().find(|release| !disk.releases.holds(release));
        holds(missing.is_none(), "I6", || {
            let epoch = missing.map(|release| release.epoch.to_string()).unwrap_or_default();
            format!("{} promised {epoch} without having it", disk.name)
        })?;
    }
    Ok(())
}

/// I6, for the journal: a node's floor is not below the epoch that it has answered.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i6_journal(node: &Node, journal: &Journal, answered: Epoch) -> Result<(), Broken> {
    let floor = journal.record.as_ref().map(|record| record.epoch);
    holds(floor >= Some(answered), "I6", || format!("{node} answered {answered}, and its journal does not know of it"))
}

/// I7. A node's floor has not fallen between two moments.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i7(node: &Node, before: &Journal, after: &Journal) -> Result<(), Broken> {
    let (held, now) = (before.record.as_ref(), after.record.as_ref());
    let is_above = match (held, now) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(_), Some(now)) => matches!(admit(held, now), Admission::New | Admission::Same),
    };
    let words = |record: Option<&Barrier>| record.map_or("nothing".to_owned(), in_short);
    holds(is_above, "I7", || format!("the floor of {node} fell from {} to {}", words(held), words(now)))
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

/// I9, and the half of I1 about nodes: no node runs, or moves to, a release that the log never had as committed.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i9(view: &FleetView<'_>) -> Result<(), Broken> {
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

/// I11. After a commit or a revert, every node that answered switched or reverted runs that release, and a revert sets
/// `committed` back.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i11(view: &FleetView<'_>) -> Result<(), Broken> {
    let Some((_, barrier)) = view.barriers().last() else { return Ok(()) };
    // Not by `committed`: this check has to show that it was set back.
    let (yes, runs) = match barrier.phase {
        Phase::Commit | Phase::Done => (Answer::Switched, barrier.target()),
        Phase::Revert | Phase::Reverted => (Answer::Reverted, barrier.from.as_ref()),
        Phase::Idle | Phase::Prepare | Phase::Aborted => return Ok(()),
    };
    if matches!(barrier.phase, Phase::Revert | Phase::Reverted) {
        holds(barrier.committed == barrier.from, "I11", || {
            format!("{} is reverted, and not to what ran before", barrier.epoch)
        })?;
    }
    for node in &view.nodes {
        let has_answered = view.answer_before(view.log.len(), node.name, barrier.epoch) == Some(yes);
        holds(!has_answered || node.current == runs, "I11", || {
            let epoch = node.current.map_or("its origin".to_owned(), |release| release.epoch.to_string());
            format!("{} answered {yes:?} to {} and runs {epoch}", node.name, barrier.epoch)
        })?;
    }
    Ok(())
}

/// I11, for the disk: the release that `current` names is never removed.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i11_disk(disks: &[DiskView<'_>]) -> Result<(), Broken> {
    for disk in disks {
        let gone = disk.current.filter(|current| !disk.releases.holds(current));
        holds(gone.is_none(), "I11", || format!("{} runs a release that is gone", disk.name))?;
    }
    Ok(())
}

/// I12. No rollback outlives the revert that fulfils it: taken later, it would take the fleet back too far.
///
/// # Errors
///
/// [`Broken`].
pub(crate) fn check_i12(view: &FleetView<'_>) -> Result<(), Broken> {
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

/// Every check of one moment.
///
/// # Errors
///
/// The first [`Broken`].
pub(crate) fn check_moment(view: &FleetView<'_>) -> Result<(), Broken> {
    check_i1(view)?;
    check_i2(view)?;
    check_i3(view)?;
    check_i5(view)?;
    check_i9(view)?;
    check_i11(view)?;
    check_i12(view)
}

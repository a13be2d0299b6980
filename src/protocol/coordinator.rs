//! The coordinator: it takes requests and moves the barrier.
//!
//! Pure: no clock, disk or network. From one consistent read of the unit's keys the coordinator decides what to write
//! next. It writes one transaction, which applies only while its session holds the lock and the keys are as it read them
//! (I4). It remembers nothing that a successor needs: only since when it has seen a phase or an absence, and the build
//! that a request means.
//!
//! The caller must
//!
//! 1. read everything in a [`Snapshot`] consistently, and only while it holds the lock;
//! 2. write a [`Transition`] as one transaction, and after it, whatever came of it, read again;
//! 3. answer [`Decision::Resolve`] by [`Coordinator::resolved`].

mod absence;
mod drive;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::barrier::Cause;
use super::floor::{Admission, admit};
use super::ids::{Epoch, ModifyIndex, Node, ReleaseName, Unit};
use super::record::{
    Barrier, Build, Changes, Fault, Freeze, History, Last, NodeRecord, Outcome, Phase, Policy, RecordError, Release,
    Request, Stage, Step,
};
use super::snapshot::CurrentBarrier;
pub(crate) use super::snapshot::{Attestations, Presence, Slot, Snapshot};
use super::transition::{self, Key, Op, Taken, Transition, Value};

/// The time of a decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Monotonic, from any fixed moment: deadlines are measured with it.
    pub(crate) monotonic: Duration,
    /// For timestamps that people read, and for names of releases.
    pub(crate) wall: Timestamp,
}

/// The build that a request means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resolved {
    pub(crate) build: Build,
    /// A rollback: the release directory that is on disk already.
    pub(crate) release: Option<ReleaseName>,
    /// Overrides, for the history.
    pub(crate) notes: Vec<String>,
    /// What the build changes compared with the committed release; none: nothing is committed yet.
    pub(crate) changes: Option<Changes>,
}

/// What the coordinator does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Do nothing, and tell the operator: keys are gone, restored, or unreadable.
    Halt {
        /// Why, and how to fix it.
        reason: String,
    },
    /// Find the build that the request means.
    Resolve {
        epoch: Epoch,
        request: Box<Request>,
    },
    /// Release the lock, and leave it to a newer agent while this record stands.
    StandDown {
        /// The record that a newer program wrote.
        record: RecordError,
    },
    /// Read again when something changes, or at this monotonic moment.
    Stay {
        /// None: only on a change.
        until: Option<Duration>,
    },
    Write(Box<Transition>),
}

/// Which authors a request must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Attribution {
    /// Any; the author may be a claim.
    #[default]
    Claimed,
    /// Only verified authors, which an agent attests.
    Required,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Coordinator {
    pub(super) me: Node,
    pub(super) unit: Unit,
    pub(super) policy: Policy,
    pub(super) attribution: Attribution,
    /// The phase that was seen last.
    phase: Option<SeenPhase>,
    /// Nodes without a live session, and since when.
    absent: BTreeMap<Node, Duration>,
    /// The build that the waiting request means.
    resolved: Option<Resolution>,
    /// The waiting request that was seen last, to tell when another takes its place.
    waiting: Option<Waiting>,
}

/// A phase, and since when this coordinator has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SeenPhase {
    epoch: Epoch,
    phase: Phase,
    since: Duration,
}

/// The answer to [`Decision::Resolve`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Resolution {
    epoch: Epoch,
    result: Result<Resolved, Fault>,
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    epoch: Epoch,
    raw: Vec<u8>,
    attestations: Option<Attestations>,
}

/// Everything that one decision depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round<'a> {
    pub(super) now: Now,
    pub(super) view: &'a Snapshot,
    pub(super) current: CurrentBarrier<'a>,
}

impl<'a> Round<'a> {
    pub(super) const fn barrier(&self) -> &'a Barrier {
        self.current.barrier
    }
}

impl Coordinator {
    /// A coordinator that has just got the lock.
    #[must_use]
    pub(crate) const fn new(me: Node, unit: Unit, policy: Policy) -> Self {
        let attribution = Attribution::Claimed;
        Self { me, unit, policy, attribution, phase: None, absent: BTreeMap::new(), resolved: None, waiting: None }
    }

    #[must_use]
    pub(crate) fn with_attribution(self, attribution: Attribution) -> Self {
        Self { attribution, ..self }
    }

    /// The answer to [`Decision::Resolve`].
    pub(crate) fn resolved(&mut self, epoch: Epoch, result: Result<Resolved, Fault>) {
        self.resolved = Some(Resolution { epoch, result });
    }

    pub(crate) fn decide(&mut self, now: Now, view: &Snapshot) -> Decision {
        // Before anything is judged: what is missing from the view may stand in the record that cannot be read.
        if let Some(record) = &view.newer {
            return Decision::StandDown { record: record.clone() };
        }
        let Some(slot) = &view.barrier else { return self.first_keys(view) };
        let barrier = match &slot.value {
            Ok(barrier) => barrier,
            Err(unreadable) => return self.lost(&unreadable.to_string()),
        };
        match admit(view.floor.as_ref(), barrier) {
            Admission::New | Admission::Same => {}
            Admission::Late => {
                return self.lost("barrier is behind what this node has followed: the keys were restored");
            }
            Admission::Contradicts => {
                return self.lost("barrier contradicts the record that this node has followed: somebody wrote over it");
            }
        }
        if let Some(node) = overtaken(view, barrier) {
            return self.lost(&format!("{node} runs what barrier has not come to: the keys were restored"));
        }
        if let Some(missing) = missing_keys(view) {
            return missing;
        }
        self.watch_absences(now, view);
        let since = match self.phase {
            Some(seen) if (seen.epoch, seen.phase) == (barrier.epoch, barrier.phase) => seen.since,
            // Another phase, or the first of this coordinator: deadlines count from now on.
            Some(_) | None => now.monotonic,
        };
        self.phase = Some(SeenPhase { epoch: barrier.epoch, phase: barrier.phase, since });
        let round = Round { now, view, current: CurrentBarrier { index: slot.index, barrier } };
        if let Some(superseded) = self.superseded(round) {
            return superseded;
        }
        match barrier.phase.stage() {
            Stage::Settled(_) => self.take_request(round),
            Stage::Running(phase) => self.drive(round, phase, now.monotonic.saturating_sub(since)),
        }
    }

    /// C0. Makes the watched keys once, empty; never where they were before.
    fn first_keys(&self, view: &Snapshot) -> Decision {
        if view.floor.as_ref().is_some_and(|floor| floor.epoch > Epoch::default()) {
            return self.lost("barrier is gone: the keys were deleted");
        }
        // A new node has no floor of its own, and must not begin anew where others run or have followed something.
        let has_followed = |record: &NodeRecord| record.runs.is_some() || record.floor > Some(Epoch::default());
        let knows_more = |presence: &Presence| presence.record.as_ref().is_some_and(has_followed);
        if let Some((node, _)) = view.nodes.iter().find(|(_, presence)| knows_more(presence)) {
            return self.lost(&format!("barrier is gone, and {node} has followed one: the keys were deleted"));
        }
        let idle = Barrier::idle(0, None);
        let mut ops = vec![Op::move_barrier(ModifyIndex(0), &idle)];
        ops.extend(absent_keys(view));
        ops.push(Op::set_status(transition::status(&self.unit, &idle, None, None)));
        Decision::Write(Box::new(Transition::new("first keys", ops)))
    }

    /// Halts: keys were lost or restored, and only an operator may begin again.
    fn lost(&self, reason: &str) -> Decision {
        halt(&format!("{reason}; the way on is `cutover recover {}`", self.unit))
    }

    /// C1. Records a request that was seen waiting, and that another has replaced.
    ///
    /// Off-spec: of several that were replaced between two reads only the first is known here, and gets a record.
    fn superseded(&mut self, round: Round<'_>) -> Option<Decision> {
        let Round { now, view, .. } = round;
        let (barrier, slot) = (round.barrier(), view.deploy.as_ref()?);
        let standing = Epoch { era: barrier.epoch.era, number: slot.index.0 };
        let is_waiting = !slot.value.is_empty();
        let now_waiting = is_waiting.then(|| Waiting {
            epoch: standing,
            raw: slot.value.clone(),
            attestations: view.attestations.clone(),
        });
        let former = std::mem::replace(&mut self.waiting, now_waiting)?;
        if former.epoch == standing || !is_waiting || former.epoch <= barrier.epoch {
            return None;
        }
        let request = Request::parse(&former.raw).ok();
        let mut history = self.taken(now, former.epoch, &former.raw, request.as_ref()).history();
        history.verified = former.attestations.as_ref().map(|attestations| attestations.identity.clone());
        let reason = format!("overtaken by request {standing} before it began");
        history.set_cause(Cause::of_fleet(Fault::new(Step::Request, &reason)));
        history.end(Outcome::Superseded, now.wall);
        let mut status = transition::status(&self.unit, barrier, view.history.as_ref(), view.status.as_ref());
        status.last = status.last.into_iter().chain(Last::of(&history)).max_by_key(|last| last.epoch);
        let key = Key::History(former.epoch);
        let ops = [
            Op::CheckIndex { key: Key::Deploy, index: slot.index },
            // Absent only: where the request was taken or refused meanwhile, its record says so.
            Op::Cas { key, index: ModifyIndex(0), value: Value::History(Box::new(history)) },
            Op::set_status(status),
        ];
        let ops = ops.into_iter().chain(Op::remove_attestations(former.attestations.as_ref()));
        Some(Decision::Write(Box::new(Transition::new("superseded", ops))))
    }

    pub(super) const fn taken<'a>(
        &'a self,
        now: Now,
        epoch: Epoch,
        raw: &'a [u8],
        request: Option<&'a Request>,
    ) -> Taken<'a> {
        Taken { unit: &self.unit, coordinator: &self.me, epoch, raw, request, at: now.wall }
    }

    /// C2. Between deploys: takes the waiting request.
    fn take_request(&mut self, round: Round<'_>) -> Decision {
        let Round { now, view, .. } = round;
        let Some(slot) = view.deploy.as_ref().filter(|slot| !slot.value.is_empty()) else {
            self.resolved = None;
            return Decision::Stay { until: None };
        };
        let last = round.barrier().epoch;
        let epoch = Epoch { era: last.era, number: slot.index.0 };
        if epoch <= last {
            return self.lost("the request's index is not above the last epoch: Consul was rebuilt");
        }
        let request = match Request::parse(&slot.value) {
            Ok(request) => request,
            Err(invalid) => {
                let history = self.taken(now, epoch, &slot.value, None).history();
                return self.refuse(round, history, Cause::of_fleet(Fault::new(Step::Request, &invalid.to_string())));
            }
        };
        let mut history = self.taken(now, epoch, &slot.value, Some(&request)).history();
        history.verified = view.attestations.as_ref().map(|attestations| attestations.identity.clone());
        if self.attribution == Attribution::Required && history.verified.is_none() {
            return self.refuse(round, history, Cause::of_fleet(unattributed(&self.unit)));
        }
        let freeze = view.freeze.as_ref().and_then(|slot| Freeze::parse(&slot.value));
        let frozen = freeze.filter(|freeze| freeze.holds_at(now.wall));
        let frozen = frozen.map(|freeze| format!("frozen by {}: {}", freeze.author.by, freeze.author.reason));
        let overridden = match (frozen, request.is_rollback(), request.force) {
            (None, _, _) => None,
            // A freeze keeps new releases out; it must not keep anybody from leaving a bad one.
            (Some(frozen), true, _) => Some(format!("rolled back although {frozen}")),
            (Some(frozen), false, true) => Some(format!("forced although {frozen}")),
            (Some(frozen), false, false) => {
                return self.refuse(round, history, Cause::of_fleet(Fault::new(Step::Freeze, &frozen)));
            }
        };
        let resolution = self.resolved.as_ref().filter(|resolution| resolution.epoch == epoch);
        match resolution.map(|resolution| &resolution.result) {
            Some(Ok(found)) => {
                // Only now: a request that is refused for another reason overrides nothing.
                history.notes.extend(overridden);
                history.notes.extend(found.notes.iter().cloned());
                history.set_build(&found.build);
                self.start(round, &request, found, history)
            }
            Some(Err(fault)) => self.refuse(round, history, Cause::of_fleet(fault.clone())),
            None => Decision::Resolve { epoch, request: Box::new(request) },
        }
    }

    /// C2. Refuses the request: `deploy` is emptied, and the history gives the reason.
    pub(super) fn refuse(&self, round: Round<'_>, mut history: History, cause: Cause) -> Decision {
        history.set_cause(cause);
        history.end(Outcome::Refused, round.now.wall);
        self.settle(round, &history, "refused")
    }

    /// Ends a request without moving the barrier.
    pub(super) fn settle(&self, round: Round<'_>, history: &History, name: &'static str) -> Decision {
        let view = round.view;
        let Some(deploy) = &view.deploy else { return Decision::Stay { until: None } };
        let status = transition::status(&self.unit, round.barrier(), Some(history), view.status.as_ref());
        let ops = [Op::take_request(deploy.index), Op::set_history(history), Op::set_status(status)];
        let ops = ops.into_iter().chain(Op::remove_attestations(view.attestations.as_ref()));
        Decision::Write(Box::new(Transition::new(name, ops)))
    }
}

/// A node that runs a release that is not committed yet: the keys were restored to an older state. The coordinator's own
/// floor does not show that where its node is new, was away, or has lost its journal.
fn overtaken<'a>(view: &'a Snapshot, barrier: &Barrier) -> Option<&'a Node> {
    let is_undecided = matches!(barrier.phase, Phase::Prepare | Phase::Aborted);
    let is_ahead = |release: &Release| release.epoch > barrier.epoch || is_undecided && release.epoch == barrier.epoch;
    let runs = |presence: &Presence| presence.record.as_ref().and_then(|record| record.runs.clone());
    view.nodes.iter().find(|(_, presence)| runs(presence).as_ref().is_some_and(is_ahead)).map(|(node, _)| node)
}

/// C2. The fault of a request without a verified author on a unit with `require_attribution`.
#[must_use]
pub(crate) fn unattributed(unit: &Unit) -> Fault {
    let reason = format!(
        "the request has no verified author, and {unit} requires one (require_attribution): send it through an agent's \
         API, its page, or chat, not with `cutover` or `consul kv put`"
    );
    Fault::new(Step::Request, &reason)
}

/// C0. Makes watched and index-checked keys empty where they are missing.
fn missing_keys(view: &Snapshot) -> Option<Decision> {
    let mut ops = absent_keys(view).peekable();
    ops.peek()?;
    Some(Decision::Write(Box::new(Transition::new("missing keys", ops))))
}

fn absent_keys(view: &Snapshot) -> impl Iterator<Item = Op> {
    let keys = [(Key::Deploy, &view.deploy), (Key::Abort, &view.abort), (Key::Freeze, &view.freeze)];
    keys.into_iter().filter(|(_, slot)| slot.is_none()).map(|(key, _)| Op::make_empty(key))
}

pub(super) fn halt(reason: &str) -> Decision {
    Decision::Halt { reason: reason.to_owned() }
}

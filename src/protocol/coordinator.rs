//! The coordinator: the one that takes requests and moves the barrier.
//!
//! Pure: no clock, disk or network. From one consistent read of the unit's keys it decides what to write next; what
//! it writes is one transaction that applies only while its session holds the lock and the keys are as it read them
//! (I4). It keeps nothing that a successor needs: only since when it has seen a phase or an absence, and what a
//! request was resolved to.
//!
//! The caller must
//!
//! 1. read everything in a [`Snapshot`] consistently, and only while it holds the lock;
//! 2. write a [`Transition`] as one transaction, and after it, whatever came of it, read again;
//! 3. answer [`Decision::Resolve`] by [`Coordinator::resolved`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::barrier::{Count, Verdict};
use super::floor::{Admission, admit};
use super::ids::{Epoch, ModifyIndex, Node, ReleaseName, Unit};
use super::record::{
    Abort, Barrier, Build, Fault, Freeze, History, Last, NodeRecord, Outcome, Phase, Policy, RecordError, Release,
    Request, Step,
};
use super::transition::{self, Incomplete, Key, Op, Transition, Value, begun, restored};

use super::snapshot::Standing;
pub use super::snapshot::{Presence, Slot, Snapshot, Voucher};

/// The time of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic, from any fixed moment: deadlines are measured with it.
    pub monotonic: Duration,
    /// For people, and for names of releases.
    pub wall: Timestamp,
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resolved {
    /// The build.
    pub build: Build,
    /// A rollback: the release directory that is on disk already.
    pub release: Option<ReleaseName>,
    /// What was overridden.
    pub notes: Vec<String>,
}

/// What the coordinator does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing, and a person must look: keys are gone, restored, or rubbish.
    Halt {
        /// Why, and the way on.
        reason: String,
    },
    /// Find the build that the request means.
    Resolve {
        /// The request's epoch.
        epoch: Epoch,
        /// The request.
        request: Box<Request>,
    },
    /// Release the lock, and leave it to a newer agent while this record stands.
    StandDown {
        /// The record that a newer program wrote.
        record: RecordError,
    },
    /// Look again when something changes, or at this monotonic moment.
    Stay {
        /// None: only on a change.
        until: Option<Duration>,
    },
    /// Write this.
    Write(Box<Transition>),
}

/// Whose requests a coordinator takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Attribution {
    /// Anybody's; who asked may be a claim.
    #[default]
    Claimed,
    /// Only those for which an agent vouches.
    Required,
}

/// The coordinator of one unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    pub(super) me: Node,
    pub(super) unit: Unit,
    pub(super) policy: Policy,
    pub(super) attribution: Attribution,
    /// The phase that was seen last, and since when.
    phase: Option<(Epoch, Phase, Duration)>,
    /// Nodes without a live session, and since when.
    absent: BTreeMap<Node, Duration>,
    /// What the waiting request came to.
    resolved: Option<(Epoch, Result<Resolved, Fault>)>,
    /// The waiting request that was seen last, to tell when another takes its place.
    waiting: Option<(Epoch, Vec<u8>, Option<Voucher>)>,
}

impl Coordinator {
    /// A coordinator that has just got the lock.
    #[must_use]
    pub const fn new(me: Node, unit: Unit, policy: Policy) -> Self {
        let attribution = Attribution::Claimed;
        Self { me, unit, policy, attribution, phase: None, absent: BTreeMap::new(), resolved: None, waiting: None }
    }

    /// The same with other rules about who must be known.
    #[must_use]
    pub fn with_attribution(self, attribution: Attribution) -> Self {
        Self { attribution, ..self }
    }

    /// The answer to [`Decision::Resolve`].
    pub fn resolved(&mut self, epoch: Epoch, result: Result<Resolved, Fault>) {
        self.resolved = Some((epoch, result));
    }

    /// Decides.
    pub fn decide(&mut self, now: Now, view: &Snapshot) -> Decision {
        // Before anything is judged: what is missing from the view may stand in the record that cannot be read.
        if let Some(record) = &view.newer {
            return Decision::StandDown { record: record.clone() };
        }
        let Some(standing) = &view.barrier else { return self.first_keys(view) };
        let barrier = match &standing.value {
            Ok(barrier) => barrier,
            Err(unreadable) => return self.lost(&unreadable.to_string()),
        };
        match admit(view.floor.as_ref(), barrier) {
            Admission::New | Admission::Same => {}
            Admission::Late => {
                return self.lost("barrier is behind what this node has followed: the keys were restored");
            }
            Admission::Contradicts => {
                return self.lost("barrier denies what this node has followed: somebody wrote over it");
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
            Some((epoch, phase, since)) if (epoch, phase) == (barrier.epoch, barrier.phase) => since,
            _ => now.monotonic,
        };
        self.phase = Some((barrier.epoch, barrier.phase, since));
        if let Some(superseded) = self.superseded(now, view, barrier) {
            return superseded;
        }
        match barrier.phase {
            Phase::Idle | Phase::Done | Phase::Aborted | Phase::Reverted => {
                self.take_request(now, view, Standing { index: standing.index, barrier })
            }
            Phase::Prepare | Phase::Commit | Phase::Revert => {
                self.drive(now, view, Standing { index: standing.index, barrier }, now.monotonic.saturating_sub(since))
            }
        }
    }

    /// C0. The keys that are watched are made once, empty; and never where they once were.
    fn first_keys(&self, view: &Snapshot) -> Decision {
        if view.floor.as_ref().is_some_and(|floor| floor.epoch > Epoch::default()) {
            return self.lost("barrier is gone: the keys were deleted");
        }
        // A node that is new here has no floor, and must not begin anew what others still run or have followed.
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

    /// The keys are not what they were: only an operator may begin again.
    fn lost(&self, reason: &str) -> Decision {
        halt(&format!("{reason}; the way on is `cutover recover {}`", self.unit))
    }

    fn watch_absences(&mut self, now: Now, view: &Snapshot) {
        let is_away = |node: &Node| match view.nodes.get(node) {
            Some(presence) => !presence.is_alive,
            None => view.is_forgotten(node),
        };
        self.absent.retain(|node, _| is_away(node));
        for node in view.nodes.keys().chain(&view.forgotten).filter(|node| is_away(node)) {
            self.absent.entry(node.clone()).or_insert(now.monotonic);
        }
    }

    /// For how long `node` has been without a live session.
    pub(super) fn absent_for(&self, now: Now, node: &Node) -> Duration {
        self.absent.get(node).map_or(Duration::ZERO, |since| now.monotonic.saturating_sub(*since))
    }

    /// C1. A request that was seen waiting, and then another stood in its place.
    fn superseded(&mut self, now: Now, view: &Snapshot, barrier: &Barrier) -> Option<Decision> {
        let slot = view.deploy.as_ref()?;
        let standing = Epoch { era: barrier.epoch.era, number: slot.index.0 };
        let is_waiting = !slot.value.is_empty();
        let now_waiting = is_waiting.then(|| (standing, slot.value.clone(), view.voucher.clone()));
        let (epoch, raw, voucher) = std::mem::replace(&mut self.waiting, now_waiting)?;
        if epoch == standing || !is_waiting || epoch <= barrier.epoch {
            return None;
        }
        let request = Request::parse(&raw).ok();
        let mut history = begun(&self.unit, &self.me, epoch, &raw, request.as_ref(), now.wall);
        history.verified = voucher.as_ref().map(|voucher| voucher.identity.clone());
        history
            .stopped_by(None, Fault::new(Step::Request, &format!("overtaken by request {standing} before it began")));
        history.ended(Outcome::Superseded, now.wall);
        let mut status = transition::status(&self.unit, barrier, view.history.as_ref(), view.status.as_ref());
        status.last = status.last.into_iter().chain(Last::of(&history)).max_by_key(|last| last.epoch);
        let ops = [
            Op::CheckIndex { key: Key::Deploy, index: slot.index },
            // Absent only: where the request was taken or refused meanwhile, its record says so.
            Op::Cas { key: Key::History(epoch), index: ModifyIndex(0), value: Value::History(Box::new(history)) },
            Op::set_status(status),
        ];
        let ops = ops.into_iter().chain(Op::spend(voucher.as_ref()));
        Some(Decision::Write(Box::new(Transition::new("superseded", ops))))
    }

    /// C2. Between deploys: take what is asked for.
    fn take_request(&mut self, now: Now, view: &Snapshot, standing: Standing<'_>) -> Decision {
        let Some(slot) = view.deploy.as_ref().filter(|slot| !slot.value.is_empty()) else {
            self.resolved = None;
            return Decision::Stay { until: None };
        };
        let epoch = Epoch { era: standing.barrier.epoch.era, number: slot.index.0 };
        if epoch <= standing.barrier.epoch {
            return self.lost("the request's index is not above the last epoch: Consul was rebuilt");
        }
        let request = match Request::parse(&slot.value) {
            Ok(request) => request,
            Err(invalid) => {
                let history = begun(&self.unit, &self.me, epoch, &slot.value, None, now.wall);
                return self.refuse(now, view, history, None, Fault::new(Step::Request, &invalid.to_string()));
            }
        };
        let mut history = begun(&self.unit, &self.me, epoch, &slot.value, Some(&request), now.wall);
        history.verified = view.voucher.as_ref().map(|voucher| voucher.identity.clone());
        if let (Attribution::Required, None) = (self.attribution, &history.verified) {
            return self.refuse(now, view, history, None, unattributed(&self.unit));
        }
        let freeze = view.freeze.as_ref().and_then(|slot| Freeze::parse(&slot.value));
        let frozen = freeze.filter(|freeze| freeze.holds_at(now.wall));
        let frozen = frozen.map(|freeze| format!("frozen by {}: {}", freeze.author.by, freeze.author.reason));
        let overridden = match (frozen, request.is_rollback(), request.force) {
            (None, _, _) => None,
            (Some(frozen), true, _) => Some(format!("rolled back although {frozen}")),
            (Some(frozen), false, true) => Some(format!("forced although {frozen}")),
            (Some(frozen), false, false) => {
                return self.refuse(now, view, history, None, Fault::new(Step::Freeze, &frozen));
            }
        };
        match &self.resolved {
            Some((resolved, Ok(found))) if *resolved == epoch => {
                // Only now: what is refused for another reason overrides nothing.
                history.notes.extend(overridden);
                history.notes.extend(found.notes.iter().cloned());
                history.came_to(&found.build);
                let found = found.clone();
                self.start(now, view, standing, &request, &found, history)
            }
            Some((resolved, Err(fault))) if *resolved == epoch => {
                let fault = fault.clone();
                self.refuse(now, view, history, None, fault)
            }
            Some(_) | None => Decision::Resolve { epoch, request: Box::new(request) },
        }
    }

    /// C2, no: the request is emptied, and the history says why.
    pub(super) fn refuse(
        &self,
        now: Now,
        view: &Snapshot,
        mut history: History,
        node: Option<Node>,
        fault: Fault,
    ) -> Decision {
        history.stopped_by(node, fault);
        history.ended(Outcome::Refused, now.wall);
        self.settle(view, &history, "refused")
    }

    /// A request that ends without moving the barrier.
    pub(super) fn settle(&self, view: &Snapshot, history: &History, name: &'static str) -> Decision {
        let (Some(deploy), Some(Slot { value: Ok(barrier), .. })) = (&view.deploy, &view.barrier) else {
            return Decision::Stay { until: None };
        };
        let status = transition::status(&self.unit, barrier, Some(history), view.status.as_ref());
        let ops = [Op::take_request(deploy.index), Op::set_history(history), Op::set_status(status)];
        let ops = ops.into_iter().chain(Op::spend(view.voucher.as_ref()));
        Decision::Write(Box::new(Transition::new(name, ops)))
    }

    /// The members that left the catalog or were forgotten, and those without a live session.
    fn absences(&self, now: Now, view: &Snapshot) -> Absences {
        let mut gone = BTreeSet::new();
        let mut absent = BTreeMap::new();
        let consul_node = |node: &Node| -> String {
            let record = view.nodes.get(node).and_then(|presence| presence.record.as_ref());
            record.map_or_else(|| node.to_string(), |record| record.consul_node.clone())
        };
        // Where even this very node is missing, an ACL shortens the catalog, and nobody is known to have left.
        let sees_itself = view.catalog.contains(&consul_node(&self.me));
        for node in &view.members {
            let presence = view.nodes.get(node);
            if view.is_forgotten(node) || sees_itself && !view.catalog.contains(&consul_node(node)) {
                gone.insert(node.clone());
            }
            if !presence.is_some_and(|p| p.is_alive) {
                absent.insert(node.clone(), self.absent_for(now, node));
            }
        }
        Absences { gone, absent }
    }

    /// Steps C3 to C6. A deploy that runs.
    fn drive(&self, now: Now, view: &Snapshot, standing: Standing<'_>, elapsed: Duration) -> Decision {
        let barrier = standing.barrier;
        let Some(policy) = barrier.policy() else { return halt("a running deploy without policy") };
        if view.members.is_empty() {
            return self.lost(&format!("members/{} is gone or unreadable", barrier.epoch));
        }
        let Absences { gone, absent } = self.absences(now, view);
        let abort = view.abort.as_ref().and_then(|slot| Abort::parse(&slot.value));
        let abort = abort.filter(|abort| abort.epoch == barrier.epoch).map(|abort| abort.by_whom());
        let (epoch, members, acks) = (barrier.epoch, view.members.as_slice(), &view.acks);
        let count =
            Count { epoch, policy, members, acks, gone: &gone, absent: &absent, abort: abort.as_deref(), elapsed };
        let mut history = view.history.clone().unwrap_or_else(|| restored(&self.unit, &self.me, barrier, now.wall));
        history.coordinator.clone_from(&self.me);
        history.count(&view.members, &view.acks);
        let guard = view.abort.as_ref().map(|slot| Op::CheckIndex { key: Key::Abort, index: slot.index });
        let verdict = match barrier.phase {
            Phase::Prepare => count.prepared(),
            Phase::Commit => count.switched(),
            Phase::Idle | Phase::Done | Phase::Aborted | Phase::Reverted | Phase::Revert => count.reverted(),
        };
        let mut incomplete = None;
        let (phase, guard) = match (barrier.phase, verdict) {
            (_, Verdict::Open) => {
                return Decision::Stay { until: Some(wake(now, policy, barrier.phase, elapsed, &absent)) };
            }
            // C3. The commit point.
            (Phase::Prepare, Verdict::Yes { left_out }) => {
                history.left_out.extend(left_out);
                history.committed_at = Some(now.wall);
                (Phase::Commit, guard)
            }
            // C4. The same index of barrier: it and C3 exclude each other.
            (Phase::Prepare, Verdict::No { node, fault }) => {
                history.stopped_by(node, fault);
                history.ended(Outcome::Aborted, now.wall);
                (Phase::Aborted, None)
            }
            // C5. Done, or back.
            (Phase::Commit, Verdict::Yes { left_out }) => {
                history.left_out.extend(left_out);
                history.left_out.sort();
                history.left_out.dedup();
                history.ended(Outcome::Done, now.wall);
                (Phase::Done, guard)
            }
            (Phase::Commit, Verdict::No { node, fault }) => {
                history.stopped_by(node, fault);
                history.reverted_at = Some(now.wall);
                (Phase::Revert, None)
            }
            // C6. Back everywhere, or named.
            (_, Verdict::Yes { left_out }) => {
                history.left_out.extend(left_out);
                history.ended(Outcome::Reverted, now.wall);
                (Phase::Reverted, None)
            }
            (_, Verdict::No { node, fault }) => {
                history.notes.push(format!("the way back is not complete: {}", fault.reason));
                history.ended(Outcome::Failed, now.wall);
                incomplete = Some(Incomplete { node, fault });
                (Phase::Reverted, None)
            }
        };
        let end =
            if phase == Phase::Reverted { self.end_of_revert(now, view, barrier, incomplete) } else { <_>::default() };
        let step = transition::Step {
            unit: &self.unit,
            from: standing,
            to: phase,
            guards: guard.into_iter().chain(end.guards).collect(),
            history: &history,
            answered: end.answered.as_ref(),
            before: view.status.as_ref(),
        };
        Decision::Write(Box::new(step.transition()))
    }
}

/// Members that are not there.
struct Absences {
    gone: BTreeSet<Node>,
    /// For how long each has had no live session.
    absent: BTreeMap<Node, Duration>,
}

/// The moment at which waiting alone may change a verdict.
fn wake(now: Now, policy: &Policy, phase: Phase, elapsed: Duration, absent: &BTreeMap<Node, Duration>) -> Duration {
    let left = policy.time_for(phase).unwrap_or_default().saturating_sub(elapsed);
    let grace = Duration::from_secs(policy.absence_grace_secs);
    let patience = absent.values().map(|since| grace.saturating_sub(*since)).filter(|left| !left.is_zero()).min();
    now.monotonic.saturating_add(patience.map_or(left, |patience| patience.min(left)))
}

/// The node that runs what is not committed yet: keys that are behind a node were restored. The coordinator's own floor does
/// not show it where the node is new, or was away, or has lost its journal.
fn overtaken<'a>(view: &'a Snapshot, barrier: &Barrier) -> Option<&'a Node> {
    let is_undecided = matches!(barrier.phase, Phase::Prepare | Phase::Aborted);
    let is_ahead = |release: &Release| release.epoch > barrier.epoch || is_undecided && release.epoch == barrier.epoch;
    let runs = |presence: &Presence| presence.record.as_ref().and_then(|record| record.runs.clone());
    view.nodes.iter().find(|(_, presence)| runs(presence).as_ref().is_some_and(is_ahead)).map(|(node, _)| node)
}

/// C2. Who asked is not known, and must be.
/// Why nothing is done for nobody in particular, where that is the rule.
#[must_use]
pub fn unattributed(unit: &Unit) -> Fault {
    let reason = format!(
        "nobody vouches for who asked, and {unit} takes only requests of known people (require_attribution): ask by an \
         agent's API, its page, or chat, and not by `cutover` or `consul kv put`"
    );
    Fault::new(Step::Request, &reason)
}

/// C0. Keys that are watched and index-checked are made empty where they are missing.
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

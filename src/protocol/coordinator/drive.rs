//! Steps C3 to C7: moves a running deploy from phase to phase, until it has settled.

use std::collections::BTreeMap;
use std::time::Duration;

use super::absence::Absences;
use super::{Coordinator, Decision, Now, Round, halt};
use crate::protocol::barrier::{Cause, Count, Verdict};
use crate::protocol::ids::Node;
use crate::protocol::record::{Abort, History, Outcome, Phase, Policy, RunningPhase};
use crate::protocol::transition::{self, EndOfRevert, Key, Op, restored};

/// The next phase of a running deploy.
struct Next {
    phase: Phase,
    /// A check of another key that the decision depends on.
    guard: Option<Op>,
    /// Why the revert has ended without some members.
    incomplete: Option<Cause>,
}

impl Coordinator {
    /// C3 to C7. Moves a running deploy on.
    pub(super) fn drive(&self, round: Round<'_>, phase: RunningPhase, elapsed: Duration) -> Decision {
        let Round { now, view, current } = round;
        let barrier = current.barrier;
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
        let verdict = match phase {
            RunningPhase::Prepare => count.prepared(),
            RunningPhase::Commit => count.switched(),
            RunningPhase::Revert => count.reverted(),
        };
        let mut history = view.history.clone().unwrap_or_else(|| restored(&self.unit, &self.me, barrier, now.wall));
        history.coordinator.clone_from(&self.me);
        history.add_answers(&view.members, &view.acks);
        let Some(next) = next(round, phase, verdict, &mut history) else {
            return Decision::Stay { until: Some(wake(now, policy, policy.time_for(phase), elapsed, &absent)) };
        };
        let end = match phase {
            RunningPhase::Revert => self.end_of_revert(round, next.incomplete),
            RunningPhase::Prepare | RunningPhase::Commit => EndOfRevert::default(),
        };
        let step = transition::Step {
            unit: &self.unit,
            from: current,
            to: next.phase,
            guards: next.guard.into_iter().chain(end.guards).collect(),
            history: &history,
            answered: end.answered.as_ref(),
            before: view.status.as_ref(),
        };
        Decision::Write(Box::new(step.transition()))
    }
}

/// The next phase; also updates the deploy's history. None: the phase goes on.
fn next(round: Round<'_>, phase: RunningPhase, verdict: Verdict, history: &mut History) -> Option<Next> {
    let now = round.now.wall;
    // With this check, an abort between the read and the write makes the write fail.
    let abort_as_read = || round.view.abort.as_ref().map(|slot| Op::CheckIndex { key: Key::Abort, index: slot.index });
    let to = |phase| Next { phase, guard: None, incomplete: None };
    Some(match (phase, verdict) {
        (RunningPhase::Prepare | RunningPhase::Commit | RunningPhase::Revert, Verdict::Open) => return None,
        // C3. The commit point.
        (RunningPhase::Prepare, Verdict::Yes { left_out }) => {
            history.left_out.extend(left_out);
            history.committed_at = Some(now);
            Next { guard: abort_as_read(), ..to(Phase::Commit) }
        }
        // C4. It checks the same index of `barrier` as C3, so only one of them applies.
        (RunningPhase::Prepare, Verdict::No(cause)) => {
            history.set_cause(cause);
            history.end(Outcome::Aborted, now);
            to(Phase::Aborted)
        }
        // C5. Done, or back.
        (RunningPhase::Commit, Verdict::Yes { left_out }) => {
            history.left_out.extend(left_out);
            history.left_out.sort();
            history.left_out.dedup();
            history.end(Outcome::Done, now);
            Next { guard: abort_as_read(), ..to(Phase::Done) }
        }
        (RunningPhase::Commit, Verdict::No(cause)) => {
            history.set_cause(cause);
            history.reverted_at = Some(now);
            to(Phase::Revert)
        }
        // C6. Every member is back.
        (RunningPhase::Revert, Verdict::Yes { left_out }) => {
            history.left_out.extend(left_out);
            history.end(Outcome::Reverted, now);
            to(Phase::Reverted)
        }
        // C6. The history names the members that are not back. They follow later.
        (RunningPhase::Revert, Verdict::No(cause)) => {
            history.notes.push(format!("the way back is not complete: {}", cause.fault.reason));
            history.end(Outcome::Failed, now);
            Next { incomplete: Some(cause), ..to(Phase::Reverted) }
        }
    })
}

/// The next moment at which time alone may change the verdict: the deadline, or the end of a node's grace.
fn wake(now: Now, policy: &Policy, limit: Duration, elapsed: Duration, absent: &BTreeMap<Node, Duration>) -> Duration {
    let left = limit.saturating_sub(elapsed);
    let grace = Duration::from_secs(policy.absence_grace_secs);
    let patience = absent.values().map(|since| grace.saturating_sub(*since)).filter(|left| !left.is_zero()).min();
    now.monotonic.saturating_add(patience.map_or(left, |patience| patience.min(left)))
}

//! Log sentences for transitions that a coordinator wrote.

use crate::document::fault_sentence;
use crate::protocol::record::{History, Outcome, Phase};
use crate::protocol::transition::Transition;

/// What the transition does, in one sentence without the unit.
pub(super) fn of(transition: &Transition) -> String {
    let Some(history) = transition.histories().next() else {
        // Without a history record, a transition only creates missing keys.
        return "this coordinator created the missing keys of the group".to_owned();
    };
    let build = history.artifact.as_ref().map(|artifact| format!(" of {artifact}")).unwrap_or_default();
    let deploy = format!("deploy #{}{build}", history.epoch);
    let why = why(history);
    match (history.outcome, transition.barrier().map(|barrier| barrier.phase)) {
        (Some(Outcome::Aborted), _) => format!("{deploy} is aborted, no node has switched{why}"),
        (Some(Outcome::Done), _) => format!("{deploy} is done{why}"),
        (Some(Outcome::Failed), _) => format!("{deploy} has failed, and not every node could revert{why}"),
        (Some(Outcome::Refused), _) => format!("request #{} by {} is refused{why}", history.epoch, history.author.by),
        (Some(Outcome::Reverted), _) => format!("{deploy} is reverted, every node runs its previous release{why}"),
        (Some(Outcome::Superseded), _) => {
            format!("request #{} by {} is superseded{why}", history.epoch, history.author.by)
        }
        (None, Some(Phase::Prepare)) => {
            format!("{deploy} begins, requested by {}: its nodes prepare", history.author.by)
        }
        (None, Some(Phase::Commit)) => format!("{deploy} is committed: all nodes have prepared, and switch now"),
        (None, Some(Phase::Revert)) => format!("{deploy} is being reverted, its nodes switch back{why}"),
        // Transitions to these phases end the record or write none, so this arm is only a fallback.
        (None, Some(Phase::Aborted | Phase::Done | Phase::Idle | Phase::Reverted) | None) => {
            format!("{deploy}: this coordinator has written {}{why}", transition.name)
        }
    }
}

fn why(history: &History) -> String {
    match fault_sentence(history) {
        fault if fault.is_empty() => fault,
        fault => format!(": {fault}"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::protocol::barrier::Cause;
    use crate::protocol::ids::{Epoch, ModifyIndex};
    use crate::protocol::record::{Barrier, Fault, Step};
    use crate::protocol::transition::{Key, Op, Taken, Value};

    fn history() -> History {
        let (unit, node) = ("shop/production".parse().unwrap(), "web-1".parse().unwrap());
        let (epoch, at) = (Epoch { era: 0, number: 97 }, Timestamp::UNIX_EPOCH);
        let taken = Taken { unit: &unit, coordinator: &node, epoch, raw: b"master", request: None, at };
        let mut history = taken.history();
        history.artifact = Some("master-0c1f0c1f".parse().unwrap());
        history
    }

    fn sentence(history: History, phase: Option<Phase>) -> String {
        let record = Op::Set { key: Key::History(history.epoch), value: Value::History(Box::new(history)) };
        let barrier = phase.map(|phase| {
            let barrier = Barrier { phase, ..Barrier::idle(0, None) };
            Op::Cas { key: Key::Barrier, index: ModifyIndex(1), value: Value::Barrier(Box::new(barrier)) }
        });
        let ops = std::iter::once(Op::HoldLock).chain(barrier).chain([record]).collect();
        of(&Transition { name: "test", ops })
    }

    #[test]
    fn the_log_of_a_deploy_names_phase_node_and_reason() {
        assert_eq!(
            sentence(history(), Some(Phase::Prepare)),
            "deploy #97 of master-0c1f0c1f begins, requested by unattributed: its nodes prepare"
        );
        let mut failed = history();
        let node = Some("web-2".parse().unwrap());
        failed.set_cause(Cause { node, fault: Fault::new(Step::CheckHook, "exit status 1") });
        assert_eq!(
            sentence(failed, Some(Phase::Revert)),
            "deploy #97 of master-0c1f0c1f is being reverted, its nodes switch back: check hook on web-2: exit status 1"
        );
        let mut refused = history();
        refused.set_cause(Cause { node: None, fault: Fault::new(Step::Freeze, "frozen by ann: sale") });
        refused.end(Outcome::Refused, Timestamp::UNIX_EPOCH);
        assert_eq!(sentence(refused, None), "request #97 by unattributed is refused: frozen by ann: sale");
    }

    #[test]
    fn a_transition_without_a_request_has_a_sentence_too() {
        let keys = Transition { name: "first keys", ops: vec![Op::HoldLock] };
        assert_eq!(of(&keys), "this coordinator created the missing keys of the group");
    }
}

//! The word and the tone for each state, so that word, shape and colour agree on every page.

use super::parts::Badge;
use super::tone::Tone;
use crate::document::{AnswerState, BuildState, DeployState, Drift, HistoryEntry, Presence};
use crate::protocol::record::{Answer, Mark, Outcome, Phase};

pub(super) const fn outcome(outcome: Outcome) -> (&'static str, Tone) {
    let tone = match outcome {
        Outcome::Done => Tone::Good,
        Outcome::Aborted | Outcome::Refused => Tone::Warn,
        Outcome::Superseded => Tone::Quiet,
        Outcome::Failed | Outcome::Reverted => Tone::Bad,
    };
    (outcome.as_str(), tone)
}

/// The outcome of a history entry; none for actions, which have no outcome.
pub(super) fn entry_outcome(entry: &HistoryEntry) -> Option<Badge<'static>> {
    match entry.outcome {
        Some(result) => Some(outcome(result).into()),
        // Only requests have nodes.
        None if entry.nodes.is_some() => Some(("running", Tone::Busy).into()),
        None => None,
    }
}

/// The label of the abort button: what an abort does in this phase.
pub(super) const fn abort_label(phase: Option<Phase>) -> &'static str {
    match phase {
        Some(Phase::Commit | Phase::Revert) => "Abort: every node reverts",
        _ => "Abort: no node switches",
    }
}

pub(super) const fn deploy_state(state: DeployState) -> (&'static str, Tone) {
    match state {
        DeployState::Done => ("done", Tone::Good),
        DeployState::Aborted => ("aborted", Tone::Warn),
        DeployState::Refused => ("refused", Tone::Warn),
        DeployState::Overtaken => ("overtaken", Tone::Quiet),
        DeployState::Failed => ("failed", Tone::Bad),
        DeployState::Reverted => ("reverted", Tone::Bad),
        DeployState::Requested => ("requested", Tone::Busy),
        DeployState::Running => ("running", Tone::Busy),
        DeployState::Unknown => ("unknown", Tone::Warn),
    }
}

pub(super) const fn phase(phase: Phase) -> (&'static str, Tone) {
    let tone = match phase {
        Phase::Prepare | Phase::Commit => Tone::Busy,
        Phase::Revert => Tone::Warn,
        Phase::Done => Tone::Good,
        Phase::Aborted => Tone::Warn,
        Phase::Reverted => Tone::Bad,
        Phase::Idle => Tone::Quiet,
    };
    (phase.as_str(), tone)
}

pub(super) const fn build(state: BuildState) -> (&'static str, Tone) {
    let tone = match state {
        BuildState::Published => Tone::Good,
        BuildState::Building => Tone::Busy,
        BuildState::Lost | BuildState::Gone | BuildState::Damaged => Tone::Warn,
        BuildState::Bad | BuildState::Failed => Tone::Bad,
        BuildState::Canceled => Tone::Quiet,
    };
    (state.as_str(), tone)
}

pub(super) const fn presence(presence: Presence) -> (&'static str, Tone) {
    match presence {
        Presence::Alive => ("alive", Tone::Good),
        Presence::Absent => ("absent", Tone::Bad),
    }
}

pub(super) const fn answer_state(state: AnswerState) -> (&'static str, Tone) {
    match state {
        AnswerState::Answered => ("answered", Tone::Good),
        AnswerState::Away => ("away", Tone::Warn),
        AnswerState::NoAnswer => ("no answer", Tone::Bad),
    }
}

pub(super) const fn mark(mark: Mark) -> (&'static str, Tone) {
    match mark {
        Mark::Bad => ("bad", Tone::Bad),
        Mark::Good => ("good", Tone::Good),
        Mark::Note => ("note", Tone::Quiet),
        Mark::Warn => ("warning", Tone::Warn),
    }
}

/// The difference between a node and its group, as the page words it.
pub(super) const fn drift(drift: Drift) -> &'static str {
    match drift {
        Drift::Config => "its settings differ from those of the other nodes",
        Drift::Current => "something other than Cutover moved current",
        Drift::Release => "does not run the committed release",
    }
}

/// The progress of a node in a deploy. A missing answer is never shown as success.
pub(super) const fn step(phase: Option<Phase>, answer: Option<Answer>) -> (&'static str, Tone) {
    match (answer, phase) {
        (Some(Answer::Refused), _) => ("refused", Tone::Bad),
        (Some(Answer::Failed), Some(Phase::Revert)) => ("failed, reverting", Tone::Bad),
        (Some(Answer::Failed), _) => ("failed", Tone::Bad),
        (Some(Answer::Stuck), _) => ("stuck", Tone::Bad),
        (Some(Answer::Reverted), _) => ("reverted", Tone::Warn),
        (Some(Answer::Switched), Some(Phase::Revert)) => ("reverting", Tone::Busy),
        (Some(Answer::Switched), _) => ("switched", Tone::Good),
        (Some(Answer::Prepared), Some(Phase::Prepare)) => ("prepared", Tone::Good),
        (Some(Answer::Prepared), Some(Phase::Commit)) => ("switching", Tone::Busy),
        (Some(Answer::Prepared), Some(Phase::Revert)) => ("reverting", Tone::Busy),
        (Some(Answer::Prepared), _) => ("prepared only", Tone::Quiet),
        (None, Some(Phase::Prepare)) => ("preparing", Tone::Busy),
        (None, Some(Phase::Commit | Phase::Revert)) => ("no answer yet", Tone::Busy),
        (None, _) => ("no answer", Tone::Quiet),
    }
}

//! The limits of one run of the checker: the number of nodes, and how often each fault may happen.
//!
//! Every count is a budget for the whole run. Within it the checker tries each at every moment.

use crate::protocol::record::AbsentNodes;
use crate::protocol::rule::Rule;

/// A request as a person types it.
pub(super) type Ask = &'static str;

/// Budgets. What a run has left is part of its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// Requests of [`Scope::asks`] that were put already. All other fields count down.
    pub(super) asked: u8,
    /// An operator requests an abort.
    pub(super) aborts: u8,
    /// A freeze or an unfreeze.
    pub(super) freezes: u8,
    /// A preparation that fails: the node refuses.
    pub(super) refusals: u8,
    /// A switch whose check fails after the link has moved.
    pub(super) failed_checks: u8,
    /// A node's agent dies: before or after its work has changed the disk.
    pub(super) crashes: u8,
    /// A dead agent's journal is lost.
    pub(super) lost_journals: u8,
    /// A node's session ends, and the node does not know.
    pub(super) lost_sessions: u8,
    /// The lock's session ends, and its holder does not know.
    pub(super) lost_locks: u8,
    /// A transaction or an answer is delayed without limit, also beyond its sender's life, or arrives twice.
    pub(super) delays: u8,
    /// A coordinator finds every deadline and every grace over.
    pub(super) overdue: u8,
    /// A node leaves Consul's catalog.
    pub(super) leavers: u8,
    /// Consul's keys go back to a snapshot.
    pub(super) restores: u8,
    /// An operator begins a new era with a release that some node runs.
    pub(super) recoveries: u8,
}

/// One configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    pub(super) name: &'static str,
    /// Nodes from the start.
    pub(super) nodes: usize,
    /// How many of them stand for coordinator.
    pub(super) candidates: usize,
    /// Whether one more node joins at some moment.
    pub(super) joiner: bool,
    /// The requests, in the order in which people put them; a later one may replace a waiting one.
    pub(super) asks: &'static [Ask],
    /// Whether records are also read stale: any that `barrier` ever held.
    pub(super) stale: bool,
    pub(super) absent_nodes: AbsentNodes,
    pub(super) budget: Budget,
    /// The most steps, breadth first; none: to the end.
    pub(super) most_steps: Option<usize>,
}

const NONE: Budget = Budget {
    asked: 0,
    aborts: 0,
    freezes: 0,
    refusals: 0,
    failed_checks: 0,
    crashes: 0,
    lost_journals: 0,
    lost_sessions: 0,
    lost_locks: 0,
    delays: 0,
    overdue: 0,
    leavers: 0,
    restores: 0,
    recoveries: 0,
};

/// Two nodes that both stand for coordinator, one request, records read stale too, and no fault.
const SMALL: Scope = Scope {
    name: "one deploy, no fault",
    nodes: 2,
    candidates: 2,
    joiner: false,
    asks: &["x"],
    stale: true,
    absent_nodes: AbsentNodes::Fail,
    budget: NONE,
    most_steps: None,
};

/// The configurations that CI checks.
pub(super) const SHORT: [Scope; 18] = [
    SMALL,
    Scope { name: "three nodes, a refusal", nodes: 3, budget: Budget { refusals: 1, ..NONE }, ..SMALL },
    Scope { name: "three nodes, a failed check", nodes: 3, candidates: 1, budget: CHECK, ..SMALL },
    Scope { name: "two requests, a lost lock", asks: TWO, budget: Budget { lost_locks: 1, ..NONE }, ..SMALL },
    Scope { name: "two requests, freeze and thaw", asks: TWO, budget: Budget { freezes: 2, ..NONE }, ..SMALL },
    Scope { name: "two deploys, a failed check, a deadline", asks: TWO, candidates: 1, budget: OVERDUE, ..SMALL },
    Scope { name: "two deploys, a rollback, an abort", asks: BACK, budget: Budget { aborts: 1, ..NONE }, ..SMALL },
    Scope { name: "a rollback in a revert, a lost lock", asks: UNDONE, stale: false, budget: LOCK_CHECK, ..SMALL },
    Scope { name: "a death, a late answer, a refusal", candidates: 1, stale: false, budget: TWICE, ..SMALL },
    Scope { name: "a joiner, a failed check", joiner: true, budget: CHECK, ..SMALL },
    Scope { name: "a lost session, a deadline, a leaver", budget: AWAY, ..SMALL },
    Scope { name: "the same, and absent nodes are skipped", absent_nodes: AbsentNodes::Skip, budget: AWAY, ..SMALL },
    Scope { name: "a snapshot restored, and recovered", candidates: 1, stale: false, budget: RESTORED, ..SMALL },
    Scope { name: "a journal lost", candidates: 1, budget: Budget { crashes: 1, lost_journals: 1, ..NONE }, ..SMALL },
    Scope { name: "a failed check, no way back in time", budget: Budget { overdue: 2, ..CHECK }, ..SMALL },
    Scope { name: "a death, a failed check, a lost lock; one candidate", candidates: 1, budget: DEATH, ..SMALL },
    Scope { most_steps: PART, ..TWO_REQUESTS },
    Scope { most_steps: PART, ..A_DEATH },
];

/// Configurations that take minutes and gigabytes: the large ones to their end, and more.
pub(super) const LARGER: [Scope; 5] = [
    TWO_REQUESTS,
    A_DEATH,
    Scope { name: "a snapshot restored, and recovered, stale reads", candidates: 1, budget: RESTORED, ..SMALL },
    Scope { name: "a joiner, a death", joiner: true, budget: Budget { crashes: 1, ..NONE }, ..SMALL },
    Scope { name: "a late write, a refusal, a failed check, a lost lock", budget: LATE, ..SMALL },
];

/// 4.4 million states.
const TWO_REQUESTS: Scope =
    Scope { name: "two requests, a refusal, an abort, a lost lock", asks: TWO, stale: false, budget: ENDS, ..SMALL };
/// 4.0 million states.
const A_DEATH: Scope = Scope { name: "a death, a failed check, a lost lock, two candidates", budget: DEATH, ..SMALL };
/// Enough for more than two million states, breadth first, in two minutes of CI together with the others.
const PART: Option<usize> = Some(9_000_000);

const TWO: &[Ask] = &["x", "y"];
/// A rollback to the release before.
const BACK: &[Ask] = &["x", "y", r#"{"rollback":true}"#];
/// A rollback of a deploy that fails.
const UNDONE: &[Ask] = &["x", r#"{"rollback":true}"#];
const CHECK: Budget = Budget { failed_checks: 1, ..NONE };
const OVERDUE: Budget = Budget { overdue: 1, ..CHECK };
const AWAY: Budget = Budget { lost_sessions: 1, overdue: 1, leavers: 1, ..NONE };
const RESTORED: Budget = Budget { restores: 1, recoveries: 1, ..NONE };
const CRASH_CHECK: Budget = Budget { crashes: 1, ..CHECK };
const LATE: Budget = Budget { delays: 1, lost_locks: 1, refusals: 1, ..CHECK };
const ENDS: Budget = Budget { lost_locks: 1, aborts: 1, refusals: 1, ..NONE };
const LOCK_CHECK: Budget = Budget { lost_locks: 1, ..CHECK };
/// A node answers in two lives, and its first answer arrives late.
const TWICE: Budget = Budget { crashes: 1, delays: 1, refusals: 1, ..NONE };
const DEATH: Budget = Budget { lost_locks: 1, ..CRASH_CHECK };

/// A small configuration that shows the loss of a rule.
pub(super) const fn near(rule: Rule) -> Scope {
    let scope = Scope { name: "", ..SMALL };
    match rule {
        Rule::AckDurable | Rule::FloorRank | Rule::PromiseKept | Rule::SwitchDecided => scope,
        // Of the shell, which the model check does not run.
        Rule::FirstConsistent
        | Rule::FloorFirst
        | Rule::KeepNamed
        | Rule::PromiseStands
        | Rule::RebuildRuns
        | Rule::RecordLooked
        | Rule::RunsAsJournaled
        | Rule::StandsAgain => scope,
        Rule::AckEpoch => Scope { asks: &["x", "y"], budget: Budget { aborts: 1, ..NONE }, ..scope },
        Rule::AnswerAsRead => Scope { candidates: 1, stale: false, budget: TWICE, ..scope },
        Rule::BarrierAsRead => Scope { budget: Budget { delays: 1, ..NONE }, ..scope },
        Rule::CatchUpDecided => Scope { joiner: true, ..scope },
        // A rollback to what runs: its directory is older than the epoch.
        Rule::DiscardOwn => Scope {
            asks: &["x", r#"{"rollback":true,"ref":"x-00000001","again":true}"#],
            budget: Budget { aborts: 1, ..NONE },
            ..scope
        },
        Rule::JournalFirst => Scope { budget: Budget { crashes: 1, failed_checks: 1, ..NONE }, ..scope },
        Rule::LockHeld => Scope { budget: Budget { lost_locks: 1, ..NONE }, ..scope },
        Rule::RequestAsRead => Scope { asks: &["x", "y"], ..scope },
        Rule::RevertAnswers | Rule::RevertRequestAsRead => Scope { asks: UNDONE, stale: false, budget: CHECK, ..scope },
        Rule::RevertSetsBack => Scope { budget: Budget { failed_checks: 1, ..NONE }, ..scope },
    }
}

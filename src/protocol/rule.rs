//! The rules that the proofs remove, one at a time, to show that they find the damage.
//!
//! Every rule holds in the product, which has no way to remove one. Only `tests/protocol`, which compiles these machines a
//! second time, can remove a rule, and must then find the damage that the rule prevents.

/// A rule whose loss must break an invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// P3. A node acknowledges only what is durable.
    AckDurable,
    /// C3. An acknowledgement counts for its own epoch only.
    AckEpoch,
    /// P3. A node replaces its answer only as it was read.
    AnswerAsRead,
    /// C3 to C6. The barrier moves only from the record that the decision rests on.
    BarrierAsRead,
    /// S2. A node that is no member follows what is committed, and nothing undecided.
    CatchUpDecided,
    /// P2. A node removes only what the aborted epoch made.
    #[cfg_attr(
        not(feature = "removable-rules"),
        expect(dead_code, reason = "the disk obeys it: a node's own in `src/release`, and each of the proofs' disks")
    )]
    DiscardOwn,
    /// F1. A node that holds no record believes consistent reads only.
    FirstConsistent,
    /// C1. The coordinator takes its own floor before it reads the keys: a record that its node follows meanwhile must not
    /// make the keys look old.
    FloorFirst,
    /// F1. Within an epoch records only go up in rank.
    FloorRank,
    /// P2, S4. The journal is durable before anything that follows from it.
    JournalFirst,
    /// I11. A release that the barrier names is not removed.
    KeepNamed,
    /// I4. A coordinator writes only while its session holds the lock.
    LockHeld,
    /// P3. No participant takes a promise back by itself.
    PromiseKept,
    /// P3. A later life of a node does not take back what a former one has promised.
    PromiseStands,
    /// A rebuilt journal names the release that the node runs.
    RebuildRuns,
    /// A live node writes its record again after somebody has deleted it.
    RecordLooked,
    /// C2. A request is taken only as it was read.
    RequestAsRead,
    /// C7. The end of a revert answers the rollback that waits for it.
    RevertAnswers,
    /// C7. The end of a revert applies only while the request is the one that was read.
    RevertRequestAsRead,
    /// C5. A revert sets `committed` back.
    RevertSetsBack,
    /// A node reports the release in its journal as running, and not the release that it should run.
    RunsAsJournaled,
    /// A candidate that has lost the lock stands for coordinator again.
    StandsAgain,
    /// S2. A member switches only once the deploy is decided.
    SwitchDecided,
}

#[cfg(not(feature = "removable-rules"))]
pub(in crate::protocol) const fn holds(_: Rule) -> bool {
    true
}

#[cfg(feature = "removable-rules")]
pub(crate) use self::removable::{ALL, SHELL, holds, remove, restore};

#[cfg(feature = "removable-rules")]
mod removable {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Rule;

    /// No rule has this number.
    const NONE: u8 = u8::MAX;
    /// The number of the removed rule: for the whole process, since the checker works in threads of its own.
    static REMOVED: AtomicU8 = AtomicU8::new(NONE);

    /// Every rule of the protocol.
    pub(crate) const ALL: [Rule; 15] = [
        Rule::BarrierAsRead,
        Rule::LockHeld,
        Rule::RequestAsRead,
        Rule::AckEpoch,
        Rule::AckDurable,
        Rule::SwitchDecided,
        Rule::PromiseKept,
        Rule::FloorRank,
        Rule::RevertSetsBack,
        Rule::CatchUpDecided,
        Rule::JournalFirst,
        Rule::DiscardOwn,
        Rule::AnswerAsRead,
        Rule::RevertAnswers,
        Rule::RevertRequestAsRead,
    ];

    /// Rules of the shell around it, which the model check does not run.
    pub(crate) const SHELL: [Rule; 8] = [
        Rule::FirstConsistent,
        Rule::FloorFirst,
        Rule::KeepNamed,
        Rule::PromiseStands,
        Rule::RebuildRuns,
        Rule::RecordLooked,
        Rule::RunsAsJournaled,
        Rule::StandsAgain,
    ];

    /// Whether the rule is in force.
    pub(crate) fn holds(rule: Rule) -> bool {
        REMOVED.load(Ordering::Relaxed) != number(rule)
    }

    /// Removes a rule, and restores the one that was removed before.
    pub(crate) fn remove(rule: Rule) {
        REMOVED.store(number(rule), Ordering::Relaxed);
    }

    /// Restores every rule.
    pub(crate) fn restore() {
        REMOVED.store(NONE, Ordering::Relaxed);
    }

    fn number(rule: Rule) -> u8 {
        ALL.iter().chain(&SHELL).zip(0..).find(|(other, _)| **other == rule).map_or(NONE, |(_, number)| number)
    }
}

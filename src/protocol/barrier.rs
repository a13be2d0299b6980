//! The barrier's questions: have all prepared, have all switched, is it time to give up?
//!
//! Pure predicates over one consistent read. They name nodes; the coordinator decides what to write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ids::{Epoch, Node};
use super::record::{AbsentNodes, Ack, Answer, Fault, Policy, Step};
use super::rule::{Rule, holds};

/// What stopped a deploy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cause {
    /// The node at which it happened; none where no single node did it.
    pub(crate) node: Option<Node>,
    pub(crate) fault: Fault,
}

impl Cause {
    /// A cause that is no single node's.
    #[must_use]
    pub(crate) const fn of_fleet(fault: Fault) -> Self {
        Self { node: None, fault }
    }

    #[must_use]
    pub(crate) const fn at(node: Node, fault: Fault) -> Self {
        Self { node: Some(node), fault }
    }
}

/// Whether a phase can end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// The phase goes on.
    Open,
    /// The phase has failed.
    No(Cause),
    /// The phase has succeeded without these nodes: they left the catalog, or policy skips them.
    Yes { left_out: Vec<Node> },
}

/// One consistent view of a phase under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count<'a> {
    pub(crate) epoch: Epoch,
    pub(crate) policy: &'a Policy,
    pub(crate) members: &'a [Node],
    /// Every node's newest answer; it may answer an older epoch.
    pub(crate) acks: &'a BTreeMap<Node, Ack>,
    /// Members that have left Consul's catalog.
    pub(crate) gone: &'a BTreeSet<Node>,
    /// Members without a live session, with the time since this coordinator first saw that.
    pub(crate) absent: &'a BTreeMap<Node, Duration>,
    /// The author of an abort of this epoch, as [`super::record::Abort::by_whom`] words it; none: no abort was requested.
    pub(crate) abort: Option<&'a str>,
    /// Time since this coordinator first saw the phase.
    pub(crate) elapsed: Duration,
}

impl Count<'_> {
    /// A member's answer to this epoch.
    fn answer(&self, node: &Node) -> Option<&Ack> {
        self.acks.get(node).filter(|ack| ack.epoch == self.epoch || !holds(Rule::AckEpoch))
    }

    /// Members that have not answered with one of `answers`.
    fn without(&self, answers: &[Answer]) -> Vec<Node> {
        let missing = |node: &&Node| !self.answer(node).is_some_and(|ack| answers.contains(&ack.answer));
        self.members.iter().filter(missing).cloned().collect()
    }

    /// The first member, by name, that answered `no`.
    fn refusal(&self, no: Answer) -> Option<Verdict> {
        let (node, ack) = self
            .members
            .iter()
            .filter_map(|node| self.answer(node).map(|ack| (node, ack)))
            .find(|(_, ack)| ack.answer == no)?;
        let fault = ack.fault.clone().unwrap_or_else(|| Fault::new(Step::Request, "no reason was given"));
        Some(Verdict::No(Cause::at(node.clone(), fault)))
    }

    fn overdue(&self, limit_secs: u64, missing: &[Node], did_not: &str) -> Option<Verdict> {
        if self.elapsed < Duration::from_secs(limit_secs) {
            return None;
        }
        let fault = Fault::new(Step::Deadline, &format!("{did_not} within {limit_secs} s: {}", list(missing)));
        Some(Verdict::No(Cause { node: missing.first().cloned(), fault }))
    }

    /// C3 and C4: may the coordinator commit, must it abort?
    ///
    /// All members must have acknowledged this very epoch (I1). They must also live, or have left the catalog since: a
    /// node that was scaled in after it had prepared delays no deploy.
    #[must_use]
    pub(crate) fn prepared(&self) -> Verdict {
        if let Some(author) = self.abort {
            let fault = Fault::new(Step::Abort, &format!("an abort was requested{author}"));
            return Verdict::No(Cause::of_fleet(fault));
        }
        if let Some(refused) = self.refusal(Answer::Refused) {
            return refused;
        }
        let grace = Duration::from_secs(self.policy.absence_grace_secs);
        let is_prepared = |node: &Node| self.answer(node).is_some_and(|ack| ack.answer == Answer::Prepared);
        let has_left = |node: &&Node| self.gone.contains(*node) && is_prepared(node);
        let is_lost = |node: &&Node| !has_left(node) && self.absent.get(*node).is_some_and(|since| *since >= grace);
        let lost = self.members.iter().find(is_lost);
        if let Some(node) = lost {
            let reason =
                format!("agent dead or cut off: no live session for over {} s", self.policy.absence_grace_secs);
            return Verdict::No(Cause::at(node.clone(), Fault::new(Step::Session, &reason)));
        }
        let silent = self.without(&[Answer::Prepared]);
        let is_missing = |node: &&Node| silent.contains(*node) || self.absent.contains_key(*node) && !has_left(node);
        let missing: Vec<Node> = self.members.iter().filter(is_missing).cloned().collect();
        if missing.is_empty() {
            return Verdict::Yes { left_out: self.members.iter().filter(has_left).cloned().collect() };
        }
        self.overdue(self.policy.prepare_timeout_secs, &missing, "not prepared, or away").unwrap_or(Verdict::Open)
    }

    /// C5: is the deploy done, must it be reverted?
    #[must_use]
    pub(crate) fn switched(&self) -> Verdict {
        if let Some(author) = self.abort {
            let reason = format!("an abort was requested during the switch{author}");
            return Verdict::No(Cause::of_fleet(Fault::new(Step::Abort, &reason)));
        }
        if let Some(failed) = self.refusal(Answer::Failed) {
            return failed;
        }
        let missing = self.without(&[Answer::Switched]);
        let (gone, silent): (Vec<Node>, Vec<Node>) = missing.into_iter().partition(|node| self.gone.contains(node));
        if silent.is_empty() {
            return Verdict::Yes { left_out: gone };
        }
        match (self.overdue(self.policy.switch_timeout_secs, &silent, "not switched"), self.policy.absent_nodes) {
            (None, _) => Verdict::Open,
            (Some(_), AbsentNodes::Skip) if self.members.len() - silent.len() - gone.len() >= self.min_nodes() => {
                Verdict::Yes { left_out: gone.into_iter().chain(silent).collect() }
            }
            (Some(overdue), AbsentNodes::Skip | AbsentNodes::Fail) => self.died(&silent).unwrap_or(overdue),
        }
    }

    /// The silent nodes without a session. "Dead" tells the operator more than "late".
    fn died(&self, silent: &[Node]) -> Option<Verdict> {
        let dead: Vec<Node> = silent.iter().filter(|node| self.absent.contains_key(*node)).cloned().collect();
        let node = dead.first()?.clone();
        let limit_secs = self.policy.switch_timeout_secs;
        let reason =
            format!("agent dead or cut off: no live session, and not switched within {limit_secs} s: {}", list(&dead));
        Some(Verdict::No(Cause::at(node, Fault::new(Step::Session, &reason))))
    }

    /// A deploy that goes on without silent nodes still needs `min_nodes` nodes to succeed.
    fn min_nodes(&self) -> usize {
        usize::try_from(self.policy.min_nodes).unwrap_or(usize::MAX)
    }

    /// C6: has every member rolled back that can? `No` names the others.
    #[must_use]
    pub(crate) fn reverted(&self) -> Verdict {
        let missing = self.without(&[Answer::Reverted]);
        let (gone, behind): (Vec<Node>, Vec<Node>) = missing.into_iter().partition(|node| self.gone.contains(node));
        if behind.is_empty() {
            return Verdict::Yes { left_out: gone };
        }
        let have_all_answered = behind.iter().all(|node| self.answer(node).is_some_and(|a| a.answer == Answer::Stuck));
        match self.overdue(self.policy.revert_timeout_secs, &behind, "not back") {
            None if have_all_answered => self.refusal(Answer::Stuck).unwrap_or(Verdict::Open),
            None => Verdict::Open,
            Some(overdue) => overdue,
        }
    }
}

/// Names for a sentence: the first few, and how many more there are.
#[must_use]
pub(crate) fn list(nodes: &[Node]) -> String {
    /// Enough to begin with; the history record names all.
    const SHOWN: usize = 5;
    let shown: Vec<&str> = nodes.iter().take(SHOWN).map(Node::as_str).collect();
    match nodes.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

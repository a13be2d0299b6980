//! Keys that were lost, restored or overwritten: the damage, and the release from which an operator may begin again.
//!
//! Pure: one consistent read of a unit's keys comes in, an answer goes out. Only `cutover recover` acts on it, for an
//! operator (PROTOCOL.md, Fail static). The releases that nodes run decide, never the keys that are left.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use super::barrier::list;
use super::coordinator::Presence;
use super::ids::{ArtifactName, Epoch, ModifyIndex, Node, ReleaseName, Unit};
use super::record::{Author, Barrier, History, Outcome, RecordError, Release};
use super::transition::Taken;

/// The keys of a unit that are left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remains {
    /// `Err`: the record cannot be read; none: it is absent.
    pub(crate) barrier: Option<Result<Barrier, RecordError>>,
    /// Whether the members of that record's deploy are there and can be read.
    pub(crate) has_members: bool,
    /// ModifyIndex of the waiting request; none: no request waits.
    pub(crate) waiting: Option<ModifyIndex>,
    pub(crate) nodes: BTreeMap<Node, Presence>,
    /// The node whose agent holds the coordinator's lock.
    pub(crate) coordinator: Option<Node>,
}

/// Damage to the keys that stops the coordinator, or keeps nodes from following.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// These nodes cannot follow the record, each for the reason in its alarm.
    Astray {
        nodes: Vec<Node>,
        /// The alarm of the first node.
        reason: String,
    },
    /// These nodes have followed a later record.
    Behind {
        /// The record's epoch.
        at: Epoch,
        nodes: Vec<Node>,
        /// The newest epoch that any of them has followed.
        floor: Epoch,
    },
    /// The record is gone, and nodes have followed one.
    Gone,
    /// The member list of the running deploy is gone, or cannot be read.
    Members { epoch: Epoch },
    /// A request waits whose index is not above the last deploy's.
    Rebuilt { waiting: ModifyIndex, at: Epoch },
    /// The record cannot be read.
    Unreadable {
        /// Why, with the key.
        problem: String,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Astray { nodes, reason } => write!(f, "{} cannot follow: {reason}", list(nodes)),
            Self::Behind { at, nodes, floor } => write!(
                f,
                "barrier is at epoch {at}, and {} followed it up to {floor}: the keys were restored to an older state",
                list(nodes)
            ),
            Self::Gone => f.write_str("barrier is gone: the keys were deleted, or Consul was rebuilt"),
            Self::Members { epoch } => {
                write!(f, "members/{epoch} is gone or unreadable, so the deploy that runs cannot end")
            }
            Self::Rebuilt { waiting, at } => write!(
                f,
                "a request waits at index {waiting}, which is not above the last epoch {at}: Consul was rebuilt"
            ),
            Self::Unreadable { problem } => f.write_str(problem),
        }
    }
}

/// A release that nodes run, and that the unit may begin again with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Where several epochs decided the same tree, this names the newest.
    pub(crate) release: Release,
    /// The live nodes that run it.
    pub(crate) nodes: Vec<Node>,
    /// Nodes that are away, and ran it by the last record that they wrote.
    pub(crate) away: Vec<Node>,
}

/// The release that `committed` should name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proposal {
    /// No node runs a release.
    Nothing,
    /// Every live node that runs a release runs this one.
    Release(Box<Release>),
    /// An operator must name the release.
    Unclear,
}

impl Remains {
    /// All damage; empty: there is nothing to recover.
    #[must_use]
    pub(crate) fn damage(&self) -> Vec<Damage> {
        let mut damage = Vec::new();
        match &self.barrier {
            None if self.nodes.values().any(has_followed) => damage.push(Damage::Gone),
            // The first coordinator makes the keys.
            None => {}
            // The keys are fine: a newer program reads them.
            Some(Err(RecordError::Newer { .. })) => {}
            Some(Err(error @ RecordError::Malformed { .. })) => {
                damage.push(Damage::Unreadable { problem: error.to_string() });
            }
            Some(Ok(barrier)) => self.against(barrier, &mut damage),
        }
        damage
    }

    fn against(&self, barrier: &Barrier, damage: &mut Vec<Damage>) {
        let at = barrier.epoch;
        let later = |node: &Node| self.floor(node).filter(|floor| *floor > at);
        let behind: Vec<Node> = self.live().filter(|node| later(node).is_some()).cloned().collect();
        if let Some(floor) = behind.iter().filter_map(later).max() {
            damage.push(Damage::Behind { at, nodes: behind.clone(), floor });
        }
        let reason = |node: &&Node| self.astray(node).is_some() && !behind.contains(node);
        let astray: Vec<Node> = self.live().filter(reason).cloned().collect();
        if let Some(reason) = astray.first().and_then(|node| self.astray(node)) {
            damage.push(Damage::Astray { nodes: astray.clone(), reason: reason.to_owned() });
        }
        if !barrier.phase.is_settled() && !self.has_members {
            damage.push(Damage::Members { epoch: at });
        }
        if let Some(waiting) = self.waiting.filter(|waiting| waiting.0 <= at.number) {
            damage.push(Damage::Rebuilt { waiting, at });
        }
    }

    /// Whether a deploy runs whose coordinator can finish it: a recovery must not interrupt it.
    #[must_use]
    pub(crate) fn is_driven(&self) -> bool {
        let Some(Ok(barrier)) = &self.barrier else { return false };
        let leads = |node: &Node| self.astray(node).is_none() && self.floor(node).is_none_or(|f| f <= barrier.epoch);
        !barrier.phase.is_settled() && self.has_members && self.coordinator.as_ref().is_some_and(leads)
    }

    /// Every release that a node's record names as running, those of most live nodes first.
    #[must_use]
    pub(crate) fn choices(&self) -> Vec<Choice> {
        let mut choices: Vec<Choice> = Vec::new();
        for (node, presence) in &self.nodes {
            let Some(runs) = presence.record.as_ref().and_then(|record| record.runs.as_ref()) else { continue };
            let at = choices.iter().position(|choice| choice.release.same_tree(runs)).unwrap_or(choices.len());
            if at == choices.len() {
                choices.push(Choice { release: runs.clone(), nodes: Vec::new(), away: Vec::new() });
            }
            let Some(choice) = choices.get_mut(at) else { continue };
            if runs.epoch > choice.release.epoch {
                choice.release = runs.clone();
            }
            if presence.is_alive { choice.nodes.push(node.clone()) } else { choice.away.push(node.clone()) }
        }
        choices.sort_by(|a, b| b.nodes.len().cmp(&a.nodes.len()).then_with(|| b.release.epoch.cmp(&a.release.epoch)));
        choices
    }

    /// The release that all live nodes run. A node that runs none is new, and follows.
    #[must_use]
    pub(crate) fn proposal(&self) -> Proposal {
        let choices = self.choices();
        let mut live = choices.iter().filter(|choice| !choice.nodes.is_empty());
        match (live.next(), live.next(), choices.is_empty()) {
            (Some(only), None, _) => Proposal::Release(Box::new(only.release.clone())),
            (None, _, true) => Proposal::Nothing,
            (Some(_), Some(_), _) | (None, _, false) => Proposal::Unclear,
        }
    }

    /// The choices that an operator's argument names: by release, or by artifact.
    #[must_use]
    pub(crate) fn named(&self, word: &str) -> Vec<Choice> {
        let is_it =
            |release: &ReleaseName, artifact: &ArtifactName| release.as_str() == word || artifact.as_str() == word;
        self.choices().into_iter().filter(|choice| is_it(&choice.release.release, &choice.release.artifact)).collect()
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|(_, presence)| presence.is_alive).map(|(node, _)| node)
    }

    /// The newest epoch that a node is known to have followed: it may run a release before it reports that record as followed.
    fn floor(&self, node: &Node) -> Option<Epoch> {
        let record = self.nodes.get(node)?.record.as_ref()?;
        record.floor.max(record.runs.as_ref().map(|runs| runs.epoch))
    }

    fn astray(&self, node: &Node) -> Option<&str> {
        let record = self.nodes.get(node)?.record.as_ref()?;
        record.astray.then(|| record.alarm.as_deref().unwrap_or("it gives no reason"))
    }
}

fn has_followed(presence: &Presence) -> bool {
    let record = presence.record.as_ref();
    record.is_some_and(|record| record.runs.is_some() || record.floor > Some(Epoch::default()))
}

/// The highest era that a value mentions, readable or not: `"era":3`, as every record of Cutover writes it.
#[must_use]
pub(crate) fn era_in_value(value: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(value);
    let number = |rest: &str| {
        let rest = rest.trim_start().strip_prefix(':')?.trim_start();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..digits)?.parse().ok()
    };
    text.split("\"era\"").skip(1).filter_map(number).max()
}

/// The era that a key under `history/` or `members/` names.
#[must_use]
pub(crate) fn era_in_name(name: &str) -> Option<u32> {
    name.parse::<Epoch>().ok().map(|epoch| epoch.era)
}

/// A new era that an operator begins. It gets a history record, so that a later rollback can go past it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewEra<'a> {
    pub(crate) unit: &'a Unit,
    /// The first record of the new era.
    pub(crate) barrier: &'a Barrier,
    pub(crate) author: &'a Author,
    pub(crate) damage: &'a [Damage],
    pub(crate) at: Timestamp,
}

impl NewEra<'_> {
    #[must_use]
    pub(crate) fn history(self) -> Option<History> {
        /// No agent coordinated it; the field has to hold a name.
        const NOBODY: &str = "operator";
        let Self { unit, barrier, at, .. } = self;
        let (coordinator, epoch) = (NOBODY.parse().ok()?, barrier.epoch);
        let taken = Taken { unit, coordinator: &coordinator, epoch, raw: b"cutover recover", request: None, at };
        let mut history = taken.history();
        history.author.clone_from(self.author);
        history.notes = self.damage.iter().map(|damage| format!("recovered: {damage}")).collect();
        history.artifact = barrier.committed.as_ref().map(|release| release.artifact.clone());
        history.release = barrier.committed.as_ref().map(|release| release.release.clone());
        history.end(Outcome::Done, at);
        Some(history)
    }
}

#[cfg(test)]
mod tests;

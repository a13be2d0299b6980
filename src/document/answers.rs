//! What nodes answer when they are asked: `--dry-run`, `cutover doctor`, `cutover node repair`.
//!
//! A node that says nothing is shown as one that says nothing, and counts as bad.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::BuildBefore;
use super::text::counted;
use crate::protocol::ids::{ArtifactName, Branch, Commit, Node, ReleaseName, Unit};
use crate::protocol::record::{Fault, Finding, Freeze, Mark, Release, Reply, Summary};

/// Whether a node has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Heard {
    /// It has.
    Answered,
    /// It is registered and not alive, so it was not waited for.
    Away,
    /// It is alive, and has not answered in time.
    NoAnswer,
}

/// One node that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AskedNode {
    /// Its name.
    pub node: Node,
    /// Whether it has answered.
    pub heard: Heard,
    /// What it runs, by its own word.
    pub runs: Option<Release>,
    /// What it found; empty without an answer.
    pub findings: Vec<Finding>,
    /// Figures of a dry run, in bytes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, u64>,
    /// When it answered, by its own clock.
    pub at: Option<Timestamp>,
}

impl AskedNode {
    /// A node that has not answered.
    #[must_use]
    pub const fn without_answer(node: Node, heard: Heard) -> Self {
        Self { node, heard, runs: None, findings: Vec::new(), figures: BTreeMap::new(), at: None }
    }

    /// A node's answer.
    #[must_use]
    pub fn answered(node: Node, reply: Reply) -> Self {
        let Reply { runs, findings, figures, at, .. } = reply;
        Self { node, heard: Heard::Answered, runs, findings, figures, at: Some(at) }
    }

    /// The first thing that would fail here, if it has answered.
    #[must_use]
    pub fn first_bad(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.mark == Mark::Bad)
    }

    /// Whether it has answered, and found nothing bad.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.heard == Heard::Answered && self.first_bad().is_none()
    }

    /// What it found about one thing.
    #[must_use]
    pub fn finding(&self, about: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.about == about)
    }
}

/// What a deploy or rollback would do, as far as can be told without doing it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DryRunDocument {
    /// The unit.
    pub unit: Unit,
    /// What was asked for, as it would be typed.
    pub wants: String,
    /// Whether it is a rollback.
    pub rollback: bool,
    /// Whether it would go.
    pub would_go: bool,
    /// The same in one sentence, with what is in the way first.
    pub headline: String,
    /// The exit code that says the same to scripts.
    pub code: u8,
    /// The build that it comes to; none where it comes to none.
    pub to: Option<DryRunBuild>,
    /// What is committed now.
    pub from: Option<Release>,
    /// The build of that; none where its record is gone.
    pub before: Option<BuildBefore>,
    /// Why the request itself would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// The freeze that holds now, overridden or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
    /// What would be overridden, or is worth knowing.
    pub notes: Vec<String>,
    /// What each registered node says; empty where nobody was asked.
    pub nodes: Vec<AskedNode>,
}

/// The build of a dry run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DryRunBuild {
    /// Its name.
    pub artifact: ArtifactName,
    /// The exact branch.
    pub branch: Branch,
    /// The full commit.
    pub commit: Commit,
    /// What the commit says.
    #[serde(flatten)]
    pub summary: Summary,
    /// For a rollback, the release that it would go back to; a deploy makes a new one.
    pub release: Option<ReleaseName>,
}

/// What `cutover doctor` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoctorDocument {
    /// Whether nothing is bad.
    pub well: bool,
    /// The same in one sentence.
    pub headline: String,
    /// The exit code that says the same to scripts.
    pub code: u8,
    /// What was looked at from here.
    pub here: Vec<Finding>,
    /// Every unit.
    pub units: Vec<UnitHealth>,
}

/// A unit, as it looks from here and from each of its nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnitHealth {
    /// The unit.
    pub unit: Unit,
    /// What was looked at from here.
    pub here: Vec<Finding>,
    /// What each registered node says.
    pub nodes: Vec<AskedNode>,
}

impl UnitHealth {
    /// How many things are bad: findings, and nodes that do not answer.
    #[must_use]
    pub fn bad(&self) -> usize {
        let silent = self.nodes.iter().filter(|node| node.heard != Heard::Answered).count();
        let found = self.nodes.iter().flat_map(|node| &node.findings);
        count_bad(self.here.iter().chain(found)) + silent
    }
}

impl DoctorDocument {
    /// The document of what was found; the headline counts what is bad.
    #[must_use]
    pub fn of(here: Vec<Finding>, units: Vec<UnitHealth>, codes: (u8, u8)) -> Self {
        let bad = count_bad(&here) + units.iter().map(UnitHealth::bad).sum::<usize>();
        let nodes: usize = units.iter().map(|unit| unit.nodes.len()).sum();
        let looked = format!("{}, {}", counted(units.len(), "group", "groups"), counted(nodes, "node", "nodes"));
        let (well, unwell) = codes;
        let headline = match bad {
            0 => format!("all is well: {looked}"),
            1 => format!("1 thing is wrong: {looked}"),
            bad => format!("{bad} things are wrong: {looked}"),
        };
        Self { well: bad == 0, headline, code: if bad == 0 { well } else { unwell }, here, units }
    }
}

fn count_bad<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> usize {
    findings.into_iter().filter(|finding| finding.mark == Mark::Bad).count()
}

/// What became of `cutover node repair`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepairDocument {
    /// The node.
    pub node: Node,
    /// Whether `current` is right in every unit that was asked.
    pub well: bool,
    /// The same in one sentence.
    pub headline: String,
    /// The exit code that says the same to scripts.
    pub code: u8,
    /// Its answer for each unit.
    pub units: BTreeMap<Unit, AskedNode>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(heard: Heard, findings: Vec<Finding>) -> AskedNode {
        AskedNode { findings, ..AskedNode::without_answer("web-1".parse().unwrap(), heard) }
    }

    #[test]
    fn a_node_that_does_not_answer_is_never_well() {
        assert!(asked(Heard::Answered, vec![Finding::new("disk", Mark::Warn, "nearly full")]).is_well());
        assert!(!asked(Heard::Answered, vec![Finding::new("disk", Mark::Bad, "full")]).is_well());
        for heard in [Heard::NoAnswer, Heard::Away] {
            assert!(!asked(heard, Vec::new()).is_well());
            let unit = "shop/production".parse().unwrap();
            let unit = UnitHealth { unit, here: Vec::new(), nodes: vec![asked(heard, Vec::new())] };
            let document = DoctorDocument::of(Vec::new(), vec![unit], (0, 1));
            assert_eq!((document.well, document.code), (false, 1));
            assert_eq!(document.headline, "1 thing is wrong: 1 group, 1 node");
        }
    }
}

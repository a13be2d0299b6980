//! Documents made of the nodes' own answers: `--dry-run`, `cutover doctor`, `cutover node repair`.
//!
//! A node that does not answer is listed as such, and counts as a problem.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::text::counted;
use super::{BuildInfo, Files};
use crate::protocol::ids::{Node, ReleaseName, Time, Unit};
use crate::protocol::record::{Commits, Fault, FileChanges, Finding, Freeze, Mark, Release, Reply};

/// Whether a node answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AnswerState {
    /// The node answered.
    Answered,
    /// The node is registered but not alive, so there was no wait for it.
    Away,
    /// The node is alive but did not answer in time.
    NoAnswer,
}

/// One node that was queried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct NodeReply {
    /// Its name.
    pub(crate) node: Node,
    /// Whether the node answered.
    pub(crate) heard: AnswerState,
    /// The release that the node says it runs.
    pub(crate) runs: Option<Release>,
    /// The node's findings; empty without an answer.
    pub(crate) findings: Vec<Finding>,
    /// Figures of a dry run, in bytes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) figures: BTreeMap<String, u64>,
    /// Files that a deploy would change, by the coordinator's node.
    #[serde(skip)]
    pub(crate) files: Option<FileChanges>,
    /// When the node answered, by its own clock.
    #[schemars(with = "Option<Time>")]
    pub(crate) at: Option<Timestamp>,
}

impl NodeReply {
    #[must_use]
    pub(crate) const fn without_answer(node: Node, heard: AnswerState) -> Self {
        Self { node, heard, runs: None, findings: Vec::new(), figures: BTreeMap::new(), files: None, at: None }
    }

    #[must_use]
    pub(crate) fn answered(node: Node, reply: Reply) -> Self {
        let Reply { runs, findings, figures, files, at, .. } = reply;
        Self { node, heard: AnswerState::Answered, runs, findings, figures, files, at: Some(at) }
    }

    /// The first problem among the findings.
    #[must_use]
    pub(crate) fn first_bad(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.mark == Mark::Bad)
    }

    /// Whether the node answered and found no problem.
    #[must_use]
    pub(crate) fn is_well(&self) -> bool {
        self.heard == AnswerState::Answered && self.first_bad().is_none()
    }

    /// The finding about one topic.
    #[must_use]
    pub(crate) fn finding(&self, about: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.about == about)
    }
}

/// What a deploy or rollback would do, as `cutover deploy --dry-run` prints it, also if it would be blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct DryRunDocument {
    /// The group.
    pub(crate) unit: Unit,
    /// The target of the request, as it would be typed.
    pub(crate) wants: String,
    /// Whether it is a rollback.
    pub(crate) rollback: bool,
    /// Whether the request would be carried out.
    pub(crate) would_go: bool,
    /// The result in one sentence, with the first obstacle.
    pub(crate) headline: String,
    /// The headline without its verdict, for pages that show the verdict as a badge.
    #[serde(skip)]
    pub(crate) detail: String,
    /// The exit code for scripts.
    pub(crate) code: u8,
    /// The build that would be deployed; none if none was selected.
    pub(crate) to: Option<DryRunBuild>,
    /// The current release.
    pub(crate) from: Option<Release>,
    /// The build of the current release; none if its record is gone.
    pub(crate) before: Option<BuildInfo>,
    /// What the deploy would ship; none if no build was selected, or nothing runs yet.
    pub(crate) ships: Option<Ships>,
    /// Why the request itself would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<Fault>,
    /// The current freeze, overridden or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) freeze: Option<Freeze>,
    /// What the request would override, and other remarks.
    pub(crate) notes: Vec<String>,
    /// The answer of each registered node; empty if no node was queried.
    pub(crate) nodes: Vec<NodeReply>,
}

/// What a deploy would ship: the differences between the current release and the build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Ships {
    /// The commits; at most 20 are listed.
    pub(crate) commits: Commits,
    /// The files.
    pub(crate) files: Files,
}

/// The build that would be deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct DryRunBuild {
    #[serde(flatten)]
    pub(crate) build: BuildInfo,
    /// For a rollback, the release to roll back to; a deploy makes a new release.
    pub(crate) release: Option<ReleaseName>,
}

/// The health of groups, as `cutover doctor` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct DoctorDocument {
    /// Whether there is no problem.
    pub(crate) well: bool,
    /// The result in one sentence.
    pub(crate) headline: String,
    /// The exit code for scripts.
    pub(crate) code: u8,
    /// Findings from this machine.
    pub(crate) here: Vec<Finding>,
    /// Every unit.
    pub(crate) units: Vec<UnitHealth>,
}

/// The findings about a group, from this machine and from each of its nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct UnitHealth {
    /// The group.
    pub(crate) unit: Unit,
    /// Findings from this machine.
    pub(crate) here: Vec<Finding>,
    /// The answer of each registered node.
    pub(crate) nodes: Vec<NodeReply>,
}

impl UnitHealth {
    /// The number of problems: bad findings, and nodes that do not answer.
    #[must_use]
    pub(crate) fn bad(&self) -> usize {
        let silent = self.nodes.iter().filter(|node| node.heard != AnswerState::Answered).count();
        let found = self.nodes.iter().flat_map(|node| &node.findings);
        count_bad(self.here.iter().chain(found)) + silent
    }
}

impl DoctorDocument {
    /// Builds the document. The headline counts the problems.
    #[must_use]
    pub(crate) fn of(here: Vec<Finding>, units: Vec<UnitHealth>, codes: (u8, u8)) -> Self {
        let bad = count_bad(&here) + units.iter().map(UnitHealth::bad).sum::<usize>();
        let nodes: usize = units.iter().map(|unit| unit.nodes.len()).sum();
        let scope = format!("{}, {}", counted(units.len(), "group", "groups"), counted(nodes, "node", "nodes"));
        let (healthy, unhealthy) = codes;
        let headline = match bad {
            0 => format!("healthy: {scope}"),
            1 => format!("1 problem found: {scope}"),
            bad => format!("{bad} problems found: {scope}"),
        };
        Self { well: bad == 0, headline, code: if bad == 0 { healthy } else { unhealthy }, here, units }
    }
}

fn count_bad<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> usize {
    findings.into_iter().filter(|finding| finding.mark == Mark::Bad).count()
}

/// The result of `cutover node repair`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RepairDocument {
    pub(crate) node: Node,
    /// Whether `current` is right in every queried group.
    pub(crate) well: bool,
    /// The result in one sentence.
    pub(crate) headline: String,
    /// The exit code for scripts.
    pub(crate) code: u8,
    /// The node's answer for each group.
    pub(crate) units: BTreeMap<Unit, NodeReply>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(heard: AnswerState, findings: Vec<Finding>) -> NodeReply {
        NodeReply { findings, ..NodeReply::without_answer("web-1".parse().unwrap(), heard) }
    }

    #[test]
    fn a_node_that_does_not_answer_counts_as_a_problem() {
        assert!(asked(AnswerState::Answered, vec![Finding::new("disk", Mark::Warn, "nearly full")]).is_well());
        assert!(!asked(AnswerState::Answered, vec![Finding::new("disk", Mark::Bad, "full")]).is_well());
        for heard in [AnswerState::NoAnswer, AnswerState::Away] {
            assert!(!asked(heard, Vec::new()).is_well());
            let unit = "shop/production".parse().unwrap();
            let unit = UnitHealth { unit, here: Vec::new(), nodes: vec![asked(heard, Vec::new())] };
            let document = DoctorDocument::of(Vec::new(), vec![unit], (0, 1));
            assert_eq!((document.well, document.code), (false, 1));
            assert_eq!(document.headline, "1 problem found: 1 group, 1 node");
        }
    }
}

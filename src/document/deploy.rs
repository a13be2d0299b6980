//! The state and outcome of one request, as `cutover deploy`, `rollback` and `abort` print it.
//!
//! While the request runs, the document combines its history record with the keys of the running deploy; afterwards it
//! contains only the record, which the coordinator has completed. The exit code is part of the document, so that scripts get
//! the same answer from JSON and from the command.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Entries, counted, named, read, read_all, step_words};
use crate::protocol::ids::{ArtifactName, Branch, Commit, Epoch, Node, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{
    Ack, Answer, Barrier, Build, Fetching, History, NodeOutcome, NodeRecord, Outcome, Phase, Request, Summary, Timings,
    Wanted,
};

/// A request, while it runs and after it has ended, as `cutover deploy` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct DeployDocument {
    /// The group.
    pub(crate) unit: Unit,
    /// The request's epoch.
    pub(crate) epoch: Epoch,
    pub(crate) fate: DeployState,
    /// The state in one sentence, with the failing node, step and reason.
    pub(crate) headline: String,
    /// The exit code for scripts.
    pub(crate) code: u8,
    /// The phase of the barrier, or its last phase for this request; none if the request never had a barrier, or its last
    /// phase is not known.
    #[schemars(extend("enum" = ["prepare", "commit", "done", "aborted", "revert", "reverted", null]))]
    pub(crate) phase: Option<Phase>,
    /// The request's history record, while it runs with the answers so far; none until a coordinator takes it.
    pub(crate) record: Option<History>,
    /// The members that the current phase waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) waits_for: Vec<Node>,
    /// Members among them whose agent is away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) lost: Vec<Node>,
    /// What members among them download and unpack, in the phase `prepare`. Short downloads are left out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) fetching: BTreeMap<Node, Fetching>,
    /// The build that ran before; none if there was none, or its record is gone or was not read.
    pub(crate) before: Option<BuildInfo>,
    /// How long earlier requests took; none if there were none, or they were not read.
    pub(crate) usual: Option<Usual>,
}

/// The fields by which people recognise a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct BuildInfo {
    pub(crate) artifact: ArtifactName,
    /// The exact branch.
    pub(crate) branch: Branch,
    /// The full commit.
    pub(crate) commit: Commit,
    /// Subject and author of the commit.
    #[serde(flatten)]
    pub(crate) summary: Summary,
}

/// How long earlier successful requests of the same kind took: medians, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Usual {
    /// The number of requests compared.
    #[schemars(range(min = 1))]
    pub(crate) of: usize,
    /// From start to end.
    pub(crate) took_ms: u64,
    /// From start to commit.
    pub(crate) prepare_ms: u64,
    /// From commit to end.
    pub(crate) switch_ms: u64,
}

impl Usual {
    /// Computes the medians of those `others` that are comparable with `record`; none if there are none. A request with
    /// nothing to do never switched, so it is not comparable.
    #[must_use]
    pub(crate) fn of<'a>(record: &History, others: impl IntoIterator<Item = &'a History>) -> Option<Self> {
        let is_like = |other: &&History| {
            other.epoch < record.epoch && other.rollback == record.rollback && other.outcome == Some(Outcome::Done)
        };
        let (mut took, mut prepare, mut switch) = (Vec::new(), Vec::new(), Vec::new());
        for other in others.into_iter().filter(is_like) {
            let (Some(decided), Some(ended)) = (other.committed_at, other.ended_at) else { continue };
            took.push(millis(other.started_at, ended));
            prepare.push(millis(other.started_at, decided));
            switch.push(millis(decided, ended));
        }
        let of = took.len();
        Some(Self { of, took_ms: median(took)?, prepare_ms: median(prepare)?, switch_ms: median(switch)? })
    }
}

fn millis(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}

fn median(mut figures: Vec<u64>) -> Option<u64> {
    figures.sort_unstable();
    figures.get(figures.len() / 2).copied()
}

impl From<Build> for BuildInfo {
    fn from(build: Build) -> Self {
        let Build { artifact, branch, commit, summary, .. } = build;
        Self { artifact, branch, commit, summary }
    }
}

/// The state of a request, as far as its caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeployState {
    /// Ended without a switch on any node.
    Aborted,
    /// Every member runs it.
    Done,
    /// A switch failed, and at least one node could not be reverted.
    Failed,
    /// Replaced by another request before a coordinator took it.
    Overtaken,
    /// Refused before it started.
    Refused,
    /// Written; the caller did not wait.
    Requested,
    /// A switch failed, and every node was reverted.
    Reverted,
    /// In progress.
    Running,
    /// Not known: the caller stopped watching, or no outcome was recorded.
    Unknown,
}

impl DeployState {
    /// The word, the same as in JSON.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Overtaken => "overtaken",
            Self::Refused => "refused",
            Self::Requested => "requested",
            Self::Reverted => "reverted",
            Self::Running => "running",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Option<Outcome>> for DeployState {
    fn from(outcome: Option<Outcome>) -> Self {
        match outcome {
            None => Self::Unknown,
            Some(Outcome::Aborted) => Self::Aborted,
            Some(Outcome::Done) => Self::Done,
            Some(Outcome::Failed) => Self::Failed,
            Some(Outcome::Refused) => Self::Refused,
            Some(Outcome::Reverted) => Self::Reverted,
            Some(Outcome::Superseded) => Self::Overtaken,
        }
    }
}

/// The fault that stopped a request, in one sentence: `check hook on web-2: exit status 1`; empty if there is none.
#[must_use]
pub(crate) fn fault_sentence(record: &History) -> String {
    let Some(fault) = &record.fault else { return String::new() };
    match &record.node {
        Some(node) => format!("{} on {node}: {}", step_words(fault.step), fault.reason),
        // The fault is the request's own, and its reason is a whole sentence.
        None => fault.reason.clone(),
    }
}

/// The target of a request for people: the selected build, else the text of the request.
#[must_use]
pub(crate) fn request_target(record: &History) -> String {
    /// How much of an unreadable request is shown: enough to recognise it.
    const SHOWN_CHARS: usize = 40;
    let named = record.artifact.as_ref().map(ToString::to_string);
    let asked = || match Request::parse(record.request.as_bytes()).map(|request| request.wanted) {
        Ok(Wanted::Deploy(selector)) => selector.to_string(),
        Ok(Wanted::Rollback(artifact)) => artifact.map_or_else(String::new, |artifact| artifact.to_string()),
        Err(_) => record.request.chars().take(SHOWN_CHARS).collect(),
    };
    let what = named.unwrap_or_else(asked);
    match (what.is_empty(), record.rollback) {
        (true, true) => "rollback".to_owned(),
        (false, true) => format!("{what} (rollback)"),
        (_, false) => what,
    }
}

/// The progress of a request, in nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// `2 of 3 nodes prepared, waiting for web-3`.
    pub(crate) text: String,
    /// The number of members that have finished the phase.
    pub(crate) done: usize,
    /// The number of members.
    pub(crate) of: usize,
}

/// The last phase of a request with this outcome; none if it never had a barrier.
const fn last_phase(outcome: Outcome) -> Option<Phase> {
    match outcome {
        Outcome::Done => Some(Phase::Done),
        Outcome::Aborted => Some(Phase::Aborted),
        Outcome::Reverted | Outcome::Failed => Some(Phase::Reverted),
        Outcome::Refused | Outcome::Superseded => None,
    }
}

/// Whether a phase still waits for a member with this answer.
const fn is_open(phase: Phase, answer: Option<Answer>) -> bool {
    match phase {
        Phase::Prepare => answer.is_none(),
        Phase::Commit => matches!(answer, None | Some(Answer::Prepared)),
        Phase::Revert => !matches!(answer, Some(Answer::Reverted | Answer::Stuck)),
        Phase::Aborted | Phase::Done | Phase::Idle | Phase::Reverted => false,
    }
}

impl DeployDocument {
    /// The document of a request without a history record.
    #[must_use]
    pub(crate) const fn without_record(
        unit: Unit,
        epoch: Epoch,
        fate: DeployState,
        headline: String,
        code: u8,
    ) -> Self {
        Self {
            unit,
            epoch,
            fate,
            headline,
            code,
            phase: None,
            record: None,
            waits_for: Vec::new(),
            lost: Vec::new(),
            fetching: BTreeMap::new(),
            before: None,
            usual: None,
        }
    }

    /// The document of a request from its history record alone; `code` is the caller's exit code for it.
    #[must_use]
    pub(crate) fn of(record: History, code: u8) -> Self {
        let phase = record.outcome.and_then(last_phase);
        Self::assemble(record, code, phase, Awaited::default())
    }

    /// The document of a request from its history record, completed from `barrier`, `members/`, `acks/` and `nodes/` if the
    /// barrier is this request's.
    #[must_use]
    pub(crate) fn from_keys(mut record: History, code: u8, keys: &UnitKeys, entries: &Entries) -> Self {
        // The coordinator reports unreadable records. Here they only leave gaps.
        let mut unread = Vec::new();
        let barrier: Option<Barrier> = read(entries, &keys.barrier(), &mut unread);
        let Some(barrier) = barrier.filter(|barrier| barrier.epoch == record.epoch) else {
            return Self::of(record, code);
        };
        let runs = record.outcome.is_none() && !barrier.phase.is_settled();
        let members: Vec<Node> = read(entries, &keys.members(record.epoch), &mut unread).unwrap_or_default();
        for node in members {
            let silent = NodeOutcome { answer: None, fault: None, took: Timings::default() };
            record.nodes.entry(node).or_insert(silent);
        }
        let acks: BTreeMap<Node, Ack> = read_all(entries, &keys.acks(), &mut unread);
        for (node, ack) in acks.into_iter().filter(|(_, ack)| ack.epoch == record.epoch) {
            // The record of an ended request keeps its own answers. Records of large groups are shortened: for those, the
            // same answer is completed with its fault and times.
            if let Some(outcome) = record.nodes.get_mut(&node).filter(|it| runs || it.answer == Some(ack.answer)) {
                *outcome = NodeOutcome { answer: Some(ack.answer), fault: ack.fault, took: ack.took };
            }
        }
        if !runs {
            return Self::of(record, code);
        }
        let waits_for = record.nodes.iter().filter(|(_, outcome)| is_open(barrier.phase, outcome.answer));
        let waits_for: Vec<Node> = waits_for.map(|(node, _)| node.clone()).collect();
        let is_lost = |node: &&Node| entries.get(&keys.node(node)).is_none_or(|entry| entry.session.is_none());
        let lost: Vec<Node> = waits_for.iter().filter(is_lost).cloned().collect();
        let fetching = if barrier.phase == Phase::Prepare {
            let known: BTreeMap<Node, NodeRecord> = read_all(entries, &keys.nodes(), &mut unread);
            let is_awaited = |node: &Node| waits_for.contains(node) && !lost.contains(node);
            let fetching = known.into_iter().filter(|(node, _)| is_awaited(node));
            fetching.filter_map(|(node, record)| Some((node, record.fetching?))).collect()
        } else {
            BTreeMap::new()
        };
        Self::assemble(record, code, Some(barrier.phase), Awaited { waits_for, lost, fetching })
    }

    fn assemble(record: History, code: u8, phase: Option<Phase>, awaited: Awaited) -> Self {
        let Awaited { waits_for, lost, fetching } = awaited;
        let fate = match record.outcome {
            None if phase.is_some() => DeployState::Running,
            outcome => DeployState::from(outcome),
        };
        let what = format!("{}: {} on {}", fate.as_str(), request_target(&record), record.unit);
        let progress = Progress::of(phase, &record, &waits_for).filter(|_| fate == DeployState::Running);
        let parts = [what, progress.map_or_else(String::new, |progress| progress.text), fault_sentence(&record)];
        let headline = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
        let (unit, epoch, record) = (record.unit.clone(), record.epoch, Some(record));
        Self { unit, epoch, fate, headline, code, phase, record, waits_for, lost, fetching, before: None, usual: None }
    }

    /// The progress; none if the request has no members, or its phase is not known.
    #[must_use]
    pub(crate) fn progress(&self) -> Option<Progress> {
        Progress::of(self.phase, self.record.as_ref()?, &self.waits_for)
    }
}

/// The nodes whose answer a running deploy waits for.
#[derive(Default)]
struct Awaited {
    waits_for: Vec<Node>,
    /// Those of them whose agent has no live session.
    lost: Vec<Node>,
    fetching: BTreeMap<Node, Fetching>,
}

impl Progress {
    fn of(phase: Option<Phase>, record: &History, waits_for: &[Node]) -> Option<Self> {
        let (word, wanted) = match phase? {
            Phase::Prepare | Phase::Aborted => ("prepared", Answer::Prepared),
            Phase::Commit | Phase::Done => ("switched", Answer::Switched),
            Phase::Revert | Phase::Reverted => ("reverted", Answer::Reverted),
            Phase::Idle => return None,
        };
        let of = record.nodes.len();
        if of == 0 {
            return None;
        }
        let done = record.nodes.values().filter(|outcome| outcome.answer == Some(wanted)).count();
        let waits_for: Vec<&str> = waits_for.iter().map(Node::as_str).collect();
        let waits = if waits_for.is_empty() { String::new() } else { format!(", waiting for {}", named(&waits_for)) };
        let text = format!("{done} of {} {word}{waits}", counted(of, "node", "nodes"));
        Some(Self { text, done, of })
    }
}

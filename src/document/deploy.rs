//! What became of one request: `cutover deploy`, `rollback` and `abort` print it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::{Entries, counted, named, read, read_all};
use crate::protocol::ids::{ArtifactName, Branch, Commit, Epoch, Node, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{
    Ack, Answer, Barrier, Build, History, NodeOutcome, Outcome, Phase, Request, Summary, Timings, Wanted,
};

/// What is known about a request, while it runs and when it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeployDocument {
    /// The unit.
    pub unit: Unit,
    /// The request's epoch.
    pub epoch: Epoch,
    /// What became of it.
    pub fate: Fate,
    /// The same in one sentence, with the failing node, step and reason.
    pub headline: String,
    /// The exit code that says the same to scripts.
    pub code: u8,
    /// Where the barrier is, or was when it ended; none where it never stood for this request, or that is not known.
    pub phase: Option<Phase>,
    /// The request's record, while it runs with what its members have answered so far; none while no coordinator has
    /// taken it.
    pub record: Option<History>,
    /// The members for which a phase that goes on waits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Node>,
    /// Those of them whose agent is away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Node>,
    /// The build that was committed before; none where nothing was, or its record is gone or was not read.
    pub before: Option<BuildBefore>,
    /// How long others before it have taken; none where there were none, or they were not read.
    pub usual: Option<Usual>,
}

/// The build that a deploy leads away from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildBefore {
    /// Its name.
    pub artifact: ArtifactName,
    /// The exact branch.
    pub branch: Branch,
    /// The full commit.
    pub commit: Commit,
    /// What the commit says.
    #[serde(flatten)]
    pub summary: Summary,
}

/// How long requests of the same kind took before this one that every member then ran: medians, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usual {
    /// Of how many.
    pub of: usize,
    /// From when it was taken until it ended.
    pub took_ms: u64,
    /// Until the decision to switch.
    pub prepare_ms: u64,
    /// From then on.
    pub switch_ms: u64,
}

impl Usual {
    /// Of those of `others` that `record` can be compared with; none where there are none. What had nothing to do never
    /// came to a switch, and says nothing about the time that one takes.
    #[must_use]
    pub fn of<'a>(record: &History, others: impl IntoIterator<Item = &'a History>) -> Option<Self> {
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

impl From<Build> for BuildBefore {
    fn from(build: Build) -> Self {
        let Build { artifact, branch, commit, summary, .. } = build;
        Self { artifact, branch, commit, summary }
    }
}

/// What became of a request, as far as its caller saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Nobody switched.
    Aborted,
    /// Every member runs it.
    Done,
    /// Rolled back, and not every node could follow.
    Failed,
    /// Another request took its place before it was taken.
    Overtaken,
    /// Not even begun.
    Refused,
    /// Written, and not waited for.
    Requested,
    /// Rolled back on every node.
    Reverted,
    /// It goes on.
    Running,
    /// Not known: the caller stopped watching, or its end was never recorded.
    Unknown,
}

impl Fate {
    /// The word, the same as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
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

impl From<Option<Outcome>> for Fate {
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

/// What stopped a request, in one sentence: `web-2 failed at check_hook: exit status 1`; empty where nothing did.
#[must_use]
pub fn what_stopped(record: &History) -> String {
    let Some(fault) = &record.fault else { return String::new() };
    match &record.node {
        Some(node) => format!("{node} at {}: {}", fault.step.as_str(), fault.reason),
        // No node's doing: the reason says it all.
        None => fault.reason.clone(),
    }
}

/// What a request asked for, as people would say it: the build that it came to, else what was typed.
#[must_use]
pub fn what_was_asked(record: &History) -> String {
    /// Of what is not even a request: enough to know it again.
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

/// How far a request is, in numbers that cannot be misread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `2 of 3 nodes prepared, waiting for web-3`.
    pub says: String,
    /// How many members have done what the phase asks for.
    pub done: usize,
    /// Of how many.
    pub of: usize,
}

/// Where the barrier was when a request ended so; none where it never stood for it.
const fn last_phase(outcome: Outcome) -> Option<Phase> {
    match outcome {
        Outcome::Done => Some(Phase::Done),
        Outcome::Aborted => Some(Phase::Aborted),
        Outcome::Reverted | Outcome::Failed => Some(Phase::Reverted),
        Outcome::Refused | Outcome::Superseded => None,
    }
}

/// Whether a phase waits for a member that has answered so.
const fn is_open(phase: Phase, answer: Option<Answer>) -> bool {
    match phase {
        Phase::Prepare => answer.is_none(),
        Phase::Commit => matches!(answer, None | Some(Answer::Prepared)),
        Phase::Revert => !matches!(answer, Some(Answer::Reverted | Answer::Stuck)),
        Phase::Aborted | Phase::Done | Phase::Idle | Phase::Reverted => false,
    }
}

impl DeployDocument {
    /// The document of a request of which there is no record.
    #[must_use]
    pub const fn without_record(unit: Unit, epoch: Epoch, fate: Fate, headline: String, code: u8) -> Self {
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
            before: None,
            usual: None,
        }
    }

    /// The document of a recorded request by its record alone; `code` is the caller's exit code for it.
    #[must_use]
    pub fn of(record: History, code: u8) -> Self {
        let phase = record.outcome.and_then(last_phase);
        Self::told(record, code, phase, (Vec::new(), Vec::new()))
    }

    /// The same with what stands of it in `barrier`, `members/`, `acks/` and `nodes/`, where it is this request for which
    /// the barrier stands.
    #[must_use]
    pub fn standing(mut record: History, code: u8, keys: &UnitKeys, entries: &Entries) -> Self {
        // What cannot be read is the coordinator's to judge; here it only tells nothing.
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
            // A record that has ended stays with what was answered until then, and only of a large fleet it is cut.
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
        let lost = waits_for.iter().filter(is_lost).cloned().collect();
        Self::told(record, code, Some(barrier.phase), (waits_for, lost))
    }

    fn told(record: History, code: u8, phase: Option<Phase>, (waits_for, lost): (Vec<Node>, Vec<Node>)) -> Self {
        let fate = match record.outcome {
            None if phase.is_some() => Fate::Running,
            outcome => Fate::from(outcome),
        };
        let what = format!("{}: {} on {}", fate.as_str(), what_was_asked(&record), record.unit);
        let progress = Progress::of(phase, &record, &waits_for).filter(|_| fate == Fate::Running);
        let parts = [what, progress.map_or_else(String::new, |progress| progress.says), what_stopped(&record)];
        let headline = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
        let (unit, epoch, record) = (record.unit.clone(), record.epoch, Some(record));
        Self { unit, epoch, fate, headline, code, phase, record, waits_for, lost, before: None, usual: None }
    }

    /// How far it is; none where no member was ever asked, or that is not known.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        Progress::of(self.phase, self.record.as_ref()?, &self.waits_for)
    }
}

impl Progress {
    fn of(phase: Option<Phase>, record: &History, waits_for: &[Node]) -> Option<Self> {
        let (word, wanted) = match phase? {
            Phase::Prepare | Phase::Aborted => ("prepared", Answer::Prepared),
            Phase::Commit | Phase::Done => ("switched", Answer::Switched),
            Phase::Revert | Phase::Reverted => ("went back", Answer::Reverted),
            Phase::Idle => return None,
        };
        let of = record.nodes.len();
        if of == 0 {
            return None;
        }
        let done = record.nodes.values().filter(|outcome| outcome.answer == Some(wanted)).count();
        let waits_for: Vec<&str> = waits_for.iter().map(Node::as_str).collect();
        let waits = if waits_for.is_empty() { String::new() } else { format!(", waiting for {}", named(&waits_for)) };
        let says = format!("{done} of {} {word}{waits}", counted(of, "node", "nodes"));
        Some(Self { says, done, of })
    }
}

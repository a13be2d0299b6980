//! What became of one request: `cutover deploy`, `rollback` and `abort` print it.

use jiff::Timestamp;
use serde::Serialize;

use crate::protocol::ids::{ArtifactName, Branch, Commit, Epoch, Unit};
use crate::protocol::record::{Build, History, Outcome, Request, Summary, Wanted};

/// What is known about a request when its command ends.
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
    /// The request's record; none while no coordinator has taken it.
    pub record: Option<History>,
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
    /// Not known: the caller stopped watching.
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

impl DeployDocument {
    /// The document of a request of which there is no record.
    #[must_use]
    pub const fn without_record(unit: Unit, epoch: Epoch, fate: Fate, headline: String, code: u8) -> Self {
        Self { unit, epoch, fate, headline, code, record: None, before: None, usual: None }
    }

    /// The document of a recorded request; `code` is the caller's exit code for it.
    #[must_use]
    pub fn of(record: History, code: u8) -> Self {
        let fate = Fate::from(record.outcome);
        let what = what_was_asked(&record);
        let stopped = what_stopped(&record);
        let mut headline = format!("{}: {what} on {}", fate.as_str(), record.unit);
        if !stopped.is_empty() {
            headline.push_str(": ");
            headline.push_str(&stopped);
        }
        Self {
            unit: record.unit.clone(),
            epoch: record.epoch,
            fate,
            headline,
            code,
            record: Some(record),
            before: None,
            usual: None,
        }
    }
}

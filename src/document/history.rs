//! `cutover history`: the requests and other actions of a group, newest first.
//!
//! Pure: reading the archive is the caller's task. [`FullHistory::next_segment`] names the archive segment to read
//! next, and [`FullHistory::add`] adds its bytes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Entries, Problem, fault_sentence, moment, read, read_all, request_target};
use crate::protocol::ids::{ArtifactName, Epoch, Time, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Action, ActionKind, Archive, Changes, History, Identity, Outcome, Segment, decode};

/// The history of a group, as `cutover history` prints it; 20 entries by default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct HistoryDocument {
    pub(crate) unit: Unit,
    /// Requests and actions, newest first, in short.
    pub(crate) entries: Vec<HistoryEntry>,
    /// The full records of the requests among them.
    pub(crate) requests: Vec<HistoryRow>,
    /// How many older records are in the artifact store.
    pub(crate) archived: u64,
    /// Whether entries are missing because the artifact store was not read.
    pub(crate) incomplete: bool,
    /// Records that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<Problem>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct HistoryRow {
    /// How long it took, by the coordinator's clock.
    pub(crate) took_ms: Option<u64>,
    #[serde(flatten)]
    pub(crate) record: History,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EntryKind {
    /// A request to deploy a build.
    Deploy,
    /// A request to roll back.
    Rollback,
    /// A recovery by `cutover recover`.
    Recover,
    /// Another action, for example a freeze.
    #[serde(untagged)]
    Action(ActionKind),
}

impl EntryKind {
    /// The word as users read it, the same as in JSON.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Rollback => "rollback",
            Self::Recover => "recover",
            Self::Action(action) => action.as_str(),
        }
    }
}

/// One entry of the history: a request or another action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct HistoryEntry {
    pub(crate) kind: EntryKind,
    /// Its position in the order of all requests and actions.
    #[serde(flatten)]
    pub(crate) epoch: Epoch,
    /// When the request started, or the action was done.
    #[schemars(with = "Time")]
    pub(crate) at: Timestamp,
    /// The target: a build, a node, an epoch; empty for the group itself.
    pub(crate) what: String,
    /// The outcome of a request; none while it runs, and for an action.
    pub(crate) outcome: Option<Outcome>,
    /// The author, as claimed.
    pub(crate) by: String,
    /// The author, if an agent verified the identity.
    pub(crate) verified: Option<Identity>,
    /// The channel: cli, api, chat, …
    pub(crate) via: String,
    /// How many nodes took part.
    pub(crate) nodes: Option<usize>,
    /// How long a request took, by the coordinator's clock.
    pub(crate) took_ms: Option<u64>,
    /// What the build changes compared with the one before; none for other entries, and where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) changes: Option<Changes>,
    /// Reason, fault and notes; may be empty.
    pub(crate) remarks: String,
}

/// Selects entries of the history; the default selects all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Only older entries.
    pub(crate) before: Option<Epoch>,
    /// Only entries of this kind.
    pub(crate) kind: Option<EntryKind>,
    /// Only requests with this outcome.
    pub(crate) outcome: Option<Outcome>,
    /// Only entries of this author, as claimed.
    pub(crate) by: Option<String>,
    /// Only entries about this build.
    pub(crate) artifact: Option<ArtifactName>,
}

impl Selection {
    fn matches(&self, line: &HistoryEntry, artifact: Option<&str>) -> bool {
        self.before.is_none_or(|before| line.epoch < before)
            && self.kind.is_none_or(|kind| line.kind == kind)
            && self.outcome.is_none_or(|outcome| line.outcome == Some(outcome))
            && self.by.as_ref().is_none_or(|by| line.by == *by)
            && self.artifact.as_ref().is_none_or(|wanted| artifact == Some(wanted.as_str()))
    }
}

/// A group's history: the records in KV, and those of the archive segments that were read.
#[derive(Clone, Debug, Default)]
pub(crate) struct FullHistory {
    requests: BTreeMap<Epoch, History>,
    actions: BTreeMap<Epoch, Action>,
    archive: Archive,
    /// The objects of the segments that were read.
    known: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl FullHistory {
    /// Reads `history/`, `actions/` and `archive`.
    #[must_use]
    pub(crate) fn read(keys: &UnitKeys, entries: &Entries) -> Self {
        let mut problems = Vec::new();
        Self {
            requests: read_all(entries, &keys.all_history(), &mut problems),
            actions: read_all(entries, &keys.all_actions(), &mut problems),
            archive: read(entries, &keys.archive(), &mut problems).unwrap_or_default(),
            known: BTreeSet::new(),
            problems,
        }
    }

    /// The newest unread segment of the archive that may contain some of the newest `limit` entries of `selection`.
    #[must_use]
    pub(crate) fn next_segment(&self, selection: &Selection, limit: usize) -> Option<&Segment> {
        let may_hold = |segment: &&Segment| selection.before.is_none_or(|before| first(segment) < before);
        let newest = self.unread().filter(may_hold).max_by_key(|segment| last(segment))?;
        let mut epochs: Vec<Epoch> = self.lines(selection).map(|line| line.epoch).collect();
        epochs.sort_unstable();
        // The oldest entry that would be shown. A segment that ends before it cannot change the result.
        let oldest = epochs.iter().rev().nth(limit.checked_sub(1)?);
        oldest.is_none_or(|oldest| *oldest < last(newest)).then_some(newest)
    }

    /// The unread segment of the archive that may contain the record of `epoch`; none if the record is already known.
    #[must_use]
    pub(crate) fn segment_with(&self, epoch: Epoch) -> Option<&Segment> {
        let mut unread = self.unread().filter(|segment| (first(segment)..=last(segment)).contains(&epoch));
        if self.requests.contains_key(&epoch) { None } else { unread.next() }
    }

    /// The record of one request.
    #[must_use]
    pub(crate) fn request(&self, epoch: Epoch) -> Option<&History> {
        self.requests.get(&epoch)
    }

    fn unread(&self) -> impl Iterator<Item = &Segment> {
        self.archive.segments.iter().filter(|segment| !self.known.contains(&segment.object))
    }

    fn lines(&self, selection: &Selection) -> impl Iterator<Item = HistoryEntry> {
        let requests = self.requests.values().map(|record| {
            let artifact = record.artifact.as_ref().map(ArtifactName::as_str);
            (HistoryEntry::from(record), artifact)
        });
        let actions = self.actions.values().map(|action| (HistoryEntry::from(action), Some(action.subject.as_str())));
        let taken = requests.chain(actions).filter(|(line, artifact)| selection.matches(line, *artifact));
        taken.map(|(line, _)| line)
    }

    /// Adds the records of a segment. The caller must have verified the digest of `bytes`.
    pub(crate) fn add(&mut self, segment: &Segment, bytes: &[u8]) {
        self.known.insert(segment.object.clone());
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // Only an action decodes as `Action`; a request lacks its fields.
            if let Ok(action) = decode::<Action>(&segment.object, line) {
                self.actions.entry(action.epoch).or_insert(action);
                continue;
            }
            match decode::<History>(&segment.object, line) {
                Ok(record) => {
                    self.requests.entry(record.epoch).or_insert(record);
                }
                Err(error) => self.problems.push(Problem { key: error.key().to_owned(), problem: error.problem() }),
            }
        }
    }

    /// The newest `limit` entries of `selection`.
    #[must_use]
    pub(crate) fn document(mut self, unit: &Unit, selection: &Selection, limit: usize) -> HistoryDocument {
        let incomplete = self.next_segment(selection, limit).is_some();
        let archived = self.archive.segments.iter().map(|segment| segment.records).sum();
        let mut entries: Vec<HistoryEntry> = self.lines(selection).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.epoch));
        entries.truncate(limit);
        let requests = entries.iter().filter_map(|entry| self.requests.remove(&entry.epoch)).map(HistoryRow::from);
        let requests = requests.collect();
        HistoryDocument { unit: unit.clone(), entries, requests, archived, incomplete, problems: self.problems }
    }
}

fn first(segment: &Segment) -> Epoch {
    segment.first.parse().unwrap_or_default()
}

fn last(segment: &Segment) -> Epoch {
    segment.last.parse().unwrap_or_default()
}

fn took_ms(record: &History) -> Option<u64> {
    let span = record.ended_at?.duration_since(record.started_at);
    u64::try_from(span.as_millis()).ok()
}

impl From<History> for HistoryRow {
    fn from(record: History) -> Self {
        Self { took_ms: took_ms(&record), record }
    }
}

impl From<&History> for HistoryEntry {
    fn from(record: &History) -> Self {
        /// What `cutover recover` writes in place of a request.
        const RECOVER: &str = "cutover recover";
        let left_out = record.left_out.iter().map(|node| format!("without {node}"));
        let parts =
            [record.author.reason.clone(), fault_sentence(record)].into_iter().chain(record.notes.iter().cloned());
        let remarks = parts.chain(left_out).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        let kind = match (record.rollback, record.request.as_str()) {
            (true, _) => EntryKind::Rollback,
            (false, RECOVER) => EntryKind::Recover,
            (false, _) => EntryKind::Deploy,
        };
        Self {
            kind,
            epoch: record.epoch,
            at: record.started_at,
            what: request_target(record),
            outcome: record.outcome,
            by: record.author.by.clone(),
            verified: record.verified.clone(),
            via: record.author.via.clone(),
            nodes: Some(record.nodes.len()),
            took_ms: took_ms(record),
            changes: record.changes.clone(),
            remarks,
        }
    }
}

impl From<&Action> for HistoryEntry {
    fn from(action: &Action) -> Self {
        let until = action.until.map(|until| format!("until {}", moment(until)));
        let parts = [Some(action.author.reason.clone()), until].into_iter().flatten().filter(|part| !part.is_empty());
        Self {
            kind: EntryKind::Action(action.action),
            epoch: action.epoch,
            at: action.at,
            what: action.subject.clone(),
            outcome: None,
            by: action.author.by.clone(),
            verified: action.verified.clone(),
            via: action.author.via.clone(),
            nodes: None,
            took_ms: None,
            changes: action.changes.clone(),
            remarks: parts.collect::<Vec<_>>().join("; "),
        }
    }
}

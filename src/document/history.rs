//! `cutover history`: every request of a unit, and what was done besides, newest first.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Entries, Problem, moment, read, read_all, what_stopped, what_was_asked};
use crate::protocol::ids::{ArtifactName, Epoch, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Action, ActionKind, Archive, History, Identity, Outcome, Segment, decode};

/// The newest of a unit's past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryDocument {
    /// The unit.
    pub unit: Unit,
    /// Requests and actions, newest first: one line of each.
    pub entries: Vec<HistoryEntry>,
    /// Those of them that are requests, whole.
    pub requests: Vec<HistoryRow>,
    /// How many older records lie in the artifact store.
    pub archived: u64,
    /// Whether some of those asked for lie there and were not read.
    pub incomplete: bool,
    /// Records that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryRow {
    /// From when it was taken until it ended, by the coordinator's clock.
    pub took_ms: Option<u64>,
    /// The record.
    #[serde(flatten)]
    pub record: History,
}

/// What a line of the past is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A request for a build.
    Deploy,
    /// A request for the way back.
    Rollback,
    /// What `cutover recover` wrote.
    Recover,
    /// Something that was done besides.
    #[serde(untagged)]
    Action(ActionKind),
}

impl EntryKind {
    /// The word as users read it, the same as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Rollback => "rollback",
            Self::Recover => "recover",
            Self::Action(action) => action.as_str(),
        }
    }
}

/// One line of the past: a request, or something else that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// What it is.
    pub kind: EntryKind,
    /// Where it stands in the order of everything that was done.
    #[serde(flatten)]
    pub epoch: Epoch,
    /// When it was taken or done.
    pub at: Timestamp,
    /// A build, a node, an epoch; empty: the group.
    pub what: String,
    /// How a request ended; none: it runs, or is no request.
    pub outcome: Option<Outcome>,
    /// Who says to have done it.
    pub by: String,
    /// Who it was, where an agent vouches for it.
    pub verified: Option<Identity>,
    /// Through what.
    pub via: String,
    /// How many nodes took part.
    pub nodes: Option<usize>,
    /// How long a request took, by the coordinator's clock.
    pub took_ms: Option<u64>,
    /// Why, what stopped it, and what is worth knowing; may be empty.
    pub remarks: String,
}

impl HistoryDocument {
    /// Builds the document from `history/`, `actions/` and `archive`, with at most `limit` lines.
    #[must_use]
    pub fn build(unit: &Unit, keys: &UnitKeys, entries: &Entries, limit: usize) -> Self {
        Past::read(keys, entries).document(unit, &Selection::default(), limit)
    }
}

/// Which lines of a unit's past are asked for; by default all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only what is older.
    pub before: Option<Epoch>,
    /// Only lines of this kind.
    pub kind: Option<EntryKind>,
    /// Only requests that ended so.
    pub outcome: Option<Outcome>,
    /// Only what these say to have done.
    pub by: Option<String>,
    /// Only what was done with this build.
    pub artifact: Option<ArtifactName>,
}

impl Selection {
    fn takes(&self, line: &HistoryEntry, artifact: Option<&str>) -> bool {
        self.before.is_none_or(|before| line.epoch < before)
            && self.kind.is_none_or(|kind| line.kind == kind)
            && self.outcome.is_none_or(|outcome| line.outcome == Some(outcome))
            && self.by.as_ref().is_none_or(|by| line.by == *by)
            && self.artifact.as_ref().is_none_or(|wanted| artifact == Some(wanted.as_str()))
    }
}

/// What is known of a unit's past: from KV, and as much of the archive as was read.
#[derive(Clone, Debug, Default)]
pub struct Past {
    requests: BTreeMap<Epoch, History>,
    actions: BTreeMap<Epoch, Action>,
    archive: Archive,
    /// Segments that were read.
    known: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Past {
    /// From what stands under `history/`, `actions/` and in `archive`.
    #[must_use]
    pub fn read(keys: &UnitKeys, entries: &Entries) -> Self {
        let mut problems = Vec::new();
        Self {
            requests: read_all(entries, &keys.all_history(), &mut problems),
            actions: read_all(entries, &keys.all_actions(), &mut problems),
            archive: read(entries, &keys.archive(), &mut problems).unwrap_or_default(),
            known: BTreeSet::new(),
            problems,
        }
    }

    /// The newest segment of the archive that may hold some of the newest `limit` lines that `selection` takes, and was
    /// not read yet.
    #[must_use]
    pub fn lacks(&self, selection: &Selection, limit: usize) -> Option<&Segment> {
        let may_hold = |segment: &&Segment| selection.before.is_none_or(|before| first(segment) < before);
        let newest = self.unread().filter(may_hold).max_by_key(|segment| last(segment))?;
        let mut epochs: Vec<Epoch> = self.lines(selection).map(|line| line.epoch).collect();
        epochs.sort_unstable();
        // The oldest line that is shown: what lies in the archive is older than it, or belongs before it.
        let oldest = epochs.iter().rev().nth(limit.checked_sub(1)?);
        oldest.is_none_or(|oldest| *oldest < last(newest)).then_some(newest)
    }

    /// The segment of the archive that may hold this epoch's record, where that is not known yet.
    #[must_use]
    pub fn lacks_record(&self, epoch: Epoch) -> Option<&Segment> {
        let mut unread = self.unread().filter(|segment| (first(segment)..=last(segment)).contains(&epoch));
        if self.requests.contains_key(&epoch) { None } else { unread.next() }
    }

    /// The record of one request.
    #[must_use]
    pub fn request(&self, epoch: Epoch) -> Option<&History> {
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
        let taken = requests.chain(actions).filter(|(line, artifact)| selection.takes(line, *artifact));
        taken.map(|(line, _)| line)
    }

    /// Takes in a segment's bytes, whose digest the caller has compared.
    pub fn add(&mut self, segment: &Segment, bytes: &[u8]) {
        self.known.insert(segment.object.clone());
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // What only an action has tells the two apart.
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

    /// The newest `limit` lines that `selection` takes.
    #[must_use]
    pub fn document(mut self, unit: &Unit, selection: &Selection, limit: usize) -> HistoryDocument {
        let incomplete = self.lacks(selection, limit).is_some();
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
        /// What `cutover recover` writes for the request that it is not.
        const RECOVER: &str = "cutover recover";
        let left_out = record.left_out.iter().map(|node| format!("without {node}"));
        let parts = [record.why.clone(), what_stopped(record)].into_iter().chain(record.notes.iter().cloned());
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
            what: what_was_asked(record),
            outcome: record.outcome,
            by: record.by.clone(),
            verified: record.verified.clone(),
            via: record.via.clone(),
            nodes: Some(record.nodes.len()),
            took_ms: took_ms(record),
            remarks,
        }
    }
}

impl From<&Action> for HistoryEntry {
    fn from(action: &Action) -> Self {
        let until = action.until.map(|until| format!("until {}", moment(until)));
        let parts = [Some(action.why.clone()), until].into_iter().flatten().filter(|part| !part.is_empty());
        Self {
            kind: EntryKind::Action(action.action),
            epoch: action.epoch,
            at: action.at,
            what: action.subject.clone(),
            outcome: None,
            by: action.by.clone(),
            verified: action.verified.clone(),
            via: action.via.clone(),
            nodes: None,
            took_ms: None,
            remarks: parts.collect::<Vec<_>>().join("; "),
        }
    }
}

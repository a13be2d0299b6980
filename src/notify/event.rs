//! Events: each is made from one record in Consul.
//!
//! An event's id is a digest of its kind and of what identifies its record, such as group and epoch; neither the text
//! nor the time of sending is part of it. So every coordinator that builds the event from the same record gets the same
//! id, and receivers can drop repeats, also after an upgrade that changes the text.

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::config::{EventKind, compare_link};
use crate::document::{changes_line, counted, fault_sentence, moment};
use crate::protocol::ids::{ArtifactName, Branch, Commit, Epoch, ModifyIndex, Node, Unit};
use crate::protocol::record::{Action, ActionKind, Changes, History, Identity, Outcome, Step, Summary};

/// How many hex digits of its digest an event's id has: 128 bits, like a UUID.
const ID_DIGITS: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    #[serde(rename = "type")]
    pub(crate) kind: EventKind,
    /// Derived from the record, so that a repeat has the same id. Contains no dots, which separate the signed parts of a
    /// webhook.
    pub(crate) id: String,
    /// The time in its record.
    pub(crate) timestamp: Timestamp,
    /// Groups events that belong together: those of one deploy, one build, or one node.
    #[serde(skip)]
    pub(crate) thread: String,
    pub(crate) data: Facts,
}

/// The details of an event. Empty fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    /// One sentence that is complete without the other fields.
    pub(crate) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Unit>,
    /// The deploy's epoch, `512` or `1.512`; for an action the index of the written key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) artifact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) branch: Option<Branch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) commit: Option<Commit>,
    /// Subject and author of the commit.
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// What the build changes compared with the one before, in short: at most three commits, and how many files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) changes: Option<Changes>,
    /// The build that was committed before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<ArtifactName>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) rollback: bool,
    /// The author, self-reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    /// The author, if an agent verified the identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<Identity>,
    /// How the request was made, for example `cli` or `api`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) via: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// The end of a freeze.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Outcome>,
    /// The node that failed or drifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Node>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<Step>,
    /// Why it failed, or how the node drifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The last output of the hook that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<String>,
    /// How many nodes took part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nodes: Option<usize>,
    /// A link that compares the build's commit with the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compare: Option<String>,
    /// A link to the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
}

impl Event {
    /// The start of a deploy; none for a request that was refused or replaced.
    #[must_use]
    pub(crate) fn started(history: &History) -> Option<Self> {
        if matches!(history.outcome, Some(Outcome::Refused | Outcome::Superseded)) {
            return None;
        }
        let (unit, author, subject) = (&history.unit, author(history), subject(&history.summary));
        let changes = changes(history.changes.as_ref());
        let text = match (&history.artifact, history.rollback) {
            (Some(artifact), true) => format!("{author} is rolling back {unit} to {artifact}{subject}{changes}"),
            (Some(artifact), false) => format!("{author} is deploying {artifact}{subject} to {unit}{changes}"),
            (None, _) => format!("{unit}: {} by {author} has started", request_words(history)),
        };
        let facts = Facts { text, ..of_history(history) };
        Some(Self::of_deploy(EventKind::DeployStarted, history, history.started_at, facts))
    }

    /// The end of a deploy; none while it runs, and for a request that was replaced.
    #[must_use]
    pub(crate) fn ended(history: &History) -> Option<Self> {
        let (unit, request, author) = (&history.unit, request_words(history), author(history));
        let why = match fault_sentence(history) {
            reason if reason.is_empty() => reason,
            reason => format!(": {reason}"),
        };
        let (kind, text) = match history.outcome? {
            Outcome::Superseded => return None,
            Outcome::Done => {
                let artifact = history.artifact.as_ref().map_or("the build that runs already", ArtifactName::as_str);
                let nodes = Some(history.nodes.len()).filter(|nodes| *nodes > 0);
                let nodes = nodes.map(|nodes| counted(nodes, "node", "nodes"));
                let was = history.from.as_ref().map(|from| format!("was {}", from.artifact));
                let changes = history.changes.as_ref().map(changes_line);
                let details = nodes.into_iter().chain(was).chain(changes).collect::<Vec<_>>().join(", ");
                let details = if details.is_empty() { details } else { format!(": {details}") };
                let subject = subject(&history.summary);
                let text = if history.rollback {
                    format!("{author} rolled back {unit} to {artifact}{subject}{details}")
                } else {
                    format!("{author} deployed {artifact}{subject} to {unit}{details}")
                };
                (EventKind::DeployDone, text)
            }
            Outcome::Refused => (EventKind::DeployRefused, format!("{unit}: {request} by {author} was refused{why}")),
            Outcome::Aborted => {
                let text = format!("{unit}: {request} by {author} was aborted, no node has switched{why}");
                (EventKind::DeployAborted, text)
            }
            Outcome::Reverted => {
                let from = history.from.as_ref().map_or("the previous state", |from| from.artifact.as_str());
                let text = format!("{unit} was reverted to {from}: {request} by {author} failed{why}");
                (EventKind::DeployRolledBack, text)
            }
            Outcome::Failed => {
                let text = format!("{unit} was reverted, but not on every node: {request} by {author} failed{why}");
                (EventKind::DeployRolledBack, text)
            }
        };
        let facts = Facts { text, nodes: Some(history.nodes.len()).filter(|n| *n > 0), ..of_history(history) };
        Some(Self::of_deploy(kind, history, history.ended_at.unwrap_or(history.started_at), facts))
    }

    /// An action other than a deploy; none for actions without an event.
    #[must_use]
    pub(crate) fn acted(action: &Action) -> Option<Self> {
        let (unit, subject) = (&action.unit, &action.subject);
        let who = action.verified.as_ref().map_or(action.author.by.as_str(), |identity| identity.name.as_str());
        let why = if action.author.reason.is_empty() { String::new() } else { format!(": {}", action.author.reason) };
        let mut facts = Facts {
            unit: Some(unit.clone()),
            epoch: Some(action.epoch.to_string()),
            by: Some(action.author.by.clone()),
            verified: action.verified.clone(),
            via: Some(action.author.via.clone()),
            why: Some(action.author.reason.clone()).filter(|why| !why.is_empty()),
            until: action.until,
            ..Facts::default()
        };
        let (kind, thread) = match action.action {
            ActionKind::Publish => {
                let says = self::subject(&action.summary);
                let changes = changes(action.changes.as_ref());
                facts.text = format!("{who} published {subject}{says} of {}{changes}", unit.app);
                facts.summary.clone_from(&action.summary);
                facts.changes.clone_from(&action.changes);
                facts.artifact = Some(subject.clone());
                (EventKind::BuildPublished, format!("build:{}:{subject}", unit.app))
            }
            ActionKind::Freeze => {
                let until = action.until.map_or_else(String::new, |until| format!(" until {}", moment(until)));
                facts.text = format!("{who} froze {unit}{until}{why}");
                (EventKind::GroupFrozen, format!("freeze:{unit}"))
            }
            ActionKind::Unfreeze => {
                facts.text = format!("{who} unfroze {unit}{why}");
                (EventKind::GroupUnfrozen, format!("freeze:{unit}"))
            }
            ActionKind::Abort
            | ActionKind::Forget
            | ActionKind::MarkBad
            | ActionKind::MarkGood
            | ActionKind::Repair => return None,
        };
        // Several groups of an app report the same build; the id must be the same for all of them.
        let id = match kind {
            EventKind::BuildPublished => id(kind, &[unit.app.as_str(), subject]),
            _ => id(kind, &[&unit.to_string(), &action.epoch.to_string()]),
        };
        Some(Self { kind, id, timestamp: action.at, thread, data: facts })
    }

    /// A node drifts. The id stays the same until the drift changes or another release is committed.
    #[must_use]
    pub(crate) fn drift(unit: &Unit, node: &Node, committed: Option<Epoch>, what: &str, at: Timestamp) -> Self {
        let kind = EventKind::NodeDrift;
        let epoch = committed.map(|epoch| epoch.to_string());
        let data = Facts {
            text: format!("{unit}: {node} has drifted: {what}"),
            unit: Some(unit.clone()),
            epoch: epoch.clone(),
            node: Some(node.clone()),
            reason: Some(what.to_owned()),
            ..Facts::default()
        };
        let id = id(kind, &[&unit.to_string(), node.as_str(), epoch.as_deref().unwrap_or_default(), what]);
        Self { kind, id, timestamp: at, thread: format!("node:{unit}:{node}"), data }
    }

    /// A group has had no coordinator since the lock was released at index `released_at`.
    #[must_use]
    pub(crate) fn coordinator_missing(unit: &Unit, released_at: ModifyIndex, sender: &Node, at: Timestamp) -> Self {
        let kind = EventKind::CoordinatorMissing;
        let text = format!(
            "{unit}: no agent coordinates, so requests wait; start an agent with coordinate = true (reported by {sender})"
        );
        let (id, thread) = (id(kind, &[&unit.to_string(), &released_at.to_string()]), format!("coordinator:{unit}"));
        let data = Facts { text, unit: Some(unit.clone()), ..Facts::default() };
        Self { kind, id, timestamp: at, thread, data }
    }

    /// The event of `cutover notify test`. Each has a new `id`.
    #[must_use]
    pub(crate) fn test(receiver: &str, id: String, at: Timestamp) -> Self {
        let text = format!("Test message of Cutover: the receiver {receiver} can be reached.");
        let data = Facts { text, ..Facts::default() };
        Self { kind: EventKind::Test, id, timestamp: at, thread: format!("test:{receiver}"), data }
    }

    /// The event with a link to the page at `public_url`.
    #[must_use]
    pub(crate) fn linked(mut self, public_url: Option<&str>) -> Self {
        self.data.link = public_url.map(|url| match &self.data.unit {
            Some(unit) => format!("{url}/units/{unit}"),
            None => format!("{url}/"),
        });
        self
    }

    /// The event with a link that compares the commit `from` with the build's; `form` is `compare_url`.
    #[must_use]
    pub(crate) fn compared(mut self, form: Option<&str>, from: &Commit) -> Self {
        let (unit, commit) = (&self.data.unit, &self.data.commit);
        let link = unit.as_ref().zip(commit.as_ref());
        self.data.compare = link.and_then(|(unit, to)| compare_link(form, &unit.app, from, to));
        self
    }

    fn of_deploy(kind: EventKind, history: &History, timestamp: Timestamp, data: Facts) -> Self {
        let (unit, epoch) = (history.unit.to_string(), history.epoch.to_string());
        Self { kind, id: id(kind, &[&unit, &epoch]), timestamp, thread: format!("deploy:{unit}:{epoch}"), data }
    }
}

fn id(kind: EventKind, parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    digest.update(kind.as_str());
    for part in parts {
        // Each part is preceded by its length, so that different lists of parts never have the same bytes.
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    let hex = hex::encode(digest.finalize());
    format!("evt_{}", hex.get(..ID_DIGITS).unwrap_or(&hex))
}

fn of_history(history: &History) -> Facts {
    let fault = history.fault.as_ref();
    Facts {
        unit: Some(history.unit.clone()),
        epoch: Some(history.epoch.to_string()),
        artifact: history.artifact.as_ref().map(ToString::to_string),
        branch: history.branch.clone(),
        commit: history.commit.clone(),
        summary: history.summary.clone(),
        changes: history.changes.clone(),
        from: history.from.as_ref().map(|from| from.artifact.clone()),
        rollback: history.rollback,
        by: Some(history.author.by.clone()),
        verified: history.verified.clone(),
        via: Some(history.author.via.clone()),
        why: Some(history.author.reason.clone()).filter(|why| !why.is_empty()),
        outcome: history.outcome,
        node: history.node.clone(),
        step: fault.map(|fault| fault.step),
        reason: fault.map(|fault| fault.reason.clone()),
        output: fault.map(|fault| fault.output.clone()).filter(|output| !output.is_empty()),
        ..Facts::default()
    }
}

/// ` (“Fix the till” by Ann)`, if the build record has them.
fn subject(summary: &Summary) -> String {
    if summary.is_empty() { String::new() } else { format!(" ({summary})") }
}

/// `: 5 commits, 12 files changed`, if the record has them.
fn changes(changes: Option<&Changes>) -> String {
    changes.map_or_else(String::new, |changes| format!(": {}", changes_line(changes)))
}

/// The author: verified, else self-reported.
fn author(history: &History) -> &str {
    history.verified.as_ref().map_or(history.author.by.as_str(), |identity| identity.name.as_str())
}

fn request_words(history: &History) -> String {
    match (&history.artifact, history.rollback) {
        (Some(artifact), true) => format!("the rollback to {artifact}"),
        (Some(artifact), false) => format!("the deploy of {artifact}"),
        (None, true) => "a rollback".to_owned(),
        (None, false) => "a request".to_owned(),
    }
}

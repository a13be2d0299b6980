//! What is told: one event, made from a record in Consul.

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::config::{EventKind, compare_link};
use crate::document::{counted, moment};
use crate::protocol::ids::{ArtifactName, Branch, Commit, Epoch, ModifyIndex, Node, Unit};
use crate::protocol::record::{Action, ActionKind, History, Identity, Outcome, Step, Summary};

/// How many hex digits of its digest an event's id has: 128 bits, as a UUID.
const ID_DIGITS: usize = 32;

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// Follows from what it tells, so that a repeat is known as one. Without dots, as signatures need it.
    pub id: String,
    /// When it happened, as its record says.
    pub timestamp: Timestamp,
    /// What belongs together has the same: all events of one deploy, of one build, of one node.
    #[serde(skip)]
    pub thread: String,
    /// What there is to know.
    pub data: Facts,
}

/// What there is to know of an event; what it does not have is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// One sentence that says it all.
    pub text: String,
    /// The unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// The deploy's epoch, `512` or `1.512`; or the index of the key that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// The build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// The build's branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<Branch>,
    /// The build's commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
    /// What the commit says.
    #[serde(flatten)]
    pub summary: Summary,
    /// What was committed before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<ArtifactName>,
    /// Whether it is a rollback that somebody has asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rollback: bool,
    /// Who says to have done it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Who it was, where an agent vouches for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Identity>,
    /// Through what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Why they did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Until when a freeze holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// How a deploy ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The node that stopped it, or that is concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// The step that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// Why it failed, or what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The last output of the hook that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// How many nodes took part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<usize>,
    /// Where the build's commit is compared with the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare: Option<String>,
    /// Where to look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

impl Event {
    /// A deploy has begun; none for a request that never came to that.
    #[must_use]
    pub fn started(history: &History) -> Option<Self> {
        if matches!(history.outcome, Some(Outcome::Refused | Outcome::Superseded)) {
            return None;
        }
        let says = says(&history.summary);
        let text = format!("{}: {} by {} has begun{says}", history.unit, wanted(history), who(history));
        let facts = Facts { text, ..of_history(history) };
        Some(Self::of_deploy(EventKind::DeployStarted, history, history.started_at, facts))
    }

    /// A deploy has ended; none while it runs, and for a request that a newer one replaced.
    #[must_use]
    pub fn ended(history: &History) -> Option<Self> {
        let (unit, what, who) = (&history.unit, wanted(history), who(history));
        let why = fault(history);
        let (kind, text) = match history.outcome? {
            Outcome::Superseded => return None,
            Outcome::Done => {
                let artifact = history.artifact.as_ref().map_or("what it did", ArtifactName::as_str);
                let nodes = history.nodes.len();
                let on = if nodes == 0 { String::new() } else { format!(" on {}", counted(nodes, "node", "nodes")) };
                let says = says(&history.summary);
                (EventKind::DeployDone, format!("{unit} runs {artifact}{on}: {what} by {who} is done{says}"))
            }
            Outcome::Refused => (EventKind::DeployRefused, format!("{unit}: {what} by {who} was refused{why}")),
            Outcome::Aborted => {
                let text = format!("{unit}: {what} by {who} was aborted, and nobody has switched{why}");
                (EventKind::DeployAborted, text)
            }
            Outcome::Reverted => {
                let from = history.from.as_ref().map_or("what it ran before", |from| from.artifact.as_str());
                let text = format!("{unit} was rolled back to {from}: {what} by {who} failed{why}");
                (EventKind::DeployRolledBack, text)
            }
            Outcome::Failed => {
                let text =
                    format!("{unit} was rolled back, and not every node could follow: {what} by {who} failed{why}");
                (EventKind::DeployRolledBack, text)
            }
        };
        let facts = Facts { text, nodes: Some(history.nodes.len()).filter(|n| *n > 0), ..of_history(history) };
        Some(Self::of_deploy(kind, history, history.ended_at.unwrap_or(history.started_at), facts))
    }

    /// Something was done besides a deploy; none for what is not told.
    #[must_use]
    pub fn acted(action: &Action) -> Option<Self> {
        let (unit, subject) = (&action.unit, &action.subject);
        let who = action.verified.as_ref().map_or(action.by.as_str(), |identity| identity.name.as_str());
        let why = if action.why.is_empty() { String::new() } else { format!(": {}", action.why) };
        let mut facts = Facts {
            unit: Some(unit.clone()),
            epoch: Some(action.epoch.to_string()),
            by: Some(action.by.clone()),
            verified: action.verified.clone(),
            via: Some(action.via.clone()),
            why: Some(action.why.clone()).filter(|why| !why.is_empty()),
            until: action.until,
            ..Facts::default()
        };
        let (kind, thread) = match action.action {
            ActionKind::Publish => {
                let says = says(&action.summary);
                facts.text = format!("{}: build {subject} was published by {who}{says}", unit.app);
                facts.summary.clone_from(&action.summary);
                facts.artifact = Some(subject.clone());
                (EventKind::BuildPublished, format!("build:{}:{subject}", unit.app))
            }
            ActionKind::Freeze => {
                let until = action.until.map_or_else(String::new, |until| format!(" until {}", moment(until)));
                facts.text = format!("{unit} is frozen by {who}{until}{why}");
                (EventKind::GroupFrozen, format!("freeze:{unit}"))
            }
            ActionKind::Unfreeze => {
                facts.text = format!("{unit} is no longer frozen, says {who}{why}");
                (EventKind::GroupUnfrozen, format!("freeze:{unit}"))
            }
            ActionKind::Abort
            | ActionKind::Forget
            | ActionKind::MarkBad
            | ActionKind::MarkGood
            | ActionKind::Repair => return None,
        };
        // A build is one, however many groups of its app tell of it.
        let id = match kind {
            EventKind::BuildPublished => id(kind, &[unit.app.as_str(), subject]),
            _ => id(kind, &[&unit.to_string(), &action.epoch.to_string()]),
        };
        Some(Self { kind, id, timestamp: action.at, thread, data: facts })
    }

    /// A node is not what it should be. Until it changes or another release is committed, this is one event.
    #[must_use]
    pub fn drift(unit: &Unit, node: &Node, committed: Option<Epoch>, what: &str, at: Timestamp) -> Self {
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

    /// Nobody coordinates a unit, since the lock was let go at `gap`.
    #[must_use]
    pub fn uncoordinated(unit: &Unit, gap: ModifyIndex, teller: &Node, at: Timestamp) -> Self {
        let kind = EventKind::CoordinatorMissing;
        let text = format!(
            "{unit}: nobody coordinates, so no request is taken; is an agent with coordinate = true running? ({teller} \
             tells this)"
        );
        let (id, thread) = (id(kind, &[&unit.to_string(), &gap.to_string()]), format!("coordinator:{unit}"));
        let data = Facts { text, unit: Some(unit.clone()), ..Facts::default() };
        Self { kind, id, timestamp: at, thread, data }
    }

    /// What `cutover notify test` sends; `id` is new for each.
    #[must_use]
    pub fn test(receiver: &str, id: String, at: Timestamp) -> Self {
        let text = format!("This is a test of the receiver {receiver}: Cutover can reach it.");
        let data = Facts { text, ..Facts::default() };
        Self { kind: EventKind::Test, id, timestamp: at, thread: format!("test:{receiver}"), data }
    }

    /// The same with where to look, on the page at `public_url`.
    #[must_use]
    pub fn linked(mut self, public_url: Option<&str>) -> Self {
        self.data.link = public_url.map(|url| match &self.data.unit {
            Some(unit) => format!("{url}/units/{unit}"),
            None => format!("{url}/"),
        });
        self
    }

    /// The same with where the commit of `from` is compared with the build's, `form` being `compare_url`.
    #[must_use]
    pub fn compared(mut self, form: Option<&str>, from: &Commit) -> Self {
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
        // A length before each, so that no two lists of parts are the same bytes.
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
        from: history.from.as_ref().map(|from| from.artifact.clone()),
        rollback: history.rollback,
        by: Some(history.by.clone()),
        verified: history.verified.clone(),
        via: Some(history.via.clone()),
        why: Some(history.why.clone()).filter(|why| !why.is_empty()),
        outcome: history.outcome,
        node: history.node.clone(),
        step: fault.map(|fault| fault.step),
        reason: fault.map(|fault| fault.reason.clone()),
        output: fault.map(|fault| fault.output.clone()).filter(|output| !output.is_empty()),
        ..Facts::default()
    }
}

/// `: “Fix the till” by Ann`, where the build says so.
fn says(summary: &Summary) -> String {
    if summary.is_empty() { String::new() } else { format!(": {summary}") }
}

/// Who has asked: as an agent vouches for it, else as they say.
fn who(history: &History) -> &str {
    history.verified.as_ref().map_or(history.by.as_str(), |identity| identity.name.as_str())
}

fn wanted(history: &History) -> String {
    match (&history.artifact, history.rollback) {
        (Some(artifact), true) => format!("the rollback to {artifact}"),
        (Some(artifact), false) => format!("the deploy of {artifact}"),
        (None, true) => "a rollback".to_owned(),
        (None, false) => "a request".to_owned(),
    }
}

/// ` (n3, prepare_hook: reason)`, as far as it is known.
fn fault(history: &History) -> String {
    let Some(fault) = &history.fault else { return String::new() };
    let node = history.node.as_ref().map_or_else(String::new, |node| format!("{node}, "));
    format!(" ({node}{}: {})", fault.step.as_str(), fault.reason)
}

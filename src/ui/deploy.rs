//! `/units/<app>/<group>/deploys/<epoch>`: one request, its builds, its phases, and its nodes.

use askama::Template;

use super::denials::Denials;
use super::frame::Frame;
use super::parts::{Badge, Button, By, CommitSummary};
use super::text::{duration, plain};
use super::timeline::{Bar, Timeline};
use super::tone::Tone;
use super::unit::RollbackTarget;
use super::{filters, words};
use crate::document::{DeployDocument, DeployState, changes_sentence, counted, fetching_words};
use crate::protocol::ids::{ArtifactName, Node};
use crate::protocol::record::{Answer, Changes, Fault, History, Outcome, Release, Request, Step, Timings, Wanted};

/// The page of one request.
#[derive(Debug, Template)]
#[template(path = "deploy.html")]
pub(crate) struct DeployPage {
    pub(crate) frame: Frame,
    pub(crate) document: DeployDocument,
    /// The committed release; none before the first deploy, or if the barrier cannot be read.
    pub(crate) current: Option<Release>,
    /// The link that compares the commits before and after.
    pub(crate) compare: Option<String>,
    pub(crate) rollback_target: RollbackTarget,
    pub(crate) denials: Denials,
}

struct Line<'a> {
    node: &'a Node,
    badge: Badge<'static>,
    took: Timings,
    answer: Option<Answer>,
    fault: Option<&'a Fault>,
    /// How far the node is with its download, in words.
    fetching: Option<String>,
}

impl DeployPage {
    fn asked_for(record: &History) -> String {
        match Request::parse(record.request.as_bytes()).map(|request| request.wanted) {
            Ok(Wanted::Deploy(selector)) => selector.to_string(),
            Ok(Wanted::Rollback(None)) => "rollback".to_owned(),
            Ok(Wanted::Rollback(Some(artifact))) => format!("rollback to {artifact}"),
            Err(_) => record.request.clone(),
        }
    }

    fn runs(&self) -> bool {
        self.document.fate == DeployState::Running
    }

    fn badge(&self) -> Badge<'static> {
        match self.document.phase.filter(|_| self.runs()) {
            Some(phase) => words::phase(phase).into(),
            None => words::deploy_state(self.document.fate).into(),
        }
    }

    fn lines(&self) -> Vec<Line<'_>> {
        let DeployDocument { phase, record: Some(record), lost, fetching, .. } = &self.document else {
            return Vec::new();
        };
        let lines = record.nodes.iter().map(|(node, outcome)| {
            let step = words::step(*phase, outcome.answer);
            let badge = if lost.binary_search(node).is_ok() { ("lost", Tone::Bad) } else { step }.into();
            // A node's answer after the revert overwrites the one with the fault. The record still has the fault.
            let stopped = record.fault.as_ref().filter(|_| record.node.as_ref() == Some(node));
            let fault = outcome.fault.as_ref().or(stopped);
            let fetching = fetching.get(node).map(fetching_words);
            Line { node, badge, took: outcome.took, answer: outcome.answer, fault, fetching }
        });
        lines.collect()
    }

    fn timeline(&self, lines: &[Line<'_>]) -> Option<Timeline> {
        let record = self.document.record.as_ref()?;
        let stopped = |line: &Line<'_>| record.reverted_at.is_some() && record.node.as_ref() == Some(line.node);
        let bar = |line: &Line<'_>| Bar { answer: line.answer, took: line.took, stopped: stopped(line) };
        let bars: Vec<Bar> = lines.iter().map(bar).collect();
        Timeline::of(record, &bars, self.document.usual, self.frame.now)
    }

    /// The duration, and the usual duration after a success.
    fn took(&self) -> Option<String> {
        let record = self.document.record.as_ref()?;
        let took = u64::try_from(record.ended_at?.duration_since(record.started_at).as_millis()).ok()?;
        let usual = self.document.usual.filter(|_| record.outcome == Some(Outcome::Done));
        let usual = usual.map_or_else(String::new, |usual| {
            let (one, many) = if record.rollback {
                ("earlier rollback", "earlier rollbacks")
            } else {
                ("earlier deploy", "earlier deploys")
            };
            format!("; usually {} (median of {})", duration(usual.took_ms), counted(usual.of, one, many))
        });
        Some(format!("{}{usual}", duration(took)))
    }

    /// The faults with their output. The fault that ended the deploy comes first.
    fn outputs<'a>(&'a self, lines: &[Line<'a>]) -> Vec<(Option<&'a Node>, &'a Fault)> {
        let mut found: Vec<(Option<&Node>, &Fault)> = Vec::new();
        if let Some(record) = &self.document.record
            && let Some(fault) = &record.fault
        {
            found.push((record.node.as_ref(), fault));
        }
        let stopped = self.document.record.as_ref().and_then(|record| record.node.as_ref());
        let others = lines.iter().filter(|line| Some(line.node) != stopped);
        found.extend(others.filter_map(|line| Some((Some(line.node), line.fault?))));
        found
    }

    /// What to do next after a failure.
    fn next_step(record: &History) -> Option<&'static str> {
        let is_requested = record.fault.as_ref().is_some_and(|fault| fault.step == Step::Abort);
        match record.outcome? {
            Outcome::Aborted | Outcome::Reverted if is_requested => {
                Some("Aborted on request. Every node runs what it ran before. There is nothing to fix.")
            }
            Outcome::Done | Outcome::Superseded => None,
            Outcome::Refused => Some("The deploy did not start. Fix the cause above, then retry."),
            Outcome::Aborted => Some("No node switched: every node runs what it ran before. Fix the node, then retry."),
            Outcome::Reverted => Some(
                "Every node runs what it ran before. Fix the build or the node. Mark the build bad if it is at fault.",
            ),
            Outcome::Failed => Some(
                "Some nodes could not revert: fix the nodes shown as stuck below. `cutover node repair` puts `current` right.",
            ),
        }
    }

    fn ships(changes: &Changes) -> String {
        changes_sentence(changes)
    }

    fn abort_button(&self) -> Button<'_> {
        Button::new("abort", words::abort_label(self.document.phase), "danger", self.denials.abort.as_deref())
    }

    fn title(record: &History) -> String {
        let what = crate::document::request_target(record);
        if what.is_empty() { format!("deploy #{}", record.epoch) } else { plain(&what) }
    }

    /// Whether a retry is offered.
    fn can_retry(record: &History) -> bool {
        matches!(record.outcome, Some(Outcome::Refused | Outcome::Aborted | Outcome::Reverted))
    }

    /// The build to offer for a rollback: this deploy's, if it succeeded and another build runs now.
    fn rollback_here<'a>(&'a self, record: &'a History) -> Option<&'a ArtifactName> {
        let current = self.current.as_ref()?;
        let artifact = record.artifact.as_ref()?;
        (record.outcome == Some(Outcome::Done) && current.artifact != *artifact).then_some(artifact)
    }

    /// Whether this deploy made the running release.
    fn is_current(&self) -> bool {
        !self.runs() && self.current.as_ref().is_some_and(|current| current.epoch == self.document.epoch)
    }
}

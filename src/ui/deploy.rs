//! `/units/<app>/<group>/deploys/<epoch>`: one request, from what to what, node by node.

use askama::Template;

use super::frame::Frame;
use super::may::May;
use super::parts::{Badge, Button, By, Says};
use super::text::{duration, plain};
use super::timeline::{Bar, Timeline};
use super::tone::Tone;
use super::unit::WayBack;
use super::{filters, words};
use crate::document::{DeployDocument, Fate, counted};
use crate::protocol::ids::{ArtifactName, Node};
use crate::protocol::record::{Answer, Fault, History, Outcome, Release, Request, Step, Timings, Wanted};

/// One request.
#[derive(Debug, Template)]
#[template(path = "deploy.html")]
pub struct DeployPage {
    /// What every page has.
    pub frame: Frame,
    /// What became of it.
    pub document: DeployDocument,
    /// What every node is to run now; none where nothing is, or that cannot be read.
    pub current: Option<Release>,
    /// Where its commit is compared with the one before.
    pub compare: Option<String>,
    /// Where a rollback would go from here.
    pub way_back: WayBack,
    /// What the caller may do.
    pub may: May,
}

/// One member.
struct Line<'a> {
    node: &'a Node,
    badge: Badge<'static>,
    took: Timings,
    answer: Option<Answer>,
    fault: Option<&'a Fault>,
}

impl DeployPage {
    /// What was typed, without what the request says besides.
    fn asked_for(record: &History) -> String {
        match Request::parse(record.request.as_bytes()).map(|request| request.wanted) {
            Ok(Wanted::Deploy(selector)) => selector.to_string(),
            Ok(Wanted::Rollback(None)) => "the way back".to_owned(),
            Ok(Wanted::Rollback(Some(artifact))) => format!("the way back to {artifact}"),
            Err(_) => record.request.clone(),
        }
    }

    fn runs(&self) -> bool {
        self.document.fate == Fate::Running
    }

    fn badge(&self) -> Badge<'static> {
        match self.document.phase.filter(|_| self.runs()) {
            Some(phase) => words::phase(phase).into(),
            None => words::fate(self.document.fate).into(),
        }
    }

    /// Every member, by name.
    fn lines(&self) -> Vec<Line<'_>> {
        let DeployDocument { phase, record: Some(record), lost, .. } = &self.document else { return Vec::new() };
        let lines = record.nodes.iter().map(|(node, outcome)| {
            let step = words::step(*phase, outcome.answer);
            let badge = if lost.binary_search(node).is_ok() { ("lost", Tone::Bad) } else { step }.into();
            // Going back overwrites the answer that said why: the record still holds it.
            let stopped = record.fault.as_ref().filter(|_| record.node.as_ref() == Some(node));
            let fault = outcome.fault.as_ref().or(stopped);
            Line { node, badge, took: outcome.took, answer: outcome.answer, fault }
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

    /// What it took, and what it takes as a rule.
    fn took(&self) -> Option<String> {
        let record = self.document.record.as_ref()?;
        let took = u64::try_from(record.ended_at?.duration_since(record.started_at).as_millis()).ok()?;
        let usual = self.document.usual.filter(|_| record.outcome == Some(Outcome::Done));
        let usual = usual.map_or_else(String::new, |usual| {
            let (one, many) = if record.rollback { ("rollback", "rollbacks") } else { ("deploy", "deploys") };
            format!("; usually {}, the median of {} before", duration(usual.took_ms), counted(usual.of, one, many))
        });
        Some(format!("{}{usual}", duration(took)))
    }

    /// Hooks' output, by node: that of the node that stopped it first.
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

    /// What to do next, where it did not go well.
    fn next_step(record: &History) -> Option<&'static str> {
        let is_wish = record.fault.as_ref().is_some_and(|fault| fault.step == Step::Abort);
        match record.outcome? {
            Outcome::Aborted | Outcome::Reverted if is_wish => {
                Some("Somebody asked for its end. Every node runs what it ran before, and nothing is to be mended.")
            }
            Outcome::Done | Outcome::Superseded => None,
            Outcome::Refused => Some("Nothing was begun. Mend what the reason names, then ask again."),
            Outcome::Aborted => {
                Some("Nobody switched: every node runs what it ran before. Mend the node, then ask again.")
            }
            Outcome::Reverted => Some(
                "Every node runs what it ran before. Mend the build or the node; a build that is at fault can be marked bad.",
            ),
            Outcome::Failed => Some(
                "Not every node could go back: the nodes below that are stuck need a person. `cutover node repair` puts current right.",
            ),
        }
    }

    fn abort_button(&self) -> Button<'_> {
        Button::new("abort", words::abort(self.document.phase), "danger", self.may.abort.as_deref())
    }

    fn title(record: &History) -> String {
        let what = crate::document::what_was_asked(record);
        if what.is_empty() { format!("epoch {}", record.epoch) } else { plain(&what) }
    }

    /// Whether its build may be asked for again.
    fn again(record: &History) -> bool {
        matches!(record.outcome, Some(Outcome::Refused | Outcome::Aborted | Outcome::Reverted))
    }

    /// The build to which this release leads back, where it was done and something else runs now.
    fn leads_back<'a>(&'a self, record: &'a History) -> Option<&'a ArtifactName> {
        let current = self.current.as_ref()?;
        let artifact = record.artifact.as_ref()?;
        (record.outcome == Some(Outcome::Done) && current.artifact != *artifact).then_some(artifact)
    }

    /// Whether this is what runs now, so that a way back leads from here.
    fn is_current(&self) -> bool {
        !self.runs() && self.current.as_ref().is_some_and(|current| current.epoch == self.document.epoch)
    }
}

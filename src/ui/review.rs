//! `/units/<app>/<group>/review`: what a deploy or rollback would do, and the button that does it.

use askama::Template;

use super::frame::Frame;
use super::may::May;
use super::parts::{Badge, Button, Says};
use super::tone::Tone;
use super::{filters, words};
use crate::document::{AnswerState, DryRunDocument, NodeReply, bytes, counted};
use crate::protocol::ids::{ArtifactName, Unit};
use crate::protocol::record::Step;

/// The request under review, as in the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// A branch, commit or build.
    pub(crate) reference: String,
    /// Whether it is a rollback.
    pub(crate) rollback: bool,
    /// The target of the rollback.
    pub(crate) to: Option<ArtifactName>,
    pub(crate) reason: String,
    /// Whether freeze, bad mark and newer builds are overridden.
    pub(crate) force: bool,
    /// Whether to make a new release of the build that already runs.
    pub(crate) again: bool,
}

/// What the request would do.
#[derive(Clone, Debug)]
pub(crate) enum Review {
    /// The answer of the dry run.
    Known(Box<DryRunDocument>),
    /// The dry run failed.
    Unknown {
        /// What is wrong.
        message: String,
        /// What to do; may be empty.
        hint: String,
    },
}

#[derive(Debug, Template)]
#[template(path = "review.html")]
pub(crate) struct ReviewPage {
    pub(crate) frame: Frame,
    pub(crate) unit: Unit,
    /// The request.
    pub(crate) asked: Asked,
    /// The answer of the dry run.
    pub(crate) review: Review,
    /// The link that compares the commits.
    pub(crate) compare: Option<String>,
    /// What the caller may do.
    pub(crate) may: May,
}

impl ReviewPage {
    /// The button that sends the request; none where the request would be refused.
    fn button<'a>(&'a self, document: &'a DryRunDocument) -> Option<Button<'a>> {
        let to = document.to.as_ref().filter(|_| document.fault.is_none())?;
        let on = match document.nodes.len() {
            0 => format!("{}", self.unit),
            count => format!("{} of {}", counted(count, "node", "nodes"), self.unit),
        };
        let verb = match (self.asked.rollback, document.would_go, self.asked.force) {
            (true, true, _) => format!("Roll back to {} on {on}", to.artifact),
            (true, false, _) => format!("Roll back to {} anyway", to.artifact),
            (false, true, false) => format!("Deploy {} to {on}", to.artifact),
            (false, true, true) => format!("Deploy {} to {on} with force", to.artifact),
            (false, false, _) => format!("Deploy {} anyway", to.artifact),
        };
        let class = if document.would_go && !self.asked.force { "primary" } else { "danger" };
        Some(Button::new("go", verb, class, self.may.deploy.as_deref()))
    }

    /// Whether force would override what blocks the request.
    fn can_force(&self, document: &DryRunDocument) -> bool {
        let step = document.fault.as_ref().map(|fault| fault.step);
        !self.asked.force && matches!(step, Some(Step::Freeze | Step::BadMark | Step::Request))
    }

    /// Whether an automatic deploy could undo a rollback, now or after a freeze ends.
    fn is_unprotected(document: &DryRunDocument) -> bool {
        document.freeze.as_ref().is_none_or(|freeze| freeze.until.is_some())
    }

    /// Whether the build already runs.
    fn is_current(document: &DryRunDocument) -> bool {
        match (&document.from, &document.to) {
            (Some(from), Some(to)) => from.artifact == to.artifact,
            _ => false,
        }
    }

    /// A node's answer in one line.
    fn says(node: &NodeReply) -> String {
        if let Some(finding) = node.first_bad() {
            return format!("{}: {}", finding.about, super::text::plain(&finding.says));
        }
        if node.heard != AnswerState::Answered {
            return "–".to_owned();
        }
        let figure = |name: &str| node.figures.get(name).copied().filter(|count| *count > 0).map(bytes);
        let fetch = figure("fetch_bytes").map(|size| format!("fetches {size}"));
        let unpack = figure("unpack_bytes").map(|size| format!("unpacks {size}"));
        let free = figure("free_bytes").map(|size| format!("{size} free"));
        let ready = match (&fetch, &unpack) {
            (Some(_), _) => None,
            (None, Some(_)) => Some("has the archive".to_owned()),
            (None, None) => Some("ready (unpacked)".to_owned()),
        };
        ready.into_iter().chain(fetch).chain(unpack).chain(free).collect::<Vec<_>>().join(", ")
    }

    fn verdict(node: &NodeReply) -> Badge<'static> {
        match (node.heard, node.first_bad()) {
            (AnswerState::Answered, Some(_)) => ("blocked", Tone::Bad).into(),
            (AnswerState::Answered, None) => ("ready", Tone::Good).into(),
            (heard, _) => words::heard(heard).into(),
        }
    }
}

//! `/units/<app>/<group>/review`: the result of a dry run, and the button that sends the request.

use askama::Template;

use super::denials::Denials;
use super::frame::Frame;
use super::parts::{Badge, Button, CommitSummary};
use super::tone::Tone;
use super::{filters, words};
use crate::document::{
    AnswerState, DryRunDocument, Files, NodeReply, Ships, bytes, changes_sentence, counted, files_line,
};
use crate::protocol::ids::{ArtifactName, Unit};
use crate::protocol::record::{Changes, FileChanges, FileList, Step};

/// The request under review, as in the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReviewedRequest {
    /// A branch, commit or build.
    pub(crate) reference: String,
    pub(crate) rollback: bool,
    /// The target of the rollback; none for a deploy, and for a rollback to the previous build.
    pub(crate) to: Option<ArtifactName>,
    pub(crate) reason: String,
    /// Whether the request overrides a freeze, a bad mark, and a newer unpublished build.
    pub(crate) force: bool,
    /// Whether to make a new release of the build that already runs.
    pub(crate) again: bool,
}

/// The result of the dry run.
#[derive(Clone, Debug)]
pub(crate) enum Review {
    /// The document of the dry run, whether the request is ready or blocked.
    Answered(Box<DryRunDocument>),
    /// The dry run failed.
    Failed {
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
    pub(crate) request: ReviewedRequest,
    pub(crate) review: Review,
    /// The link that compares the commits; none without `compare_url`, or for the same commit.
    pub(crate) compare: Option<String>,
    pub(crate) denials: Denials,
}

impl ReviewPage {
    /// The button that sends the request; none if the request would be refused.
    fn button<'a>(&'a self, document: &'a DryRunDocument) -> Option<Button<'a>> {
        let to = document.to.as_ref().filter(|_| document.fault.is_none())?;
        let on = match document.nodes.len() {
            0 => format!("{}", self.unit),
            count => format!("{} of {}", counted(count, "node", "nodes"), self.unit),
        };
        let verb = match (self.request.rollback, document.would_go, self.request.force) {
            (true, true, _) => format!("Roll back to {} on {on}", to.build.artifact),
            (true, false, _) => format!("Roll back to {} anyway", to.build.artifact),
            (false, true, false) => format!("Deploy {} to {on}", to.build.artifact),
            (false, true, true) => format!("Deploy {} to {on} with force", to.build.artifact),
            (false, false, _) => format!("Deploy {} anyway", to.build.artifact),
        };
        let class = if document.would_go && !self.request.force { "primary" } else { "danger" };
        Some(Button::new("go", verb, class, self.denials.deploy.as_deref()))
    }

    /// Whether the request is blocked by a reason that `force` overrides.
    fn can_force(&self, document: &DryRunDocument) -> bool {
        let step = document.fault.as_ref().map(|fault| fault.step);
        !self.request.force && matches!(step, Some(Step::Freeze | Step::BadMark | Step::Request))
    }

    /// Whether an automatic deploy could undo a rollback, now or after a freeze ends.
    fn is_unprotected(document: &DryRunDocument) -> bool {
        document.freeze.as_ref().is_none_or(|freeze| freeze.until.is_some())
    }

    /// Whether the build already runs.
    fn is_current(document: &DryRunDocument) -> bool {
        match (&document.from, &document.to) {
            (Some(from), Some(to)) => from.artifact == to.build.artifact,
            _ => false,
        }
    }

    /// A node's answer in one line.
    fn details(node: &NodeReply) -> String {
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

    fn commits(ships: &Ships) -> String {
        changes_sentence(&Changes { commits: ships.commits.clone(), files: None })
    }

    fn files(ships: &Ships) -> String {
        match &ships.files {
            Files::Listed { changes } | Files::Counted { changes, .. } => files_line(changes.counts()),
            Files::Unknown { reason } => format!("files unknown: {reason}"),
        }
    }

    /// The files that the coordinator's node listed: `A` is added, `D` removed, `M` changed.
    fn paths(ships: &Ships) -> Vec<String> {
        let Files::Listed { changes: FileChanges { added, removed, changed } } = &ships.files else {
            return Vec::new();
        };
        let lists = [('A', added), ('D', removed), ('M', changed)];
        let marked = |(mark, files): (char, &FileList)| {
            let more = files.count.saturating_sub(files.list.len() as u64);
            let lines = files.list.iter().map(move |path| format!("{mark} {path}")).collect::<Vec<_>>();
            lines.into_iter().chain((more > 0).then(|| format!("{mark} and {more} more")))
        };
        lists.into_iter().flat_map(marked).collect()
    }

    fn verdict(node: &NodeReply) -> Badge<'static> {
        match (node.heard, node.first_bad()) {
            (AnswerState::Answered, Some(_)) => ("blocked", Tone::Bad).into(),
            (AnswerState::Answered, None) => ("ready", Tone::Good).into(),
            (heard, _) => words::answer_state(heard).into(),
        }
    }
}

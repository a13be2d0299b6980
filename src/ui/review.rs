//! `/units/<app>/<group>/review`: what a deploy or rollback would do, and the button that does it.

use askama::Template;

use super::frame::Frame;
use super::may::May;
use super::parts::{Badge, Button, Says};
use super::tone::Tone;
use super::{filters, words};
use crate::document::{AskedNode, DryRunDocument, Heard, bytes, counted};
use crate::protocol::ids::{ArtifactName, Unit};
use crate::protocol::record::Step;

/// What was asked for, as it stands in the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// A branch, commit or build.
    pub reference: String,
    /// Whether it is a rollback.
    pub rollback: bool,
    /// Where that is to go.
    pub to: Option<ArtifactName>,
    /// Why.
    pub reason: String,
    /// Whether freeze, bad mark and newer builds are overridden.
    pub force: bool,
    /// Whether what runs already is released anew.
    pub again: bool,
}

/// What it would do.
#[derive(Clone, Debug)]
pub enum Review {
    /// As far as can be told.
    Told(Box<DryRunDocument>),
    /// It cannot be told: what is wrong, and how to mend it.
    Untold(String, String),
}

/// The review.
#[derive(Debug, Template)]
#[template(path = "review.html")]
pub struct ReviewPage {
    /// What every page has.
    pub frame: Frame,
    /// The unit.
    pub unit: Unit,
    /// What was asked for.
    pub asked: Asked,
    /// What it would do.
    pub review: Review,
    /// Where the commits are compared.
    pub compare: Option<String>,
    /// What the caller may do.
    pub may: May,
}

impl ReviewPage {
    /// What goes on, if the request would not be refused as it is: the verdict says why it would.
    fn button<'a>(&'a self, document: &'a DryRunDocument) -> Option<Button<'a>> {
        let to = document.to.as_ref().filter(|_| document.fault.is_none())?;
        let on = match document.nodes.len() {
            0 => format!("{}", self.unit),
            count => format!("{} of {}", counted(count, "node", "nodes"), self.unit),
        };
        let verb = match (self.asked.rollback, document.would_go, self.asked.force) {
            (true, true, _) => format!("Roll back to {} on {on}", to.artifact),
            (true, false, _) => format!("Roll back to {} all the same", to.artifact),
            (false, true, false) => format!("Deploy {} to {on}", to.artifact),
            (false, true, true) => format!("Deploy {} to {on}, overriding", to.artifact),
            (false, false, _) => format!("Deploy {} all the same", to.artifact),
        };
        let class = if document.would_go && !self.asked.force { "primary" } else { "danger" };
        Some(Button::new("go", verb, class, self.may.deploy.as_deref()))
    }

    /// Whether asking by force would override what is in the way.
    fn can_force(&self, document: &DryRunDocument) -> bool {
        let step = document.fault.as_ref().map(|fault| fault.step);
        !self.asked.force && matches!(step, Some(Step::Freeze | Step::BadMark | Step::Request))
    }

    /// Whether an automatic deploy could undo a rollback, now or when a freeze is over.
    fn is_unprotected(document: &DryRunDocument) -> bool {
        document.freeze.as_ref().is_none_or(|freeze| freeze.until.is_some())
    }

    /// Whether it runs already.
    fn is_current(document: &DryRunDocument) -> bool {
        match (&document.from, &document.to) {
            (Some(from), Some(to)) => from.artifact == to.artifact,
            _ => false,
        }
    }

    /// The headline without the verdict that the badge before it says.
    fn said(document: &DryRunDocument) -> &str {
        let headline = document.headline.as_str();
        let verdicts = ["would go: ", "would not go: "];
        verdicts.iter().find_map(|verdict| headline.strip_prefix(verdict)).unwrap_or(headline)
    }

    /// What a node says in a line.
    fn says(node: &AskedNode) -> String {
        if let Some(finding) = node.first_bad() {
            return format!("{}: {}", finding.about, super::text::plain(&finding.says));
        }
        if node.heard != Heard::Answered {
            return "says nothing".to_owned();
        }
        let figure = |name: &str| node.figures.get(name).copied().filter(|count| *count > 0).map(bytes);
        let fetch = figure("fetch_bytes").map(|size| format!("fetches {size}"));
        let unpack = figure("unpack_bytes").map(|size| format!("unpacks {size}"));
        let free = figure("free_bytes").map(|size| format!("{size} free"));
        let ready = match (&fetch, &unpack) {
            (Some(_), _) => None,
            (None, Some(_)) => Some("has the archive".to_owned()),
            (None, None) => Some("has it unpacked".to_owned()),
        };
        ready.into_iter().chain(fetch).chain(unpack).chain(free).collect::<Vec<_>>().join(", ")
    }

    fn verdict(node: &AskedNode) -> Badge<'static> {
        match (node.heard, node.first_bad()) {
            (Heard::Answered, Some(_)) => ("objects", Tone::Bad).into(),
            (Heard::Answered, None) => ("agrees", Tone::Good).into(),
            (heard, _) => words::heard(heard).into(),
        }
    }
}

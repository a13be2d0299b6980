//! `/units/<app>/<group>`: one unit, its nodes, and the forms that deploy, roll back and freeze it.

use askama::Template;

use super::denials::Denials;
use super::frame::Frame;
use super::parts::{Badge, Button, By, CommitSummary};
use super::{filters, text, unit_state, words};
use crate::document::{BuildRow, BuildState, HistoryEntry, NodeStatus, StatusDocument, Waiting, moment};
use crate::protocol::ids::{ArtifactName, Epoch};
use crate::protocol::record::{Freeze, History};

/// The number of builds in the list of the page.
const OFFERED: usize = 6;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RollbackTarget {
    Build(ArtifactName),
    /// No build; contains the reason.
    None(String),
}

#[derive(Debug, Template)]
#[template(path = "unit.html")]
pub(crate) struct UnitPage {
    pub(crate) frame: Frame,
    pub(crate) status: StatusDocument,
    /// The deploy of the running release.
    pub(crate) current_deploy: Option<History>,
    /// The builds of the app, newest first; empty if none can be read.
    pub(crate) builds: Vec<BuildRow>,
    /// The newest history entries.
    pub(crate) past: Vec<HistoryEntry>,
    pub(crate) rollback_target: RollbackTarget,
    pub(crate) denials: Denials,
}

impl UnitPage {
    fn badge(&self) -> Badge<'_> {
        unit_state::badge(&self.status)
    }

    /// The newest builds in the state `published`, which excludes bad ones.
    fn offered(&self) -> impl Iterator<Item = &BuildRow> {
        self.builds.iter().filter(|row| row.state == BuildState::Published).take(OFFERED)
    }

    fn runs(&self, build: &BuildRow) -> bool {
        self.status.current.as_ref().is_some_and(|current| current.artifact == build.artifact)
    }

    /// The number of nodes of this group that have unpacked the build, of all.
    fn prefetched(&self, build: &BuildRow) -> String {
        let of_group = build.prefetched.get(&self.status.unit.group);
        of_group.map_or_else(|| "–".to_owned(), |some| format!("{} of {}", some.on, some.of))
    }

    /// The branches and tags of the builds that can be deployed.
    fn branches(&self) -> Vec<&str> {
        let merged = self.deployable().filter(|row| row.pull_request.is_none());
        let mut names: Vec<&str> = merged.map(|row| row.branch.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn deployable(&self) -> impl Iterator<Item = &BuildRow> {
        self.builds.iter().filter(|row| row.deployable)
    }

    /// Why no request is possible now, whatever the caller's permissions.
    fn busy(&self) -> Option<&str> {
        if self.status.running.is_some() {
            return Some("a deploy is running: wait for it, or abort it");
        }
        self.status.waiting.as_ref().map(|_| "a request is waiting for its turn")
    }

    /// The epoch that a waiting request will have, in the current era.
    fn waiting_epoch(&self, waiting: &Waiting) -> Epoch {
        Epoch { era: self.status.epoch.map_or(0, |epoch| epoch.era), number: waiting.epoch.0 }
    }

    /// Why the caller cannot request a deploy now.
    fn refused(&self) -> Option<&str> {
        self.denials.deploy.as_deref().or_else(|| self.busy())
    }

    fn deploy_button(&self) -> Button<'_> {
        Button::new("review", "Review…", "primary", self.refused())
    }

    fn freeze_button(&self) -> Button<'_> {
        Button::new("freeze", "Freeze", "", self.denials.freeze.as_deref())
    }

    fn unfreeze_button(&self) -> Button<'_> {
        Button::new("unfreeze", "Unfreeze", "", self.denials.freeze.as_deref())
    }

    fn abort_button(&self) -> Button<'_> {
        let phase = self.status.running.as_ref().map(|running| running.phase);
        Button::new("abort", words::abort_label(phase), "danger", self.denials.abort.as_deref())
    }

    fn rollback_button(&self, to: &ArtifactName) -> Button<'_> {
        Button::new("rollback", format!("Roll back to {to}…"), "", self.refused())
    }

    fn freeze(&self) -> Option<&Freeze> {
        self.status.freeze.as_ref()
    }

    /// The end of the current freeze, for the form and in words; none for a freeze without an end.
    fn freeze_end(&self) -> Option<(String, String)> {
        let until = self.freeze()?.until?;
        Some((moment(until), text::exact(until, self.frame.now)))
    }

    fn notes(node: &NodeStatus) -> Vec<String> {
        super::nodes::notes(node)
    }
}

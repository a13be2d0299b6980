//! The names of keys in Consul KV. Written here once; `docs/` and ACL policies follow it.

use super::ids::{App, ArtifactName, Epoch, Node, Unit};

/// The event that says that something was published: a doorbell, what counts stands in `latest`.
pub(crate) const BUILD_EVENT: &str = "cutover-build";

/// All keys of one installation, under a prefix that ends in `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Default for Keys {
    fn default() -> Self {
        Self::new("cutover/")
    }
}

impl Keys {
    /// Keys under `prefix`; a missing `/` at its end is added.
    #[must_use]
    pub(crate) fn new(prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        Self { prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") } }
    }

    /// The prefix itself, `cutover/`.
    #[must_use]
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// `<app>/builds/`: every build record of an app.
    #[must_use]
    pub(crate) fn builds(&self, app: &App) -> String {
        format!("{}{app}/builds/", self.prefix)
    }

    /// `<app>/builds/<artifact>`.
    #[must_use]
    pub fn build(&self, app: &App, artifact: &ArtifactName) -> String {
        format!("{}{app}/builds/{artifact}", self.prefix)
    }

    /// `<app>/latest`.
    #[must_use]
    pub fn latest(&self, app: &App) -> String {
        format!("{}{app}/latest", self.prefix)
    }

    /// `<app>/runs/`: the life of every CI build of an app.
    #[must_use]
    pub(crate) fn runs(&self, app: &App) -> String {
        format!("{}{app}/runs/", self.prefix)
    }

    /// `<app>/runs/<artifact>`.
    #[must_use]
    pub fn run(&self, app: &App, artifact: &ArtifactName) -> String {
        format!("{}{app}/runs/{artifact}", self.prefix)
    }

    /// `<app>/bad/`: every mark of an app.
    #[must_use]
    pub(crate) fn bad_marks(&self, app: &App) -> String {
        format!("{}{app}/bad/", self.prefix)
    }

    /// `<app>/bad/<artifact>`.
    #[must_use]
    pub(crate) fn bad(&self, app: &App, artifact: &ArtifactName) -> String {
        format!("{}{app}/bad/{artifact}", self.prefix)
    }

    /// The keys of one unit.
    #[must_use]
    pub fn unit(&self, unit: &Unit) -> UnitKeys {
        UnitKeys { prefix: format!("{}{unit}/", self.prefix) }
    }
}

/// The keys of one unit, `<app>/<group>/…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitKeys {
    prefix: String,
}

impl UnitKeys {
    /// What all of them begin with, `<app>/<group>/`.
    #[must_use]
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn under(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The request.
    #[must_use]
    pub fn deploy(&self) -> String {
        self.under("deploy")
    }

    /// The epoch to abort.
    #[must_use]
    pub fn abort(&self) -> String {
        self.under("abort")
    }

    /// Who froze the group.
    #[must_use]
    pub fn freeze(&self) -> String {
        self.under("freeze")
    }

    /// The coordinator's lock.
    #[must_use]
    pub(crate) fn coordinator(&self) -> String {
        self.under("coordinator")
    }

    /// The one record that all participants watch.
    #[must_use]
    pub fn barrier(&self) -> String {
        self.under("barrier")
    }

    /// The small JSON for humans.
    #[must_use]
    pub(crate) fn status(&self) -> String {
        self.under("status")
    }

    /// The frozen members of an epoch.
    #[must_use]
    pub(crate) fn members(&self, epoch: Epoch) -> String {
        self.under(&format!("members/{epoch}"))
    }

    /// Every frozen member list.
    #[must_use]
    pub(crate) fn all_members(&self) -> String {
        self.under("members/")
    }

    /// A node's answer.
    #[must_use]
    pub(crate) fn ack(&self, node: &Node) -> String {
        self.under(&format!("acks/{node}"))
    }

    /// Every answer.
    #[must_use]
    pub(crate) fn acks(&self) -> String {
        self.under("acks/")
    }

    /// A node's presence.
    #[must_use]
    pub(crate) fn node(&self, node: &Node) -> String {
        self.under(&format!("nodes/{node}"))
    }

    /// Every presence.
    #[must_use]
    pub(crate) fn nodes(&self) -> String {
        self.under("nodes/")
    }

    /// One request's life.
    #[must_use]
    pub(crate) fn history(&self, epoch: Epoch) -> String {
        self.under(&format!("history/{epoch}"))
    }

    /// Every request's life.
    #[must_use]
    pub(crate) fn all_history(&self) -> String {
        self.under("history/")
    }

    /// What was done besides deploys, by the index of the key that was written.
    #[must_use]
    pub(crate) fn action(&self, epoch: Epoch) -> String {
        self.under(&format!("actions/{epoch}"))
    }

    /// Everything that was done besides deploys.
    #[must_use]
    pub(crate) fn all_actions(&self) -> String {
        self.under("actions/")
    }

    /// Where the older history lies.
    #[must_use]
    pub(crate) fn archive(&self) -> String {
        self.under("archive")
    }

    /// What `node`'s agent vouches for under this mark.
    #[must_use]
    pub(crate) fn attest(&self, node: &Node, id: &str) -> String {
        self.under(&format!("attests/{node}/{id}"))
    }

    /// Everything that agents vouch for.
    #[must_use]
    pub(crate) fn attests(&self) -> String {
        self.under("attests/")
    }

    /// What the nodes are asked.
    #[must_use]
    pub(crate) fn question(&self) -> String {
        self.under("question")
    }

    /// A node's answer to the question.
    #[must_use]
    pub(crate) fn reply(&self, node: &Node) -> String {
        self.under(&format!("answers/{node}"))
    }

    /// Every node's answer to the question.
    #[must_use]
    pub(crate) fn replies(&self) -> String {
        self.under("answers/")
    }

    /// A node that will not come back.
    #[must_use]
    pub(crate) fn forgotten(&self, node: &Node) -> String {
        self.under(&format!("forgotten/{node}"))
    }

    /// Every node that will not come back.
    #[must_use]
    pub(crate) fn all_forgotten(&self) -> String {
        self.under("forgotten/")
    }

    /// Up to where actions are in the history.
    #[must_use]
    pub(crate) fn seen(&self) -> String {
        self.under("seen")
    }

    /// What the artifact store lacks.
    #[must_use]
    pub(crate) fn store(&self) -> String {
        self.under("store")
    }

    /// What a receiver of notifications has been told.
    #[must_use]
    pub(crate) fn told(&self, receiver: &str) -> String {
        self.under(&format!("told/{receiver}"))
    }
}

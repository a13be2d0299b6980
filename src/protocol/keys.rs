//! The names of keys in Consul KV, each written once. `docs/` and the ACL policies follow this file.

use super::ids::{App, ArtifactName, Epoch, Node, Unit};

/// The Consul event that announces a new build. It only wakes the agents: the build is in `latest`.
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

    /// Ends in `/`, for example `cutover/`.
    #[must_use]
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// `<app>/builds/`: the prefix of every build record of an app.
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
    /// The prefix of all of them, `<app>/<group>/`.
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

    /// The freeze; an empty value: not frozen.
    #[must_use]
    pub fn freeze(&self) -> String {
        self.under("freeze")
    }

    #[must_use]
    pub(crate) fn coordinator(&self) -> String {
        self.under("coordinator")
    }

    /// The one record that all participants watch.
    #[must_use]
    pub fn barrier(&self) -> String {
        self.under("barrier")
    }

    #[must_use]
    pub(crate) fn status(&self) -> String {
        self.under("status")
    }

    #[must_use]
    pub(crate) fn members(&self, epoch: Epoch) -> String {
        self.under(&format!("members/{epoch}"))
    }

    #[must_use]
    pub(crate) fn all_members(&self) -> String {
        self.under("members/")
    }

    #[must_use]
    pub(crate) fn ack(&self, node: &Node) -> String {
        self.under(&format!("acks/{node}"))
    }

    #[must_use]
    pub(crate) fn acks(&self) -> String {
        self.under("acks/")
    }

    #[must_use]
    pub(crate) fn node(&self, node: &Node) -> String {
        self.under(&format!("nodes/{node}"))
    }

    #[must_use]
    pub(crate) fn nodes(&self) -> String {
        self.under("nodes/")
    }

    #[must_use]
    pub(crate) fn history(&self, epoch: Epoch) -> String {
        self.under(&format!("history/{epoch}"))
    }

    #[must_use]
    pub(crate) fn all_history(&self) -> String {
        self.under("history/")
    }

    /// An action besides deploys; `epoch` has the index of the key that was written.
    #[must_use]
    pub(crate) fn action(&self, epoch: Epoch) -> String {
        self.under(&format!("actions/{epoch}"))
    }

    #[must_use]
    pub(crate) fn all_actions(&self) -> String {
        self.under("actions/")
    }

    /// The index of archived history.
    #[must_use]
    pub(crate) fn archive(&self) -> String {
        self.under("archive")
    }

    /// The attestation by `node`'s agent; `id` is the mark of the attested write.
    #[must_use]
    pub(crate) fn attest(&self, node: &Node, id: &str) -> String {
        self.under(&format!("attests/{node}/{id}"))
    }

    #[must_use]
    pub(crate) fn attests(&self) -> String {
        self.under("attests/")
    }

    #[must_use]
    pub(crate) fn question(&self) -> String {
        self.under("question")
    }

    /// A node's reply to the question.
    #[must_use]
    pub(crate) fn reply(&self, node: &Node) -> String {
        self.under(&format!("answers/{node}"))
    }

    #[must_use]
    pub(crate) fn replies(&self) -> String {
        self.under("answers/")
    }

    /// The mark of a node that will not come back.
    #[must_use]
    pub(crate) fn forgotten(&self, node: &Node) -> String {
        self.under(&format!("forgotten/{node}"))
    }

    #[must_use]
    pub(crate) fn all_forgotten(&self) -> String {
        self.under("forgotten/")
    }

    /// The coordinator's cursor of recorded actions.
    #[must_use]
    pub(crate) fn seen(&self) -> String {
        self.under("seen")
    }

    /// The result of the last sweep of the artifact store.
    #[must_use]
    pub(crate) fn store(&self) -> String {
        self.under("store")
    }

    /// The cursor of a receiver of notifications.
    #[must_use]
    pub(crate) fn told(&self, receiver: &str) -> String {
        self.under(&format!("told/{receiver}"))
    }
}

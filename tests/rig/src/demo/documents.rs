//! What the demo reads of the documents that `cutover … --output json` prints.

use cutover::protocol::ids::{ArtifactName, Node};
use cutover::protocol::record::{Build, History};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::commands::Program;
use super::fleet::{APP, Fleet, UNIT};

/// `cutover deploy … --output json`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct DeployDocument {
    pub(super) headline: String,
    pub(super) record: Option<History>,
}

/// `cutover history … --output json`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct HistoryDocument {
    /// Newest first.
    pub(super) requests: Vec<HistoryRow>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct HistoryRow {
    pub(super) took_ms: Option<u64>,
    #[serde(flatten)]
    pub(super) record: History,
}

/// `cutover builds … --output json`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct BuildsDocument {
    pub(super) builds: Vec<BuildRow>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct BuildRow {
    pub(super) artifact: ArtifactName,
    pub(super) commit: String,
    pub(super) record: Option<Build>,
}

/// `cutover status … --output json`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct StatusDocument {
    pub(super) coordinator: Option<String>,
    pub(super) nodes: Vec<NodeRow>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct NodeRow {
    pub(super) node: Node,
    pub(super) state: String,
    pub(super) staged: Vec<ArtifactName>,
}

/// Runs a `cutover` command for its document. A failure is text, because the next try may succeed.
pub(super) async fn documented<T: DeserializeOwned>(fleet: &Fleet, args: &[&str]) -> Result<T, String> {
    let ran = fleet.commands().hidden(Program::Cutover, args).await.map_err(|error| error.to_string())?;
    if !ran.status.success() {
        return Err(ran.described());
    }
    ran.document("").map_err(|error| error.to_string())
}

pub(super) async fn status(fleet: &Fleet) -> Result<StatusDocument, String> {
    documented(fleet, &["status", UNIT, "--output", "json"]).await
}

pub(super) async fn newest(fleet: &Fleet) -> Result<HistoryRow, String> {
    let document: HistoryDocument = documented(fleet, &["history", UNIT, "--output", "json"]).await?;
    document.requests.into_iter().next().ok_or_else(|| "the history has no request".to_owned())
}

pub(super) async fn build(fleet: &Fleet, commit: &str) -> Result<BuildRow, String> {
    let document: BuildsDocument = documented(fleet, &["builds", APP, "--output", "json"]).await?;
    let found = document.builds.into_iter().find(|build| build.commit == commit);
    found.ok_or_else(|| format!("no build of {commit} in `cutover builds {APP}`"))
}

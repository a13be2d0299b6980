//! What the demo's claims rest on: documents as the commands print them, HTTP answers, and times of files.
//!
//! All nodes share this machine's clock here, so that file times of different nodes can be compared. They stand still
//! for a few milliseconds at a time (the kernel's tick), and so two moments may look equal, but never swapped.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::commands::Program;
use super::error::DemoError;
use super::fleet::{APP, Fleet, Member, UNIT};
use super::http;
use crate::protocol::ids::{ArtifactName, Node};
use crate::protocol::record::{Build, History};

/// How long anything may take that the demo waits for. A loaded machine with two cores took 5 s for the slowest.
pub(super) const LIMIT: Duration = Duration::from_secs(45);
/// How often is looked.
const POLL: Duration = Duration::from_millis(50);

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

/// One request.
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

/// One build.
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

/// One node.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NodeRow {
    pub(super) node: Node,
    pub(super) state: String,
    pub(super) staged: Vec<ArtifactName>,
}

/// A moment by the file system's clock, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(Duration);

impl Moment {
    pub(super) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// When a node's disk says what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// When `current` was put where it is: a rename changes the inode's ctime.
    pub(super) switched: Moment,
    /// Which link it is; another switch makes another one.
    inode: u64,
}

/// How `current` lies on a node; none before the first deploy.
pub(super) fn link(member: &Member) -> Option<Link> {
    let metadata = std::fs::symlink_metadata(member.deploy_to().join("current")).ok()?;
    Some(Link { switched: moment(metadata.ctime(), metadata.ctime_nsec())?, inode: metadata.ino() })
}

/// How `current` lies on every node.
pub(super) fn links(members: &[Member]) -> BTreeMap<String, Option<Link>> {
    members.iter().map(|member| (member.name.clone(), link(member))).collect()
}

/// When the release's prepare hook ended on a node: the hook leaves a file.
pub(super) fn prepared(member: &Member, release: &str) -> Option<Moment> {
    let path = member.deploy_to().join("releases").join(release).join("prepared");
    let metadata = std::fs::metadata(path).ok()?;
    moment(metadata.mtime(), metadata.mtime_nsec())
}

/// Which file a release's `version.txt` is on a node: unpacked again, it would be another one.
pub(super) fn unpacked_file(member: &Member, release: &str) -> Option<(u64, Moment)> {
    let path = member.deploy_to().join("releases").join(release).join("version.txt");
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), moment(metadata.mtime(), metadata.mtime_nsec())?))
}

fn moment(secs: i64, nanos: i64) -> Option<Moment> {
    Some(Moment(Duration::new(u64::try_from(secs).ok()?, u32::try_from(nanos).ok()?)))
}

/// What every node's app answers now, in the order of the nodes.
pub(super) async fn answers(members: &[Member]) -> Vec<(String, String)> {
    let mut answers = Vec::new();
    for member in members {
        let answer = match member.app_url() {
            Some(url) => http::get(&url).await.map_or_else(|problem| problem, |answer| answer.text),
            None => "its app does not listen yet".to_owned(),
        };
        answers.push((member.name.clone(), answer));
    }
    answers
}

/// `n1 "version 1"  n2 "version 1"`.
pub(super) fn listed(answers: &[(String, String)]) -> String {
    answers.iter().map(|(name, answer)| format!("{name} \"{answer}\"")).collect::<Vec<_>>().join("  ")
}

/// Writes a file that a node was missing.
///
/// # Errors
///
/// [`DemoError::File`].
pub(super) fn give(member: &Member, name: &str, text: &str) -> Result<(), DemoError> {
    let path: &Path = &member.shared().join(name);
    std::fs::write(path, text).map_err(|source| DemoError::file("write", path, source))
}

/// Asks `question` until it is answered with `Ok`; `Err` says what is there instead.
pub(super) async fn until<T>(
    fleet: &mut Fleet,
    step: &str,
    what: &str,
    mut question: impl AsyncFnMut(&Fleet) -> Result<T, String>,
) -> Result<T, DemoError> {
    let began = Instant::now();
    loop {
        let seen = match question(fleet).await {
            Ok(answer) => return Ok(answer),
            Err(seen) => seen,
        };
        fleet.check_running()?;
        if began.elapsed() >= LIMIT {
            return Err(DemoError::Late { step: step.to_owned(), what: what.to_owned(), limit: LIMIT, seen });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Runs one of our commands for its document; a failure is said in words, because it may pass.
pub(super) async fn documented<T: DeserializeOwned>(fleet: &Fleet, args: &[&str]) -> Result<T, String> {
    let ran = fleet.commands().quietly(Program::Cutover, args).await.map_err(|error| error.to_string())?;
    if !ran.status.success() {
        return Err(ran.said());
    }
    ran.document("").map_err(|error| error.to_string())
}

pub(super) async fn status(fleet: &Fleet) -> Result<StatusDocument, String> {
    documented(fleet, &["status", UNIT, "--output", "json"]).await
}

pub(super) async fn newest(fleet: &Fleet) -> Result<HistoryRow, String> {
    let document: HistoryDocument = documented(fleet, &["history", UNIT, "--output", "json"]).await?;
    document.requests.into_iter().next().ok_or_else(|| "no deploy in the history".to_owned())
}

pub(super) async fn build(fleet: &Fleet, commit: &str) -> Result<BuildRow, String> {
    let document: BuildsDocument = documented(fleet, &["builds", APP, "--output", "json"]).await?;
    let found = document.builds.into_iter().find(|build| build.commit == commit);
    found.ok_or_else(|| format!("no build of {commit} in `cutover builds {APP}`"))
}

//! What the demo's claims rest on besides documents: HTTP answers of the apps, and times of files on the nodes' disks.
//!
//! All nodes share this machine's clock, so file times of different nodes can be compared. The clock of file times moves
//! in ticks of a few milliseconds, so two moments may look equal, but never swapped.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::DemoError;
use super::fleet::{Fleet, Member};
use super::http;

/// How long the demo waits for anything. A loaded machine with two cores took 5 s for the slowest.
pub(super) const LIMIT: Duration = Duration::from_secs(45);
/// How often it looks.
const POLL: Duration = Duration::from_millis(50);

/// A moment by the file system's clock, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(Duration);

impl Moment {
    pub(super) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The link `current` on a node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// When the link was renamed to `current`: a rename changes the inode's ctime.
    pub(super) switched: Moment,
    /// Tells it from every other link; each switch makes a new one.
    inode: u64,
}

/// The link on one node; none before the first deploy.
pub(super) fn link(member: &Member) -> Option<Link> {
    let metadata = std::fs::symlink_metadata(member.deploy_to().join("current")).ok()?;
    Some(Link { switched: moment(metadata.ctime(), metadata.ctime_nsec())?, inode: metadata.ino() })
}

/// The links of all nodes, by name.
pub(super) fn links(members: &[Member]) -> BTreeMap<String, Option<Link>> {
    members.iter().map(|member| (member.name.clone(), link(member))).collect()
}

/// When the release's prepare hook ended on a node: the hook writes a file.
pub(super) fn prepared(member: &Member, release: &str) -> Option<Moment> {
    let path = member.deploy_to().join("releases").join(release).join("prepared");
    let metadata = std::fs::metadata(path).ok()?;
    moment(metadata.mtime(), metadata.mtime_nsec())
}

/// Identifies a release's `version.txt` on a node: unpacked again, it would be another file.
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

/// Writes a file below `shared/` of a node.
///
/// # Errors
///
/// [`DemoError::File`].
pub(super) fn write_shared(member: &Member, name: &str, text: &str) -> Result<(), DemoError> {
    let path: &Path = &member.shared().join(name);
    std::fs::write(path, text).map_err(|source| DemoError::file("write", path, source))
}

/// Repeats `question` until it answers `Ok`; `Err` is what it saw instead.
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

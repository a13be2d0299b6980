//! `builds/<artifact>`, `latest`, `runs/<artifact>`, `bad/<artifact>`: builds, CI runs and bad marks.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Author, ManifestDigest, Signature, Since, Summary};
use crate::protocol::git_ref::BuildRef;
use crate::protocol::ids::{ArtifactName, Branch, Commit, ObjectName, Sha256, Time};

/// How an archive is compressed. This is the extension of the object's name; the magic bytes select the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ArchiveFormat {
    /// tar in gzip.
    #[serde(rename = "tar.gz")]
    TarGz,
    /// tar in Zstandard.
    #[serde(rename = "tar.zst")]
    TarZst,
}

impl ArchiveFormat {
    /// The file name extension, without a leading dot.
    #[must_use]
    pub(crate) const fn extension(self) -> &'static str {
        match self {
            Self::TarGz => "tar.gz",
            Self::TarZst => "tar.zst",
        }
    }
}

/// The most ancestors that a record names: the commits between two builds that are in flight at the same time are fewer.
pub(crate) const MAX_ANCESTORS: usize = 64;
/// The hex digits of an ancestor that are kept. Two commits of a repository hardly ever share them.
const ANCESTOR_DIGITS: usize = 12;

/// The place of a commit among the commits of its branch; [`resolve`](crate::protocol::resolve) compares them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// When CI began the first build of this commit, else when it was published. Whoever writes it reads the records
    /// of the branch first, and writes a later time than any of them, whatever the machine's clock shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub(crate) order: Option<Timestamp>,
    /// Commits that this one contains, nearest first, 12 hex digits of each; not all of them. None: git did not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_ANCESTORS))]
    pub(crate) ancestors: Vec<String>,
}

impl Place {
    /// The digits of a commit, as `ancestors` has them.
    #[must_use]
    pub(crate) fn digits(commit: &Commit) -> &str {
        commit.as_str().get(..ANCESTOR_DIGITS).unwrap_or_else(|| commit.as_str())
    }

    /// The field `ancestors` from longer commits; none if one of them is no commit.
    #[must_use]
    pub(crate) fn read_ancestors(commits: &[String]) -> Option<Vec<String>> {
        let read = |commit: &String| {
            let digits = commit.get(..ANCESTOR_DIGITS)?.to_ascii_lowercase();
            commit.bytes().all(|b| b.is_ascii_hexdigit()).then_some(digits)
        };
        commits.iter().take(MAX_ANCESTORS).map(read).collect()
    }

    /// Whether `commit` is known to be an ancestor. False also means: unknown.
    #[must_use]
    pub(crate) fn contains(&self, commit: &Commit) -> bool {
        self.ancestors.iter().any(|ancestor| ancestor == Self::digits(commit))
    }
}

/// The build record: immutable once written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Build {
    /// The name of this record.
    pub artifact: ArtifactName,
    /// The exact branch.
    pub branch: Branch,
    /// The full commit.
    pub commit: Commit,
    /// What the commit says.
    #[serde(flatten)]
    pub summary: Summary,
    /// The SHA-256 of the archive.
    pub sha256: Sha256,
    /// Size of the archive.
    pub packed_bytes: u64,
    /// Sum of the sizes of the regular files in the archive: the most that unpacking may write. A sparse file counts with
    /// its whole size, a hard link with none.
    pub unpacked_bytes: u64,
    /// Number of entries in the archive: the most that unpacking may create.
    ///
    /// Directories and links count too, and a name that comes twice counts twice. The root (`./`, which plain `tar -C DIR .`
    /// writes) does not count, nor do headers that only carry a long name or attributes of the next entry (GNU `L` and `K`,
    /// PAX `x`). 0 only for a build that was published with `--allow-empty`.
    pub entries: u64,
    /// How the archive is compressed.
    pub format: ArchiveFormat,
    /// The digest of the packed tree: names, modes, times and content, whatever the compression. None for an archive that was
    /// packed by another tool, and for builds of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<Sha256>,
    /// The archive's object in the store, below `<prefix>/<app>/`. None: `<artifact>.<format>`, as older versions named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectName>,
    /// The kind of build, for example `release`; `require_profile` compares it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The number of the pull request, if CI built one. Such a build is none of its branch: only its name or its commit
    /// selects it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<String>,
    /// The tag, if CI built one; `branch` then holds the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Branch>,
    /// The place of the commit on its branch.
    #[serde(flatten)]
    pub place: Place,
    /// The CI build's page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The claimed author, as CI reports it.
    #[serde(deserialize_with = "super::short_by")]
    pub by: String,
    /// The publisher's own mark, under which an agent may attest the author; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// When it was published.
    #[schemars(with = "Time")]
    pub at: Timestamp,
    /// What is new since the newest build of its branch; none: the publisher did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// The list of its files, beside the archive in the store; none: the publisher made none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestDigest>,
    /// The publisher's signature of the other fields; nodes check it by the keys in their settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

impl Build {
    #[must_use]
    pub(crate) fn of(&self) -> BuildRef<'_> {
        BuildRef::new(&self.branch, self.tag.as_ref(), self.pull_request.as_deref())
    }
}

#[cfg(any(test, feature = "removable-rules"))]
impl Build {
    /// A small build for tests: branch and commit follow from its name, `<branch>-<8 hex digits>`.
    #[allow(clippy::unwrap_used, reason = "a test that gives another name has failed")]
    pub(crate) fn sample(artifact: &str) -> Self {
        let (branch, commit) = artifact.rsplit_once('-').unwrap();
        Self {
            artifact: artifact.parse().unwrap(),
            branch: branch.parse().unwrap(),
            commit: commit[..8].repeat(5).parse().unwrap(),
            summary: Summary::default(),
            sha256: "0".repeat(64).parse().unwrap(),
            packed_bytes: 1,
            unpacked_bytes: 1,
            entries: 1,
            format: ArchiveFormat::TarGz,
            tree: None,
            object: None,
            profile: None,
            pull_request: None,
            tag: None,
            place: Place::default(),
            url: None,
            by: "ci".to_owned(),
            id: String::new(),
            at: Timestamp::UNIX_EPOCH,
            since: None,
            manifest: None,
            signature: None,
        }
    }
}

pub(crate) const LATEST_BUILDS: usize = 20;

/// `latest`: the newest builds of an app, newest first, without those of pull requests. Agents watch it to prefetch.
///
/// Of each branch and tag, the first one in the list is the newest: the publisher decides that by the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Latest {
    /// At most [`LATEST_BUILDS`].
    pub builds: Vec<LatestBuild>,
}

/// One build in [`Latest`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LatestBuild {
    pub(crate) artifact: ArtifactName,
    pub(crate) branch: Branch,
    /// As in the build record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<Branch>,
    pub(crate) commit: Commit,
    /// The time of the publish.
    pub(crate) at: Timestamp,
}

impl LatestBuild {
    fn new(build: &Build) -> Self {
        let Build { artifact, branch, tag, commit, at, .. } = build;
        Self { artifact: artifact.clone(), branch: branch.clone(), tag: tag.clone(), commit: commit.clone(), at: *at }
    }

    #[must_use]
    pub(crate) fn of(&self) -> BuildRef<'_> {
        BuildRef::new(&self.branch, self.tag.as_ref(), None)
    }
}

impl Latest {
    /// Puts `build` first; a build that is in the list moves there.
    pub(crate) fn push(&mut self, build: &Build) {
        self.insert(0, build);
    }

    /// Moves `build` before every other one of its branch or tag, and adds it there if it is missing.
    pub(crate) fn lead(&mut self, build: &Build) {
        let first = self.builds.iter().position(|other| other.of() == build.of());
        self.insert(first.unwrap_or(0), build);
    }

    /// Puts `build` at `index`, which is not behind the place that it has.
    pub(crate) fn insert(&mut self, index: usize, build: &Build) {
        self.builds.retain(|b| b.artifact != build.artifact);
        self.builds.insert(index.min(self.builds.len()), LatestBuild::new(build));
        self.builds.truncate(LATEST_BUILDS);
    }
}

/// `runs/<artifact>`: a CI run, from its start, with or without an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    pub(crate) branch: Branch,
    pub(crate) commit: Commit,
    /// Subject and author of the commit.
    #[serde(flatten)]
    pub summary: Summary,
    /// The state of the run.
    pub state: RunState,
    /// The run's page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// The claimed author, as CI reports it.
    pub(crate) by: String,
    /// Why the run failed or was canceled; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// As in the build record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pull_request: Option<String>,
    /// As in the build record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<Branch>,
    /// The place of the commit on its branch; a run that begins again keeps it.
    #[serde(flatten)]
    pub(crate) place: Place,
    /// None: CI did not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub(crate) begun_at: Option<Timestamp>,
    /// A run that has not ended by then counts as lost; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub(crate) lost_at: Option<Timestamp>,
    /// The time of the last write of `state`.
    #[schemars(with = "Time")]
    pub(crate) at: Timestamp,
}

impl Run {
    /// A run that builds the artifact's commit, for tests: begun and last written in 1970.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn sample(artifact: &str) -> Self {
        let Build { branch, commit, summary, by, place, at, .. } = Build::sample(artifact);
        Self {
            branch,
            commit,
            summary,
            state: RunState::Building,
            url: None,
            by,
            reason: String::new(),
            pull_request: None,
            tag: None,
            place,
            begun_at: None,
            lost_at: None,
            at,
        }
    }

    #[must_use]
    pub(crate) fn of(&self) -> BuildRef<'_> {
        BuildRef::new(&self.branch, self.tag.as_ref(), self.pull_request.as_deref())
    }

    /// Whether CI should have reported an end by `now`, and has not.
    #[must_use]
    pub(crate) fn is_lost(&self, now: Timestamp) -> bool {
        self.state == RunState::Building && self.lost_at.is_some_and(|lost| lost <= now)
    }
}

/// The state of a CI run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// CI has not ended the run.
    Building,
    /// Somebody stopped the run; there will be no artifact.
    Canceled,
    /// The run ended without an artifact.
    Failed,
    /// The artifact is in the store, and its build is recorded.
    Published,
}

/// `bad/<artifact>`: a mark that this build must not be deployed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct BadMark {
    /// Who marked the build, or lifted the mark, and why.
    #[serde(flatten)]
    pub(crate) author: Author,
    /// None for a mark that was put by hand.
    #[serde(default)]
    #[schemars(with = "Option<Time>")]
    pub(crate) at: Option<Timestamp>,
    /// Whether this lifts the mark: as an absent key, but with an author.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lifted: bool,
}

impl BadMark {
    /// Reads the key. Empty, blank or lifted: not marked. Any other text that is not the record is a reason that was put by
    /// hand: an unreadable mark still marks.
    #[must_use]
    pub(crate) fn parse(raw: &[u8]) -> Option<Self> {
        Self::read(raw).filter(|mark| !mark.lifted)
    }

    /// Reads the key, also a lifted mark; none: empty.
    #[must_use]
    pub(crate) fn read(raw: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(raw);
        let text = super::plain_text(&text);
        let by_hand = || Self { author: Author::by_hand(text), at: None, lifted: false };
        (!text.is_empty()).then(|| serde_json::from_str(text).unwrap_or_else(|_| by_hand()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_marks_a_build_bad_and_an_empty_value_does_not() {
        assert_eq!(BadMark::parse(b" \n"), None);
        assert_eq!(BadMark::parse(b"leaks memory").unwrap().author.reason, "leaks memory");
        assert_eq!(BadMark::parse(br#"{"by":"ann","reason":"x"}"#).unwrap().author.by, "ann");
    }

    #[test]
    fn a_summary_is_one_line_when_it_is_made_and_when_it_is_read() {
        let message = format!("\n \u{1b}[2JFix\tthe till\r\nand \"more\"\n{}", "x".repeat(5_000));
        let made = Summary::new(Some(&message), Some("Ann\u{7}\n<ann@example.com>"));
        assert_eq!((made.subject.as_deref(), made.author.as_deref()), (Some("[2JFix the till"), Some("Ann")));
        assert_eq!(made.to_string(), "“[2JFix the till” by Ann");
        // 255 bytes, since the next character would end beyond the limit.
        let long = Summary::new(Some(&"\u{20ac}".repeat(200)), Some(" \n"));
        assert_eq!((long.subject.as_deref().map(str::len), long.author), (Some(255), None));

        let by_hand = super::super::encode(&build(1)).replacen('{', r#"{"subject":"a\u001b\nb","author":"\u0000","#, 1);
        let read: Build = super::super::decode("key", by_hand.as_bytes()).unwrap();
        assert_eq!(read.summary, Summary { subject: Some("a".to_owned()), author: None });
    }

    #[test]
    fn a_record_without_a_subject_is_read_and_written_unchanged() {
        let old = super::super::encode(&build(1));
        assert!(!old.contains("subject") && !old.contains("author"), "{old}");
        assert_eq!(super::super::decode::<Build>("key", old.as_bytes()).unwrap(), build(1));
        let run = r#"{"branch":"master","commit":"15e9f13a15e9f13a15e9f13a15e9f13a15e9f13a","state":"failed","by":"ci","at":"2026-11-23T09:15:00Z"}"#;
        assert_eq!(super::super::encode(&super::super::decode::<Run>("key", run.as_bytes()).unwrap()), run);
    }

    #[test]
    fn latest_keeps_the_newest_and_each_once() {
        let mut latest = Latest::default();
        for n in 0..30_u64 {
            latest.push(&build(n % 25));
        }
        assert_eq!(latest.builds.len(), LATEST_BUILDS);
        assert_eq!(latest.builds[0].artifact.as_str(), "master-00000004");
        assert_eq!(latest.builds.iter().filter(|b| b.artifact.as_str() == "master-00000004").count(), 1);
    }

    #[test]
    fn the_newest_of_a_branch_leads_the_others_of_it() {
        let of = |branch: &str, n| Build { branch: branch.parse().unwrap(), ..build(n) };
        let mut latest = Latest::default();
        for build in [of("a", 1), of("b", 2), of("a", 3)] {
            latest.push(&build);
        }
        latest.lead(&of("a", 1));
        latest.lead(&of("b", 4));
        latest.lead(&Build { tag: Some("a".parse().unwrap()), ..of("a", 5) });
        let order: Vec<&str> = latest.builds.iter().map(|b| &b.artifact.as_str()["master-0000000".len()..]).collect();
        assert_eq!(order, ["5", "1", "3", "4", "2"], "a tag is not the branch of the same name");
    }

    fn build(n: u64) -> Build {
        Build::sample(&format!("master-{n:08x}"))
    }
}

//! `.cutover/releases/<name>.json`: this node's record of a release that Cutover created.

use std::io;

use serde::{Deserialize, Serialize};

use crate::plan::retention::{LastRun, RecordedRelease};
use crate::protocol::ids::{ArtifactName, Branch, Commit, Epoch, KeyId, ReleaseName, Sha256};
use crate::protocol::record::{self, RecordError, Release, check_format};

use super::files;
use super::site::Site;
use super::stage::Staged;

/// The newest format of these files that this program reads, and the one that it writes.
const FORMAT: u32 = 1;

/// The record of one release. It is written before the directory, so that every directory of Cutover has a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    format: u32,
    pub(crate) release: ReleaseName,
    pub(crate) artifact: ArtifactName,
    /// Digest of the build's archive.
    pub(crate) sha256: Sha256,
    pub(crate) branch: Branch,
    /// The build's commit.
    pub commit: Commit,
    /// The epoch that created the directory. Only this epoch may discard it.
    pub created_by: Epoch,
    /// The directory's inode. While `complete` is false, only the inode proves that Cutover created the directory.
    pub(crate) inode: u64,
    /// Whether the tree is complete and durable, including links and files of the prepare hook.
    pub(crate) complete: bool,
    /// The key by which this node verified the build's signature before it placed the build; none: it did not check one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signed_by: Option<KeyId>,
    /// The last run on this node; none if it never ran here.
    #[serde(default)]
    pub(crate) last_run: Option<LastRun>,
    /// The newest epoch in which it ran. After a rollback this is newer than the directory's epoch.
    #[serde(default)]
    pub ran_in: Option<Epoch>,
    /// The paths that Cutover linked into `shared/`. What is there now may be the prepare hook's: it stays. None in records of
    /// older versions, which did not note them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) linked: Option<Vec<String>>,
    /// Its disk space, measured once when a budget first needed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disk_bytes: Option<u64>,
}

impl ReleaseRecord {
    pub(super) fn begun(release: &Release, staged: Staged, inode: u64, linked: Vec<String>) -> Self {
        Self {
            format: FORMAT,
            release: release.release.clone(),
            artifact: release.artifact.clone(),
            sha256: release.sha256.clone(),
            branch: staged.branch,
            commit: staged.commit,
            created_by: release.epoch,
            inode,
            complete: false,
            signed_by: staged.signed_by,
            last_run: None,
            ran_in: None,
            linked: Some(linked),
            disk_bytes: None,
        }
    }

    /// The record of a release that has run, and is made again under its name: who created it and how it ran is as before. So the end of the
    /// deploy that made it again does not take it away, and retention counts it as what it is.
    pub(super) fn again(self, former: &Self) -> Self {
        Self { created_by: former.created_by, last_run: former.last_run, ran_in: former.ran_in, ..self }
    }

    /// Whether the directory holds this build, complete.
    pub(super) fn holds(&self, release: &Release) -> bool {
        self.complete && self.artifact == release.artifact && self.sha256 == release.sha256
    }

    pub(super) fn for_retention(&self) -> RecordedRelease {
        let disk_bytes = self.disk_bytes.unwrap_or(0);
        RecordedRelease { name: self.release.clone(), last_run: self.last_run, disk_bytes }
    }
}

impl Site {
    /// The record of a release; `None` if Cutover did not create it.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not a record of this release. An operator has to look at it.
    pub fn record(&self, name: &ReleaseName) -> io::Result<Option<ReleaseRecord>> {
        let path = self.record_path(name);
        let Some(bytes) = files::read_if_there(&path)? else { return Ok(None) };
        let damaged = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
        let found: ReleaseRecord =
            record::decode(&path.display().to_string(), &bytes).map_err(|e| damaged(e.to_string()))?;
        if found.release != *name {
            return Err(damaged(format!("{} is the record of another release", path.display())));
        }
        Ok(Some(found))
    }

    /// The key by which this node verified the signature of a release that it holds, complete and made of this build.
    ///
    /// # Errors
    ///
    /// As [`Site::record`].
    pub(crate) fn signer_of(
        &self,
        name: &ReleaseName,
        artifact: &ArtifactName,
        sha256: &Sha256,
    ) -> io::Result<Option<KeyId>> {
        let is_there = files::is_real_dir(&self.release_path(name))?;
        let record = self.record(name)?.filter(|_| is_there);
        let is_this = |it: &ReleaseRecord| it.complete && it.artifact == *artifact && it.sha256 == *sha256;
        Ok(record.filter(is_this).and_then(|record| record.signed_by))
    }

    /// All records, by name. Those that are damaged or cannot be read are left out, so that their releases are kept.
    ///
    /// # Errors
    ///
    /// The directory of the records cannot be read.
    pub(crate) fn records(&self) -> io::Result<Vec<ReleaseRecord>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.records_dir())? {
            let name = entry?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|name| name.parse().ok());
            let Some(name) = name else { continue };
            match self.record(&name) {
                Ok(record) => found.extend(record),
                Err(error) => {
                    let is_damaged = error.kind() == io::ErrorKind::InvalidData;
                    let problem = if is_damaged { "is damaged" } else { "cannot be read" };
                    tracing::warn!(release = %name, %error, "release {name} is kept, because its record {problem}: {error}");
                }
            }
        }
        found.sort_unstable_by(|a, b| a.release.cmp(&b.release));
        Ok(found)
    }

    /// The first record of a release, by directory order, that a newer agent wrote.
    ///
    /// # Errors
    ///
    /// The records cannot be read.
    pub(crate) fn newer_record(&self) -> io::Result<Option<RecordError>> {
        for entry in std::fs::read_dir(self.records_dir())? {
            let path = entry?.path();
            let bytes = files::read_if_there(&path)?.unwrap_or_default();
            if let Err(newer) = check_format(&path.display().to_string(), &bytes, FORMAT) {
                return Ok(Some(newer));
            }
        }
        Ok(None)
    }

    /// Writes a record durably. Never overwrites a record of a newer agent.
    pub(super) fn write_record(&self, record: &ReleaseRecord) -> io::Result<()> {
        let path = self.record_path(&record.release);
        let old = files::read_if_there(&path)?.unwrap_or_default();
        check_format(&path.display().to_string(), &old, FORMAT)
            .map_err(|newer| io::Error::new(io::ErrorKind::InvalidData, newer))?;
        let name = format!("{}.json", record.release);
        let text = record::encode(record) + "\n";
        files::write_durably(&self.scratch_dir(), &self.records_dir(), &name, text.as_bytes())
    }

    /// Removes a record, if it exists.
    pub(super) fn forget_record(&self, name: &ReleaseName) -> io::Result<()> {
        files::remove_file_if_there(&self.record_path(name))?;
        files::sync_dir(&self.records_dir())
    }
}

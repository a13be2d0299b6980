//! Staging: unpacks an archive in advance, complete and durable, under its artifact's name.
//!
//! A deploy then only needs to link shared paths and to rename the tree. A staged build consists of a tree and a note, its
//! metadata. Both together count: a tree without a note is unfinished, and is removed at the next start.
//!
//! The caller must stage one build of a site at a time, and must bound the source's reads with a time limit.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::plan::unpack::{Limits, LinkPolicy};
use crate::protocol::ids::{ArtifactName, Branch, Commit, KeyId, Sha256};
use crate::protocol::record::{self, Build, Step};

use super::control::{Control, Expected};
use super::durable;
use super::fault::{Retry, StageFault};
use super::files;
use super::list::ListWriter;
use super::removal::NotRemoved;
use super::site::Site;
use super::switch::is_probe;
use super::unpack::unpack_and_list;
use super::unpack_error::UnpackError;

/// Space that must stay free besides an unpacked build, in bytes: for records, the ledger, and files of hooks.
pub(crate) const MARGIN_BYTES: u64 = 16 << 20;
/// Inodes that must stay free, for the same files.
const MARGIN_INODES: u64 = 256;
/// The space that an entry needs besides its content: on average half a block of 4 KiB at its end, plus inode and name.
const ENTRY_BYTES: u64 = 4096;

/// The disk space that unpacking a build needs, in bytes.
pub(crate) const fn tree_bytes(build: &Build) -> u64 {
    build.unpacked_bytes.saturating_add(build.entries.saturating_mul(ENTRY_BYTES))
}

/// An unpacked build; its note on disk has the same fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The name of the build, and of its tree.
    pub artifact: ArtifactName,
    /// Digest of the archive that was unpacked.
    pub sha256: Sha256,
    pub(crate) branch: Branch,
    pub(crate) commit: Commit,
    /// The key by which this node verified the build's signature; none: it did not check one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signed_by: Option<KeyId>,
    /// Its disk space; 0 in notes of older versions, which did not record it.
    #[serde(default)]
    pub(crate) disk_bytes: u64,
}

impl Site {
    /// Unpacks a build's archive into `.cutover/staged/<artifact>/`. If it is staged already, `source` is not read. Only one
    /// build of a site may be staged at a time; other calls may run in parallel. `links` are the symbolic links that the archive
    /// may have.
    ///
    /// # Errors
    ///
    /// [`Step::Fetch`] if `source` fails or the caller cancels, [`Step::Verify`] if its bytes do not match the record,
    /// [`Step::Unpack`] for a bad archive or a disk error, [`Step::Sync`] if the tree cannot be made durable. Nothing remains
    /// on disk in these cases.
    pub fn stage(
        &self,
        build: &Build,
        links: LinkPolicy,
        source: impl Read + Send,
        control: &Control,
    ) -> Result<(), StageFault> {
        let artifact = &build.artifact;
        if self.is_staged(artifact, &build.sha256).map_err(|e| unreadable(artifact, &e))? {
            return Ok(());
        }
        self.fits(build)?;
        let temporary = self.scratch_dir().join(files::random_name("stage"));
        let list = self.scratch_dir().join(files::random_name("list"));
        let staged = self
            .unpack(build, links, source, control, &temporary, &list)
            .and_then(|()| self.publish(build, &temporary, &list));
        if staged.is_err() {
            self.remove(&temporary);
            self.remove(&list);
        }
        staged
    }

    /// Unpacks the archive to `tree`, and lists its files in `list`.
    fn unpack(
        &self,
        build: &Build,
        links: LinkPolicy,
        source: impl Read + Send,
        control: &Control,
        tree: &Path,
        list: &Path,
    ) -> Result<(), StageFault> {
        let artifact = &build.artifact;
        let limits = Limits { bytes: build.unpacked_bytes, entries: build.entries };
        let expected = Expected { sha256: &build.sha256, packed_bytes: build.packed_bytes, limits, links };
        let unlisted = |error: io::Error| {
            StageFault::of(Step::Unpack, &format!("the files of {artifact} could not be listed"), &error)
        };
        let writer = ListWriter::create(list, self.verify()).map_err(unlisted)?;
        unpack_and_list(source, tree, &expected, control, Some(&writer)).map_err(|error| {
            let fault = StageFault::of(step_of(&error), &format!("{artifact} could not be unpacked"), &error);
            if error.retry() == Retry::Useless { StageFault { retry: Retry::Useless, ..fault } } else { fault }
        })?;
        writer.finish().map_err(unlisted)
    }

    /// Makes the unpacked tree and the list of its files durable, and renames both to their final names.
    fn publish(&self, build: &Build, tree: &Path, list: &Path) -> Result<(), StageFault> {
        let artifact = &build.artifact;
        let failed = |e: io::Error| StageFault::of(Step::Sync, &format!("{artifact} could not be made durable"), &e);
        // It can take seconds, so the lock is not held.
        files::open_dir(tree).and_then(|tree| durable::sync_tree(&tree, &[list])).map_err(failed)?;
        let _writing = self.write_lock();
        let place = || -> io::Result<()> {
            self.remove_staged(artifact)?;
            let staged = Staged {
                artifact: artifact.clone(),
                sha256: build.sha256.clone(),
                branch: build.branch.clone(),
                commit: build.commit.clone(),
                signed_by: None,
                disk_bytes: tree_bytes(build),
            };
            files::rename(list, &self.list_path(&build.sha256))?;
            files::sync_dir(&self.lists_dir())?;
            // The note first: if the agent is killed in between, the note without a tree counts as not staged.
            self.write_note(&staged)?;
            files::rename(tree, &self.staged_path(artifact))?;
            files::sync_dir(&self.staged_dir())
        };
        let placed = place();
        if placed.is_err() {
            // A build that counts as staged would be taken for one that is durable. Return the error of the placing; what cannot
            // be removed is noted.
            self.remove_or_note(artifact);
        }
        placed.map_err(failed)
    }

    /// Notes the key by which this node has verified the signature of a staged build. Its release keeps that key.
    ///
    /// # Errors
    ///
    /// The disk returns an error.
    pub(crate) fn note_signer(&self, artifact: &ArtifactName, sha256: &Sha256, key: &KeyId) -> io::Result<()> {
        let _writing = self.write_lock();
        match self.staged_note(artifact)? {
            Some(staged) if staged.sha256 == *sha256 && staged.signed_by.as_ref() != Some(key) => {
                self.write_note(&Staged { signed_by: Some(key.clone()), ..staged })
            }
            // Noted already; or a deploy has placed it or a prefetch removed it meanwhile.
            Some(_) | None => Ok(()),
        }
    }

    fn write_note(&self, staged: &Staged) -> io::Result<()> {
        let text = record::encode(staged) + "\n";
        let name = note_name(&staged.artifact);
        files::write_durably(&self.scratch_dir(), &self.staged_dir(), &name, text.as_bytes())
    }

    /// All staged builds, by name.
    ///
    /// # Errors
    ///
    /// `.cutover/staged/` cannot be read.
    pub fn staged(&self) -> io::Result<Vec<Staged>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.staged_dir())? {
            let artifact = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(artifact) = artifact else { continue };
            match self.staged_note(&artifact) {
                Ok(staged) => found.extend(staged),
                // Not known to be staged; the others are.
                Err(error) => {
                    tracing::warn!(%artifact, %error, "the staged build {artifact} cannot be read: {error}");
                }
            }
        }
        found.sort_unstable_by(|a, b| a.artifact.cmp(&b.artifact));
        Ok(found)
    }

    /// Whether this build is staged, from an archive with this digest.
    ///
    /// # Errors
    ///
    /// The disk cannot be read.
    pub fn is_staged(&self, artifact: &ArtifactName, sha256: &Sha256) -> io::Result<bool> {
        Ok(self.staged_note(artifact)?.is_some_and(|staged| staged.sha256 == *sha256))
    }

    /// Removes a staged build, if it exists.
    ///
    /// # Errors
    ///
    /// It cannot be moved away, and stays.
    pub fn unstage(&self, artifact: &ArtifactName) -> io::Result<()> {
        let _writing = self.write_lock();
        Ok(self.remove_staged(artifact)?)
    }

    /// Removes all staged builds except `keep`, and returns the removed ones. A build that cannot be removed is noted.
    ///
    /// # Errors
    ///
    /// `.cutover/staged/` cannot be read.
    pub fn prune_staged(&self, keep: &[ArtifactName]) -> io::Result<Vec<ArtifactName>> {
        let unwanted = self.staged()?.into_iter().map(|staged| staged.artifact).filter(|it| !keep.contains(it));
        let unpaired = self.noted_in(&self.staged_dir());
        Ok(self.checking_again(&self.staged_dir(), || {
            unpaired.iter().filter_map(|path| path.file_name()).for_each(|name| self.remove_unpaired(name));
            unwanted
                .filter(|artifact| {
                    let _writing = self.write_lock();
                    self.remove_or_note(artifact)
                })
                .collect()
        }))
        .and_then(|gone: Vec<ArtifactName>| {
            if !gone.is_empty() {
                self.remove_old_lists()?;
            }
            Ok(gone)
        })
    }

    /// Removes the parts of a staged build that lacks its tree or its note, as left behind by a killed agent, and what
    /// [`Site::preflight_switch`] left behind. `name` is an entry of `.cutover/staged/`.
    pub(super) fn remove_unpaired(&self, name: &OsStr) {
        if is_probe(name) {
            // What stays is noted.
            drop(self.remove_probe(&self.staged_dir().join(name)));
            return;
        }
        let Some(name) = name.to_str() else { return };
        let noted = name.strip_prefix('.').and_then(|name| name.strip_suffix(".json"));
        let Ok(artifact) = noted.unwrap_or(name).parse() else { return };
        // While a build is staged, its note exists without its tree for a moment.
        let _writing = self.write_lock();
        // If it cannot be read, it is not known to be unfinished.
        if matches!(self.staged_note(&artifact), Ok(None)) {
            self.remove_or_note(&artifact);
        }
    }

    /// Removes a staged build, or notes why it stays. Returns whether it was removed. The caller holds the writing lock.
    fn remove_or_note(&self, artifact: &ArtifactName) -> bool {
        let removed = self.remove_staged(artifact);
        if let Err(stays) = &removed {
            self.note(&self.staged_path(artifact), stays);
        }
        removed.is_ok()
    }

    /// The note of a staged tree; `None` unless both exist. An unreadable note counts as missing, so that the build is staged
    /// again.
    pub(super) fn staged_note(&self, artifact: &ArtifactName) -> io::Result<Option<Staged>> {
        if !files::is_real_dir(&self.staged_path(artifact))? {
            return Ok(None);
        }
        let bytes = files::read_if_there(&self.staged_dir().join(note_name(artifact)))?;
        Ok(bytes.and_then(|bytes| record::decode(artifact.as_str(), &bytes).ok()))
    }

    /// Removes tree and note. The caller holds the writing lock. What stays of the tree after its move is only noted.
    fn remove_staged(&self, artifact: &ArtifactName) -> Result<(), NotRemoved> {
        let path = self.staged_path(artifact);
        if path.symlink_metadata().is_ok() {
            let trash = self.retire(&path)?;
            self.remove(&trash);
        }
        let note = self.staged_dir().join(note_name(artifact));
        self.remove_staged_note(artifact).map_err(|error| NotRemoved::new(&note, error))
    }

    pub(super) fn remove_staged_note(&self, artifact: &ArtifactName) -> io::Result<()> {
        files::remove_file_if_there(&self.staged_dir().join(note_name(artifact)))
    }

    /// Checks that the disk has room for an unpacked build.
    ///
    /// # Errors
    ///
    /// [`Step::Unpack`], with the needed and the free space.
    pub(crate) fn fits(&self, build: &Build) -> Result<(), StageFault> {
        let artifact = &build.artifact;
        let stat = self.space().map_err(|e| unreadable(artifact, &e))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let needed = tree_bytes(build).saturating_add(MARGIN_BYTES);
        let root = self.root().display();
        if free < needed {
            let reason = format!(
                "{artifact} needs {needed} bytes under {root}, but only {free} are free; free some space, or lower keep_releases"
            );
            return Err(StageFault { retry: Retry::WithRoom, ..StageFault::new(Step::Unpack, &reason) });
        }
        let needed = build.entries.saturating_add(MARGIN_INODES);
        // Filesystems that create inodes on demand (btrfs) report 0 inodes.
        if stat.f_files != 0 && stat.f_favail < needed {
            let reason = format!(
                "{artifact} needs {needed} inodes under {root}, but only {} are free; remove files, or lower keep_releases",
                stat.f_favail
            );
            return Err(StageFault { retry: Retry::WithRoom, ..StageFault::new(Step::Unpack, &reason) });
        }
        Ok(())
    }
}

/// The name of the note next to a staged tree. Artifact names have no leading dot, so the names cannot collide.
fn note_name(artifact: &ArtifactName) -> String {
    format!(".{artifact}.json")
}

fn unreadable(artifact: &ArtifactName, error: &io::Error) -> StageFault {
    StageFault::of(Step::Unpack, &format!("cannot read the staged tree of {artifact}"), error)
}

fn step_of(error: &UnpackError) -> Step {
    match error {
        UnpackError::Canceled | UnpackError::Source(_) => Step::Fetch,
        UnpackError::Digest { .. } | UnpackError::TooLong { .. } | UnpackError::TooShort { .. } => Step::Verify,
        _ => Step::Unpack,
    }
}

//! Removes releases: by retention, and after an abort. Only releases with a record of Cutover are removed.
//!
//! [`crate::plan::retention`] decides which releases to remove; this module checks against the disk and removes them. Neither
//! `current` nor a release of another tool is ever removed, whatever the caller passes. The caller must protect the releases
//! that the protocol refers to. What failed or never ran is moved to `.cutover/failed/` first: see [`super::failed`].

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::plan::retention::{self, Keep, LastRun, RecordedRelease, RunResult};
use crate::protocol::ids::{Epoch, ReleaseName};

use super::files;
use super::record::ReleaseRecord;
use super::removal::NotRemoved;
use super::site::Site;
use super::switch::{CurrentLink, is_probe};

/// The result of [`Site::discard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// Nothing was removed: the release is missing, is `current`, was created by another epoch, or cannot be moved.
    Kept,
    /// The release is no longer in `releases/`.
    Removed,
}

/// The releases that retention decides about.
#[derive(Debug, Default)]
struct Candidates {
    /// Those that certainly are Cutover's.
    on_disk: Vec<RecordedRelease>,
    /// Those that no longer exist, and have a record.
    gone: Vec<ReleaseName>,
}

impl Site {
    /// Records the result of running a release. A later result replaces an earlier one.
    ///
    /// # Errors
    ///
    /// The record cannot be written. A release without a record belongs to another tool, and is ignored.
    pub fn mark_ran(&self, name: &ReleaseName, epoch: Epoch, outcome: RunResult) -> io::Result<()> {
        let _writing = self.write_lock();
        let Some(mut record) = self.record(name)? else { return Ok(()) };
        let latest = self.records()?.iter().filter_map(|r| r.last_run).map(|run| run.sequence).max();
        // A repeat after a restart is the same run.
        let is_known = record.last_run.is_some_and(|run| Some(run.sequence) == latest && run.outcome == outcome);
        if is_known && record.ran_in >= Some(epoch) {
            return Ok(());
        }
        record.ran_in = record.ran_in.max(Some(epoch));
        if is_known {
            return self.write_record(&record);
        }
        record.last_run = Some(LastRun { sequence: latest.map_or(1, |n| n.saturating_add(1)), outcome });
        self.write_record(&record)
    }

    /// Records that the release which the node runs ran successfully, if the switch could not record it.
    ///
    /// # Errors
    ///
    /// As [`Site::mark_ran`].
    pub fn mark_runs(&self, name: &ReleaseName, epoch: Epoch) -> io::Result<()> {
        let last_run = self.record(name)?.and_then(|record| record.last_run);
        if last_run.is_some_and(|run| run.outcome == RunResult::Failed) {
            // A revert has left it, and the journal does not say so yet.
            return Ok(());
        }
        self.mark_ran(name, epoch, RunResult::Done)
    }

    /// The last release that ran successfully before the current one, and still exists.
    ///
    /// # Errors
    ///
    /// The disk cannot be read.
    pub fn previous(&self) -> io::Result<Option<ReleaseName>> {
        let current = self.current_release()?;
        Ok(retention::previous(&self.candidates()?.on_disk, current.as_ref()))
    }

    /// Removes releases by retention, and returns their names. `protected` are the releases that the protocol still refers
    /// to: that of a running deploy, its `from`, and `committed`. A release that cannot be removed is noted, and keeps no other
    /// from being removed; removals that failed before are tried again. With a budget, each complete release is measured once.
    ///
    /// # Errors
    ///
    /// The disk cannot be read. Releases that were handled before it are removed.
    pub fn prune(&self, keep: Keep, protected: &BTreeSet<ReleaseName>) -> io::Result<Vec<ReleaseName>> {
        self.remove_again();
        self.remove_temporaries_again();
        if keep.budget_bytes.is_some() {
            self.measure()?;
        }
        let mut retired = Vec::new();
        let releases = self.releases_dir();
        let probes = self.noted_in(&releases).into_iter().filter(|path| path.file_name().is_some_and(is_probe));
        let pruned = self.checking_again(&self.records_dir(), || {
            self.checking_again(&releases, || {
                // What stays is noted again.
                probes.for_each(|probe| drop(self.remove_probe(&probe)));
                self.retire_old(keep, protected, &mut retired)
            })
        });
        // The lock is free here: removing a large tree takes long, and must not delay a switch.
        self.remove_all(&retired);
        let removed = pruned?;
        self.prune_failed(keep)?;
        self.note_all_changes()?;
        self.remove_old_lists()?;
        Ok(removed)
    }

    /// Moves old releases to the scratch directory, and adds their new paths to `retired`.
    fn retire_old(
        &self,
        keep: Keep,
        protected: &BTreeSet<ReleaseName>,
        retired: &mut Vec<PathBuf>,
    ) -> io::Result<Vec<ReleaseName>> {
        let _writing = self.write_lock();
        let Candidates { on_disk, gone } = self.candidates()?;
        // A person may have removed a release by hand.
        for release in gone {
            self.forget_retired(&release);
        }
        let current = self.current_release()?;
        let mut removed = Vec::new();
        for name in retention::to_remove(&on_disk, current.as_ref(), protected, keep) {
            // Checked again on the disk: a person may have moved `current` to an old release.
            if self.is_current(&name)? {
                continue;
            }
            let has_run_well = on_disk.iter().any(|it| it.name == name && it.has_run_well());
            let trash = if has_run_well { self.retire_release(&name) } else { self.retire_failed(&name) };
            if let Some(trash) = trash {
                retired.extend(trash);
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// Measures the releases that were not measured yet. The lock is not held meanwhile: a large release takes seconds.
    fn measure(&self) -> io::Result<()> {
        for record in self.records()?.into_iter().filter(|record| record.complete && record.disk_bytes.is_none()) {
            let path = self.release_path(&record.release);
            let list = self.list_path(&record.sha256).metadata().map_or(0, |meta| meta.len());
            let disk_bytes = match files::disk_bytes(&path).map(|tree| tree.saturating_add(list)) {
                Ok(disk_bytes) => disk_bytes,
                Err(error) => {
                    let release = &record.release;
                    tracing::warn!(%release, %error, "release {release} does not count against releases_budget, because it cannot be measured: {error}");
                    continue;
                }
            };
            let _writing = self.write_lock();
            // Read again: it may have run or been removed meanwhile.
            if let Some(mut record) = self.record(&record.release)? {
                record.disk_bytes = Some(disk_bytes);
                self.write_record(&record)?;
            }
        }
        Ok(())
    }

    /// Removes a release that `created_by` created and `current` does not point to: the rest of an aborted deploy. If it cannot
    /// be moved, it stays and is noted.
    ///
    /// # Errors
    ///
    /// The disk cannot be read.
    pub fn discard(&self, name: &ReleaseName, created_by: Epoch) -> io::Result<Discarded> {
        let writing = self.write_lock();
        let Some(record) = self.record(name)? else { return Ok(Discarded::Kept) };
        if record.created_by != created_by || self.is_current(name)? {
            return Ok(Discarded::Kept);
        }
        if !self.is_on_disk(name)? {
            self.forget_record(name)?;
            return Ok(Discarded::Kept);
        }
        if !self.is_ours(&record) {
            return Ok(Discarded::Kept);
        }
        let Some(trash) = self.retire_failed(name) else { return Ok(Discarded::Kept) };
        drop(writing);
        self.remove_all(&trash);
        Ok(Discarded::Removed)
    }

    /// Moves a release out of `releases/` in one step, removes its record, and returns the trees to remove. None if it cannot be
    /// moved: it is noted. The caller holds the writing lock.
    fn retire_release(&self, name: &ReleaseName) -> Option<Vec<PathBuf>> {
        let path = self.release_path(name);
        match self.retire(&path) {
            Ok(trash) => {
                self.forget_retired(name);
                Some(vec![trash])
            }
            Err(stays) => {
                self.note(&path, &stays);
                None
            }
        }
    }

    /// As `retire_release`, and keeps the tree for inspection if the settings say so.
    pub(super) fn retire_failed(&self, name: &ReleaseName) -> Option<Vec<PathBuf>> {
        if self.keep_failed() == 0 {
            return self.retire_release(name);
        }
        match self.inspect_later(name) {
            Ok(trash) => {
                self.forget_retired(name);
                Some(trash)
            }
            Err(stays) => {
                self.note(&self.release_path(name), &stays);
                None
            }
        }
    }

    /// Removes the record of a release that is gone. A failure is noted.
    fn forget_retired(&self, name: &ReleaseName) {
        if let Err(error) = self.forget_record(name) {
            let record = self.record_path(name);
            self.note(&record, &NotRemoved::new(&record, error));
        }
    }

    fn is_on_disk(&self, name: &ReleaseName) -> io::Result<bool> {
        files::is_real_dir(&self.release_path(name))
    }

    /// Whether Cutover created the directory that now has the name of the record. A complete release always counts as
    /// Cutover's. An unfinished one is compared by inode, because another tool may have used the name meanwhile. An empty one may
    /// have been left by [`files::rename_dir_to_new`], and has nothing to lose.
    pub(super) fn is_ours(&self, record: &ReleaseRecord) -> bool {
        let path = self.release_path(&record.release);
        let has_inode = || path.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.ino() == record.inode);
        record.complete || has_inode() || files::is_empty_dir(&path)
    }

    fn candidates(&self) -> io::Result<Candidates> {
        let mut candidates = Candidates::default();
        for record in self.records()? {
            let name = &record.release;
            match self.is_on_disk(name) {
                Ok(false) => candidates.gone.push(record.release),
                Ok(true) if self.is_ours(&record) => candidates.on_disk.push(record.for_retention()),
                Ok(true) => {}
                // Kept, and no reason to keep the others.
                Err(error) => {
                    tracing::warn!(release = %name, %error, "release {name} is kept, because its directory cannot be read: {error}");
                }
            }
        }
        Ok(candidates)
    }

    fn current_release(&self) -> io::Result<Option<ReleaseName>> {
        match self.current()? {
            CurrentLink::Release(name) => Ok(Some(name)),
            CurrentLink::Absent | CurrentLink::Elsewhere(_) | CurrentLink::NotALink => Ok(None),
        }
    }
}

//! Removing releases: by retention, and on an abort. Only ever those that Cutover has recorded as its own.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::plan::retention::{self, Known, LastRun, Ran};
use crate::protocol::ids::{Epoch, ReleaseName};

use super::files;
use super::record::ReleaseRecord;
use super::site::Site;
use super::switch::CurrentLink;

/// What [`Site::discard`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// Nothing: it is not there, `current` points to it, or that epoch did not make it.
    Kept,
    /// It is gone.
    Removed,
}

impl Site {
    /// Records how the release that `current` points to has done. The last word counts.
    ///
    /// # Errors
    ///
    /// The record cannot be written. A release without a record is another tool's, and fine.
    pub fn mark_ran(&self, name: &ReleaseName, epoch: Epoch, outcome: Ran) -> io::Result<()> {
        let _writing = self.write();
        let Some(mut record) = self.record(name)? else { return Ok(()) };
        let latest = self.records()?.iter().filter_map(|r| r.last_run).map(|run| run.sequence).max();
        // Said again after a restart, it is the same run.
        let is_known = record.last_run.is_some_and(|run| Some(run.sequence) == latest && run.outcome == outcome);
        if is_known && record.ran_in == Some(epoch) {
            return Ok(());
        }
        record.ran_in = record.ran_in.max(Some(epoch));
        if is_known {
            return self.write_record(&record);
        }
        record.last_run = Some(LastRun { sequence: latest.map_or(1, |n| n.saturating_add(1)), outcome });
        self.write_record(&record)
    }

    /// The release that ran with success before the one that `current` points to, and is still there.
    ///
    /// # Errors
    ///
    /// The disk does not answer.
    pub fn previous(&self) -> io::Result<Option<ReleaseName>> {
        let current = self.current_release()?;
        let there: Vec<Known> = self.known()?.into_iter().filter(|k| self.is_on_disk(&k.name)).collect();
        Ok(retention::previous(&there, current.as_ref()))
    }

    /// Removes what retention lets go, and answers which. `protected` is what the protocol still names: a running
    /// deploy's release, its `from`, `committed`.
    ///
    /// # Errors
    ///
    /// The disk does not allow it; what went before is gone.
    pub fn prune(&self, keep: usize, protected: &BTreeSet<ReleaseName>) -> io::Result<Vec<ReleaseName>> {
        let writing = self.write();
        let (gone, there): (Vec<Known>, Vec<Known>) =
            self.known()?.into_iter().partition(|k| !self.is_on_disk(&k.name));
        for known in gone {
            self.forget_record(&known.name)?;
        }
        let current = self.current_release()?;
        let names = retention::to_remove(&there, current.as_ref(), protected, keep);
        let (mut removed, mut trash) = (Vec::new(), Vec::new());
        let retired = names.into_iter().try_for_each(|name| -> io::Result<()> {
            if !self.is_current(&name)? {
                trash.push(self.retire(&name)?);
                removed.push(name);
            }
            Ok(())
        });
        // Removing takes long on a large tree, and a switch must not wait for it.
        drop(writing);
        trash.iter().try_for_each(|path| files::remove_tree(path))?;
        retired?;
        Ok(removed)
    }

    /// Removes a release that `created_by` made, and that `current` does not point to: what an aborted epoch leaves.
    ///
    /// # Errors
    ///
    /// The disk does not allow it.
    pub fn discard(&self, name: &ReleaseName, created_by: Epoch) -> io::Result<Discarded> {
        let writing = self.write();
        let Some(record) = self.record(name)? else { return Ok(Discarded::Kept) };
        if record.created_by != created_by || self.is_current(name)? {
            return Ok(Discarded::Kept);
        }
        if !self.is_on_disk(name) {
            self.forget_record(name)?;
            return Ok(Discarded::Kept);
        }
        if !self.is_ours(&record)? {
            return Ok(Discarded::Kept);
        }
        let trash = self.retire(name)?;
        drop(writing);
        files::remove_tree(&trash)?;
        Ok(Discarded::Removed)
    }

    /// Takes a release out of `releases/` in one step, and forgets it; the caller holds the writing lock, and removes
    /// the tree that is answered. A node that is killed before that removes it at its next start.
    fn retire(&self, name: &ReleaseName) -> io::Result<PathBuf> {
        let trash = files::move_to_scratch(&self.release_path(name), &self.scratch_dir())?;
        files::sync_dir(&self.releases_dir())?;
        self.forget_record(name)?;
        Ok(trash)
    }

    fn is_on_disk(&self, name: &ReleaseName) -> bool {
        files::is_real_dir(&self.release_path(name))
    }

    /// Whether the directory is the one that the record is about. A complete one is; one that was only begun is by
    /// its inode, as another tool may have taken the name meanwhile.
    fn is_ours(&self, record: &ReleaseRecord) -> io::Result<bool> {
        if record.complete {
            return Ok(true);
        }
        let meta = self.release_path(&record.release).symlink_metadata()?;
        Ok(meta.ino() == record.inode)
    }

    /// What retention may decide over: releases that are gone, or surely Cutover's.
    fn known(&self) -> io::Result<Vec<Known>> {
        let mut known = Vec::new();
        for record in self.records()? {
            if !self.is_on_disk(&record.release) || self.is_ours(&record)? {
                known.push(record.known());
            }
        }
        Ok(known)
    }

    fn current_release(&self) -> io::Result<Option<ReleaseName>> {
        match self.current()? {
            CurrentLink::Release(name) => Ok(Some(name)),
            CurrentLink::Absent | CurrentLink::Elsewhere(_) | CurrentLink::NotALink => Ok(None),
        }
    }
}

//! `.cutover/failed/<name>/`: the last failed releases, for inspection.
//!
//! ```text
//! releases/<name> ── aborted, reverted, or damaged: one rename ──► .cutover/failed/<name> ── later ones, budget ──► removed
//! ```
//!
//! A release here has no record. So it is no release any more: nothing rolls back to it, no check meets it, and `current` never
//! points to it. Its files are as they were, but links to `shared/` lead elsewhere from here. The latest are kept, at most
//! [`Site::keeping_failed`], as far as the budget of the releases allows: each release comes first. A deploy that lacks disk
//! space removes all.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::plan::retention::{Keep, failed_to_keep};
use crate::protocol::ids::ReleaseName;

use super::files;
use super::removal::NotRemoved;
use super::site::Site;

impl Site {
    /// Where a failed release is kept.
    #[must_use]
    pub fn failed_path(&self, name: &ReleaseName) -> PathBuf {
        self.failed_dir().join(name.as_str())
    }

    /// Moves a damaged release away, so that it can be made anew under its name. Its record stays: see [`ReleaseRecord::again`](super::record::ReleaseRecord::again).
    ///
    /// # Errors
    ///
    /// It is current, or cannot be moved.
    pub fn set_aside(&self, name: &ReleaseName) -> io::Result<()> {
        let writing = self.write_lock();
        if self.is_current(name)? {
            return Err(io::Error::other(format!("release {name} is current")));
        }
        let trash = match self.keep_failed() {
            0 => vec![self.retire(&self.release_path(name))?],
            _ => self.inspect_later(name)?,
        };
        if let Some(mut record) = self.record(name)? {
            record.complete = false;
            self.write_record(&record)?;
        }
        drop(writing);
        self.remove_all(&trash);
        Ok(())
    }

    /// Moves a release to `.cutover/failed/`, and returns the trees that go for it. The caller holds the writing lock.
    pub(super) fn inspect_later(&self, name: &ReleaseName) -> Result<Vec<PathBuf>, NotRemoved> {
        let to = self.failed_path(name);
        let mut trash = Vec::new();
        if to.symlink_metadata().is_ok() {
            trash.push(self.retire(&to)?);
        }
        self.move_away(&self.release_path(name), &to)?;
        let shown = to.display();
        tracing::info!(release = %name, path = %shown, "release {name} is kept for inspection: {shown}");
        match self.failed() {
            Ok(failed) => {
                trash.extend(failed.iter().skip(self.keep_failed()).filter_map(|it| self.retire_or_note(it)));
            }
            // Pruning tries again.
            Err(error) => tracing::debug!(%error, "cannot read the failed releases: {error}"),
        }
        Ok(trash)
    }

    /// Removes failed releases beyond their number and the budget.
    pub(super) fn prune_failed(&self, keep: Keep) -> io::Result<()> {
        let failed = self.failed()?;
        if failed.is_empty() {
            return Ok(());
        }
        let mut sizes = vec![0; failed.len()];
        let mut room_bytes = None;
        if let Some(budget_bytes) = keep.budget_bytes {
            for (path, size) in failed.iter().zip(&mut sizes).take(self.keep_failed()) {
                // What cannot be measured does not count, like a release.
                *size = files::disk_bytes(path).unwrap_or(0);
            }
            let used_bytes = self.records()?.iter().filter_map(|record| record.disk_bytes).sum();
            room_bytes = Some(budget_bytes.saturating_sub(used_bytes));
        }
        self.remove_failed_after(failed_to_keep(self.keep_failed(), room_bytes, &sizes)).map(drop)
    }

    /// Removes all failed releases, for a deploy that lacks disk space. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub(crate) fn remove_failed(&self) -> io::Result<bool> {
        Ok(self.remove_failed_after(0)? > 0)
    }

    /// Removes all but the latest `kept`, and returns how many.
    fn remove_failed_after(&self, kept: usize) -> io::Result<usize> {
        let trash: Vec<PathBuf> = {
            let _writing = self.write_lock();
            let failed = self.failed()?;
            self.checking_again(&self.failed_dir(), || {
                failed.iter().skip(kept).filter_map(|path| self.retire_or_note(path)).collect()
            })
        };
        self.remove_all(&trash);
        Ok(trash.len())
    }

    fn retire_or_note(&self, path: &Path) -> Option<PathBuf> {
        self.retire(path).map_err(|stays| self.note(path, &stays)).ok()
    }

    /// The failed releases, the latest first. A move changes the `ctime` of a directory.
    fn failed(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.failed_dir())? {
            let entry = entry?;
            // Other names are an operator's.
            let is_release = entry.file_name().to_str().is_some_and(|name| name.parse::<ReleaseName>().is_ok());
            match entry.path().symlink_metadata() {
                Ok(meta) if is_release => found.push((meta, entry.path())),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        found.sort_by_cached_key(|(meta, path)| Reverse((meta.ctime(), meta.ctime_nsec(), path.clone())));
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }
}

//! Removed trees, and those that cannot be removed.
//!
//! ```text
//! releases/<name> ── retire: one rename ──► .cutover/tmp/trash-<name>-… ── remove ──► gone, or noted
//! ```
//!
//! A tree is moved out of its place before anything in it is removed, so that no release is ever half there. Files that cannot be
//! removed stay in the scratch directory, noted, and everything else goes: a removal that fails is an error for nobody, neither
//! for the deploy that needed the place nor for the agent that starts. A tree that cannot be moved stays whole in its place, and so
//! does a release with a mount inside, which something may use by its path. [`Site::prune`] and each start try again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use crate::protocol::record::Unremovable;

use super::files;
use super::notes::{News, Notes};
use super::removal::{self, Cause, NotRemoved};
use super::site::Site;

impl Site {
    /// The files and directories that could not be removed, each with the reason.
    #[must_use]
    pub fn unremovable(&self) -> Vec<Unremovable> {
        self.notes().all()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // A poisoned lock is harmless: notes are only shown.
        self.not_removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a tree, a file or a link. What cannot be removed is noted.
    pub(super) fn remove(&self, path: &Path) {
        match removal::remove_tree(path) {
            Ok(()) => self.notes().forget(path),
            Err(stays) => self.note(path, &stays),
        }
    }

    /// As `remove`, for several.
    pub(super) fn remove_all(&self, trees: &[PathBuf]) {
        for tree in trees {
            self.remove(tree);
        }
    }

    /// Notes that `tree` was not removed. The log gets each reason once.
    pub(super) fn note(&self, tree: &Path, stays: &NotRemoved) {
        let (path, reason) = (stays.path.display().to_string(), stays.reason());
        let news = self.notes().add(tree, Unremovable::new(&path, &reason));
        if news == News::New {
            tracing::warn!(%path, %reason, "{path} cannot be removed and stays, the next try is later: {reason}");
        }
    }

    /// Moves a tree out of its place in one step, and returns its new path, for [`Site::remove`]. The caller holds the writing
    /// lock. If the agent is killed before the removal, the next start removes it.
    ///
    /// # Errors
    ///
    /// The tree stays in its place: it cannot be moved, or has a mount inside.
    pub(super) fn retire(&self, path: &Path) -> Result<PathBuf, NotRemoved> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let trash = self.scratch_dir().join(files::random_name(&format!("trash-{name}")));
        self.move_away(path, &trash)?;
        Ok(trash)
    }

    /// Moves a tree to the unused path `to` in one step, durably. The caller holds the writing lock.
    ///
    /// # Errors
    ///
    /// As [`Site::retire`].
    pub(super) fn move_away(&self, path: &Path, to: &Path) -> Result<(), NotRemoved> {
        if let Some(mount) = removal::mount_below(path) {
            return Err(NotRemoved::new(&mount, Cause::MountPoint));
        }
        files::rename(path, to).map_err(|error| NotRemoved::new(path, error))?;
        // The move must be durable first: after a loss of power the tree would otherwise be back in its place, half removed.
        let parent = path.parent().unwrap_or(self.root());
        files::sync_dir(parent).map_err(|error| {
            let stays = NotRemoved::new(parent, error);
            self.note(to, &stays);
            stays
        })
    }

    /// Tries again to remove what stays in the scratch directory.
    pub(super) fn remove_again(&self) {
        let noted = self.noted_in(&self.scratch_dir());
        if noted.is_empty() {
            return;
        }
        // Their moves may not be durable yet: see `retire`.
        if [self.releases_dir(), self.staged_dir()].iter().all(|dir| files::sync_dir(dir).is_ok()) {
            for path in &noted {
                self.remove(path);
            }
        }
    }

    /// The noted entries of `dir`.
    pub(super) fn noted_in(&self, dir: &Path) -> Vec<PathBuf> {
        self.notes().trees_in(dir)
    }

    /// Forgets every note about an entry of `dir` that `work` does not renew. `work` decides about all entries of `dir`.
    pub(crate) fn checking_again<T>(&self, dir: &Path, work: impl FnOnce() -> T) -> T {
        self.notes().begin_check(dir);
        let done = work();
        self.notes().end_of_check(dir);
        done
    }

    /// Removes a file that Cutover wrote, if it exists. Notes a failure.
    pub(crate) fn remove_file(&self, path: &Path) {
        if let Err(error) = files::remove_file_if_there(path) {
            self.note(path, &NotRemoved::new(path, error));
        }
    }
}

impl From<NotRemoved> for io::Error {
    fn from(stays: NotRemoved) -> Self {
        Self::other(stays)
    }
}

//! Reads and switches the link `current`.
//!
//! A switch creates a new link under a temporary name, and renames it over `current`. The rename is atomic: readers see the old
//! or the new release, never none. Only symbolic links are replaced; a file or directory named `current` is refused.
//!
//! This module does not run hooks, and does not decide when to switch. The caller must store its journal before it switches.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::protocol::ids::ReleaseName;
use crate::protocol::record::Step;

use super::fault::StageFault;
use super::files;
use super::removal::NotRemoved;
use super::site::{PROBE, Site, TEMPORARY};

/// What is at `current`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CurrentLink {
    /// Nothing.
    Absent,
    /// A link of another tool or a person, with its exact text.
    Elsewhere(PathBuf),
    /// A file or a directory. Cutover never replaces one.
    NotALink,
    /// A link to `releases/<name>`.
    Release(ReleaseName),
}

/// The new target of `current`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkTarget {
    /// No target: `current` is removed. For a node that ran nothing before its first switch.
    Nothing,
    /// `releases/<name>`.
    Release(ReleaseName),
    /// A link with exactly this text, as read in [`CurrentLink::Elsewhere`].
    Verbatim(PathBuf),
}

impl Site {
    /// Reads `current`. An absolute link counts as a release if Cutover created that release.
    ///
    /// # Errors
    ///
    /// The disk cannot be read.
    pub fn current(&self) -> io::Result<CurrentLink> {
        let path = self.current_path();
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(CurrentLink::Absent),
            Err(error) => return Err(error),
            Ok(meta) if !meta.is_symlink() => return Ok(CurrentLink::NotALink),
            Ok(_) => {}
        }
        let text = fs::read_link(&path)?;
        if let Some(name) = release_in(&text) {
            return Ok(CurrentLink::Release(name));
        }
        let absolute = text.strip_prefix(self.root()).ok().and_then(release_in);
        match absolute {
            Some(name) if self.record(&name)?.is_some() => Ok(CurrentLink::Release(name)),
            _ => Ok(CurrentLink::Elsewhere(text)),
        }
    }

    /// Checks whether a switch can succeed, by trying all its steps except the last rename.
    ///
    /// # Errors
    ///
    /// [`Step::Preflight`], with the obstacle and its fix.
    pub fn preflight_switch(&self) -> Result<(), StageFault> {
        let path = self.current_path();
        let shown = path.display();
        let failed = |what: &str, e: &io::Error| StageFault::of(Step::Preflight, what, e);
        match self.current() {
            Ok(CurrentLink::NotALink) => return Err(self.not_a_link(Step::Preflight)),
            Ok(_) => {}
            Err(error) => return Err(failed(&format!("{shown} cannot be read"), &error)),
        }
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
        match (device(self.root()), device(&self.releases_dir())) {
            (Ok(root), Ok(releases)) if root == releases => {}
            (Ok(_), Ok(_)) => {
                let reason = format!(
                    "{} is on another filesystem than {}; put both on one filesystem",
                    self.releases_dir().display(),
                    self.root().display()
                );
                return Err(StageFault::new(Step::Preflight, &reason));
            }
            (Err(error), _) | (_, Err(error)) => return Err(failed("the disk cannot be read", &error)),
        }
        self.try_to_place().map_err(|error| {
            let (from, to) = (self.staged_dir(), self.releases_dir());
            let what = format!(
                "cannot rename a directory from {} to {}, as every deploy does: both must be the agent's user's, and on one filesystem that can",
                from.display(),
                to.display()
            );
            failed(&what, &error)
        })?;
        let (first, second) = (self.temporary_link(), self.temporary_link());
        let tried = symlink("releases", &first).and_then(|()| files::rename(&first, &second));
        let cleaned = self.remove_temporary(&first).and(self.remove_temporary(&second));
        tried.and(cleaned).map_err(|error| {
            let root = self.root().display();
            failed(
                &format!("cannot create and rename a link in {root}; the agent's user needs to own this directory"),
                &error,
            )
        })
    }

    /// Moves an empty directory to `releases/`, as a release is placed, and removes it.
    fn try_to_place(&self) -> io::Result<()> {
        let name = files::random_name(PROBE);
        let (from, to) = (self.staged_dir().join(&name), self.releases_dir().join(&name));
        fs::create_dir(&from)?;
        let moved = files::rename_dir_to_new(&from, &to);
        let removed = self.remove_probe(if moved.is_ok() { &to } else { &from });
        moved.and(removed)
    }

    /// Removes a temporary link beside `current`. If it cannot be removed, it is noted, and pruning tries again.
    fn remove_temporary(&self, link: &Path) -> io::Result<()> {
        files::remove_file_if_there(link).map_err(|error| self.stays(link, error))
    }

    /// As `remove_temporary`, for an empty directory of [`Site::try_to_place`].
    pub(super) fn remove_probe(&self, dir: &Path) -> io::Result<()> {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.stays(dir, error)),
            _ => Ok(()),
        }
    }

    fn stays(&self, path: &Path, error: io::Error) -> io::Error {
        let stays = NotRemoved::new(path, error);
        self.note(path, &stays);
        stays.into()
    }

    /// Tries again to remove links that [`Site::preflight_switch`] or a failed switch has left beside `current`.
    pub(super) fn remove_temporaries_again(&self) {
        let links = self.noted_in(self.root());
        self.checking_again(self.root(), || links.iter().for_each(|link| self.remove_file(link)));
    }

    /// Points `current` at `target`, durably and atomically. If it points there already, this only makes that durable.
    /// Returns the time of the move; none if `current` already pointed there.
    ///
    /// # Errors
    ///
    /// [`Step::Switch`] if the target is missing, or `current` is not a link: nothing has changed. [`Step::Sync`] if
    /// `current` was moved, but may not survive a loss of power.
    pub fn switch(&self, target: &LinkTarget) -> Result<Option<Instant>, StageFault> {
        let _writing = self.write_lock();
        let path = self.current_path();
        let failed = |error: io::Error| {
            StageFault::of(Step::Switch, &format!("{} could not be switched", path.display()), &error)
        };
        let there = match path.symlink_metadata() {
            Ok(meta) if !meta.is_symlink() => return Err(self.not_a_link(Step::Switch)),
            Ok(_) => Some(fs::read_link(&path).map_err(failed)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let text = match target {
            LinkTarget::Nothing => None,
            LinkTarget::Release(name) => Some(Path::new("releases").join(name.as_str())),
            LinkTarget::Verbatim(text) => Some(text.clone()),
        };
        // Never point `current` at something missing: the application would break at its next start.
        if let Some(text) = &text {
            self.check_target(target, text)?;
        }
        let mut moved = None;
        if there != text {
            match &text {
                None => files::remove_file_if_there(&path).map_err(failed)?,
                Some(text) => self.replace_current(text).map_err(failed)?,
            }
            moved = Some(Instant::now());
        }
        files::sync_dir(self.root()).map_err(|error| {
            let what = format!("{} was switched, but may not survive a loss of power", path.display());
            StageFault::of(Step::Sync, &what, &error)
        })?;
        Ok(moved)
    }

    fn replace_current(&self, text: &Path) -> io::Result<()> {
        let temporary = self.temporary_link();
        symlink(text, &temporary)?;
        let renamed = files::rename(&temporary, &self.current_path());
        if renamed.is_err() {
            // Return the error of the rename.
            self.remove_file(&temporary);
        }
        renamed
    }

    fn check_target(&self, target: &LinkTarget, text: &Path) -> Result<(), StageFault> {
        let full = self.root().join(text);
        let there = match target {
            // A link under `releases/` does not count: Cutover only creates directories there.
            LinkTarget::Release(_) => files::is_real_dir(&full),
            LinkTarget::Nothing | LinkTarget::Verbatim(_) => Ok(full.is_dir()),
        };
        let there = there.map_err(|error| {
            let what = format!("{} cannot be read, so current is not changed", full.display());
            StageFault::of(Step::Switch, &what, &error)
        })?;
        if there {
            return Ok(());
        }
        let reason = format!("{} is not a directory, so current is not changed", full.display());
        Err(StageFault::new(Step::Switch, &reason))
    }

    /// Whether `current` leads to this release, in any notation.
    pub(super) fn is_current(&self, name: &ReleaseName) -> io::Result<bool> {
        let identity = |path: &Path| match fs::metadata(path) {
            Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let current = identity(&self.current_path())?;
        Ok(current.is_some() && current == identity(&self.release_path(name))?)
    }

    fn not_a_link(&self, step: Step) -> StageFault {
        let path = self.current_path();
        let reason = format!(
            "{} is not a symbolic link, and Cutover does not replace it; move it away (for example to {}.old), then deploy again",
            path.display(),
            path.display()
        );
        StageFault::new(step, &reason)
    }

    fn current_path(&self) -> PathBuf {
        self.root().join("current")
    }

    fn temporary_link(&self) -> PathBuf {
        self.root().join(format!("{TEMPORARY}{:016x}", fastrand::u64(..)))
    }
}

/// Whether this is the name of a directory of [`Site::try_to_place`].
pub(super) fn is_probe(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PROBE))
}

/// The release in a link's text, relative to the deploy directory.
fn release_in(text: &Path) -> Option<ReleaseName> {
    text.to_str()?.strip_prefix("releases/")?.parse().ok()
}

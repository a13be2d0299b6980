//! `current`: what it is, and moving it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::protocol::ids::ReleaseName;
use crate::protocol::record::Step;

use super::fault::StageFault;
use super::files;
use super::site::{Site, TEMPORARY};

/// What stands at `current`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CurrentLink {
    /// Nothing.
    Absent,
    /// A link to something that another tool made, or a person: its text, verbatim.
    Elsewhere(PathBuf),
    /// A file or a directory. Cutover never replaces one.
    NotALink,
    /// A link to `releases/<name>`.
    Release(ReleaseName),
}

/// What `current` is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkTarget {
    /// Nothing: it is removed. For a node that ran nothing before its first switch.
    Nothing,
    /// `releases/<name>`.
    Release(ReleaseName),
    /// A link with this very text, as [`CurrentLink::Elsewhere`] had it.
    Verbatim(PathBuf),
}

impl Site {
    /// What stands at `current`. An absolute link counts as a release where Cutover made that release.
    ///
    /// # Errors
    ///
    /// The disk does not answer.
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

    /// Whether a switch could succeed here, as far as can be told by trying everything but the last rename.
    ///
    /// # Errors
    ///
    /// With [`Step::Preflight`], naming what is in the way and how to mend it.
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
                    "{} is on another filesystem than {}; put both on one",
                    self.releases_dir().display(),
                    self.root().display()
                );
                return Err(StageFault::new(Step::Preflight, &reason));
            }
            (Err(error), _) | (_, Err(error)) => return Err(failed("the disk does not answer", &error)),
        }
        let (first, second) = (self.temporary_link(), self.temporary_link());
        let tried = symlink("releases", &first).and_then(|()| files::rename(&first, &second));
        let cleaned = files::remove_file_if_there(&first).and(files::remove_file_if_there(&second));
        tried.and(cleaned).map_err(|error| {
            let root = self.root().display();
            failed(&format!("no link can be made and renamed in {root}; the agent's user needs to own it"), &error)
        })
    }

    /// Points `current` at `target`, durably. At every instruction it is what it was, or what it is to be. Pointing
    /// it where it points already does nothing but make that durable. Tells when it moved; none: it did not have to.
    ///
    /// # Errors
    ///
    /// With [`Step::Switch`] when the target is not there, or `current` is no link: nothing has changed then. With
    /// [`Step::Sync`] when `current` was moved, and it is not known whether that would survive a loss of power.
    pub fn switch(&self, target: &LinkTarget) -> Result<Option<Instant>, StageFault> {
        let _writing = self.write();
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
            let what = format!("{} was moved, and may not survive a loss of power", path.display());
            StageFault::of(Step::Sync, &what, &error)
        })?;
        Ok(moved)
    }

    fn replace_current(&self, text: &Path) -> io::Result<()> {
        let temporary = self.temporary_link();
        symlink(text, &temporary)?;
        let renamed = files::rename(&temporary, &self.current_path());
        if renamed.is_err() {
            // The first error is the one to tell; the next start removes the temporary link.
            drop(fs::remove_file(&temporary));
        }
        renamed
    }

    fn check_target(&self, target: &LinkTarget, text: &Path) -> Result<(), StageFault> {
        let full = self.root().join(text);
        let there = match target {
            // A link under `releases/` is not a release.
            LinkTarget::Release(_) => files::is_real_dir(&full),
            LinkTarget::Nothing | LinkTarget::Verbatim(_) => full.is_dir(),
        };
        if there {
            return Ok(());
        }
        let reason = format!("{} is no directory, so current is left as it is", full.display());
        Err(StageFault::new(Step::Switch, &reason))
    }

    /// Whether `current` leads to this release, by whatever text.
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

/// The release that a link's text names, relative to the deploy directory.
fn release_in(text: &Path) -> Option<ReleaseName> {
    text.to_str()?.strip_prefix("releases/")?.parse().ok()
}

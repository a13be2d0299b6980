//! One deploy directory, opened by the one agent that may write to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, StatVfs, flock, statvfs};
use rustix::io::Errno;

use crate::protocol::ids::{ArtifactName, ReleaseName};
use crate::protocol::record::Release;

use super::files;
use super::ledger::Ledger;

/// How the names of temporary links beside `current` begin.
pub(super) const TEMPORARY: &str = ".current.";

/// The directory is not fit to deploy to.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// A part of it cannot be made or opened.
    #[error("{what} {} failed; the agent's user needs to own {}", path.display(), root.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The deploy directory.
        root: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another agent has it.
    #[error("{} is in use by another agent (process {pid}): one agent per deploy directory", path.display())]
    Locked {
        /// The deploy directory.
        path: PathBuf,
        /// The holder's process id, as it wrote it; "unknown" if it did not.
        pid: String,
    },
    /// Its parts lie on several filesystems, and a rename between them cannot be atomic.
    #[error("{} is on another filesystem than {}; they must be on one, as a switch is a rename", path.display(), root.display())]
    OtherFilesystem {
        /// The part that is elsewhere.
        path: PathBuf,
        /// The deploy directory.
        root: PathBuf,
    },
}

impl SiteError {
    /// A word for metrics and programs, of a fixed set.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Locked { .. } => "locked",
            Self::OtherFilesystem { .. } => "other_filesystem",
        }
    }
}

/// A deploy directory: `current`, `releases/`, `shared/`, `.cutover/`. Held by an exclusive lock as long as it lives.
#[derive(Debug)]
pub struct Site {
    root: PathBuf,
    /// One writer of records and links at a time; unpacking does not hold it.
    writing: Mutex<()>,
    /// Held for the lock alone; the kernel frees it when the process ends, however it ends.
    lock: File,
}

impl Site {
    /// Opens a deploy directory, and makes what is missing of it: `releases/`, `shared/`, `.cutover/`. Removes what
    /// an agent that was killed had begun.
    ///
    /// # Errors
    ///
    /// [`SiteError::Locked`] when another agent has it, [`SiteError::OtherFilesystem`] when its parts are mounts of
    /// their own, [`SiteError::Io`] when a part cannot be made.
    pub fn open(deploy_to: &Path) -> Result<Self, SiteError> {
        let failed = |what, path: &Path| {
            let (path, root) = (path.to_owned(), deploy_to.to_owned());
            move |source| SiteError::Io { what, path, root, source }
        };
        make_dir(deploy_to).map_err(failed("making", deploy_to))?;
        let root = fs::canonicalize(deploy_to).map_err(failed("resolving", deploy_to))?;
        let dot = root.join(".cutover");
        make_dir(&dot).map_err(failed("making", &dot))?;
        let lock = take_lock(&root, &dot.join("lock"))?;
        let site = Self { root, writing: Mutex::new(()), lock };
        let device = fs::metadata(&site.root).map_err(failed("reading", deploy_to))?.dev();
        for path in [site.releases_dir(), site.shared_dir(), site.staged_dir(), site.records_dir(), site.scratch_dir()]
        {
            make_dir(&path).map_err(failed("making", &path))?;
            let there = fs::metadata(&path).map_err(failed("reading", &path))?;
            // Shared paths are only linked to, never renamed to: they may be a mount.
            if there.dev() != device && path != site.shared_dir() {
                return Err(SiteError::OtherFilesystem { path, root: site.root.clone() });
            }
        }
        site.remove_leftovers().map_err(failed("cleaning", &site.scratch_dir()))?;
        Ok(site)
    }

    /// Removes unfinished unpacks, half-removed releases, and temporary links of an agent that was killed.
    fn remove_leftovers(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.scratch_dir())? {
            files::remove_tree(&entry?.path())?;
        }
        self.remove_unpaired()?;
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY));
            if is_ours && entry.file_type()?.is_symlink() {
                files::remove_file_if_there(&entry.path())?;
            }
        }
        Ok(())
    }

    /// The deploy directory, without links.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The agent's durable state.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger::new(self.root.join(".cutover"), self.scratch_dir(), "state.json")
    }

    /// What `current` was before the first switch. Apart from the state, which can be made again without it; this cannot.
    #[must_use]
    pub fn origin_ledger(&self) -> Ledger {
        Ledger::new(self.root.join(".cutover"), self.scratch_dir(), "origin.json")
    }

    /// Where a release lies, or would.
    #[must_use]
    pub fn release_path(&self, name: &ReleaseName) -> PathBuf {
        self.releases_dir().join(name.as_str())
    }

    /// The newest 14-digit name under `releases/`, whoever made it.
    ///
    /// # Errors
    ///
    /// `releases/` cannot be read.
    pub fn newest_release(&self) -> io::Result<Option<ReleaseName>> {
        let mut newest = None;
        for entry in fs::read_dir(self.releases_dir())? {
            let name = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            newest = newest.max(name);
        }
        Ok(newest)
    }

    /// Whether the release is on disk, complete and durable, and of this build.
    ///
    /// # Errors
    ///
    /// Its record cannot be read.
    pub fn holds(&self, release: &Release) -> io::Result<bool> {
        let recorded = self.record(&release.release)?.is_some_and(|record| record.holds(release));
        Ok(recorded && files::is_real_dir(&self.release_path(&release.release)))
    }

    /// Free space for the agent's user, in bytes.
    ///
    /// # Errors
    ///
    /// The filesystem does not answer.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = self.space()?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    pub(super) fn space(&self) -> io::Result<StatVfs> {
        Ok(statvfs(&self.root)?)
    }

    /// Taken by everything that changes records, `current` or what is staged.
    pub(super) fn write(&self) -> MutexGuard<'_, ()> {
        // What the lock guards is the disk, and every writer leaves that whole at each step.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn releases_dir(&self) -> PathBuf {
        self.root.join("releases")
    }

    pub(super) fn shared_dir(&self) -> PathBuf {
        self.root.join("shared")
    }

    pub(super) fn staged_dir(&self) -> PathBuf {
        self.root.join(".cutover/staged")
    }

    /// Unfinished and half-removed things; emptied at every start.
    pub(super) fn scratch_dir(&self) -> PathBuf {
        self.root.join(".cutover/tmp")
    }

    pub(super) fn records_dir(&self) -> PathBuf {
        self.root.join(".cutover/releases")
    }

    pub(super) fn record_path(&self, name: &ReleaseName) -> PathBuf {
        self.records_dir().join(format!("{name}.json"))
    }

    pub(super) fn staged_path(&self, artifact: &ArtifactName) -> PathBuf {
        self.staged_dir().join(artifact.as_str())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Closing alone is not enough: a child process that is just being started has a copy until it calls exec.
        if let Err(error) = flock(&self.lock, FlockOperation::Unlock) {
            tracing::debug!(root = %self.root.display(), %error, "the lock is freed when the process ends");
        }
    }
}

/// Makes a directory with its parents; readable by the web server's user.
fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn take_lock(root: &Path, path: &Path) -> Result<File, SiteError> {
    let failed = |what| {
        let (path, root) = (path.to_owned(), root.to_owned());
        move |source| SiteError::Io { what, path, root, source }
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o644);
    let mut file = options.open(path).map_err(failed("opening"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let read = file.take(20).read_to_string(&mut pid);
            let known = read.is_ok() && !pid.trim().is_empty() && pid.trim().bytes().all(|b| b.is_ascii_digit());
            let pid = if known { pid.trim().to_owned() } else { "unknown".to_owned() };
            return Err(SiteError::Locked { path: root.to_owned(), pid });
        }
        Err(error) => return Err(failed("locking")(error.into())),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed("writing"))?;
    Ok(file)
}

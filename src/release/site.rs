//! One deploy directory, opened by the one agent that may write to it.
//!
//! ```text
//! current          link to releases/<name>           releases/   one directory per release
//! shared/          linked into each release          .cutover/   state, records, staged builds, temporary files
//! ```
//!
//! The lock of [`Site::open`] ensures that only one agent writes. Within the agent, `Site::write_lock` serializes changes of
//! records, links and staged builds. Other programs, such as the web server and hooks, only read `current` and the releases.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, StatVfs, flock, statvfs};
use rustix::io::Errno;

use crate::kind::HasKind;
use crate::plan::verify::Verify;
use crate::protocol::ids::{ArtifactName, ReleaseName};
use crate::protocol::record::Release;

use super::files;
use super::ledger::Ledger;
use super::notes::Notes;

/// How the names of temporary links beside `current` begin.
pub(super) const TEMPORARY: &str = ".current.";
/// How the names of empty directories begin that are made and renamed to see whether that is possible.
pub(super) const PROBE: &str = ".cutover-probe";

/// Why a directory cannot be deployed to.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// A part of the deploy directory cannot be created or opened.
    #[error("{what} {} failed; the agent's user needs to own {}, and everything in its .cutover/", path.display(), root.display())]
    Io {
        /// The step that failed, for example "creating".
        what: &'static str,
        /// The part of the deploy directory.
        path: PathBuf,
        /// The deploy directory.
        root: PathBuf,
        /// The error of the filesystem.
        #[source]
        source: io::Error,
    },
    /// Another agent uses the deploy directory.
    #[error("{} is in use by another agent (process {pid}): one agent per deploy directory", path.display())]
    Locked {
        /// The deploy directory.
        path: PathBuf,
        /// The process id of that agent, or "unknown".
        pid: String,
    },
    /// Parts of the deploy directory are on several filesystems, so that renames between them are not atomic.
    #[error("{} is on another filesystem than {}; put both on one filesystem, because a switch is a rename", path.display(), root.display())]
    OtherFilesystem {
        /// The part on another filesystem.
        path: PathBuf,
        /// The deploy directory.
        root: PathBuf,
    },
}

impl HasKind for SiteError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Locked { .. } => "locked",
            Self::OtherFilesystem { .. } => "other_filesystem",
        }
    }
}

/// A deploy directory: `current`, `releases/`, `shared/`, `.cutover/`. It is locked exclusively while this value lives.
#[derive(Debug)]
pub struct Site {
    root: PathBuf,
    /// Allows one writer of records and links at a time. Unpacking does not need it.
    writing: Mutex<()>,
    /// The lock file. The kernel frees the lock when the process ends.
    lock: File,
    /// What could not be removed.
    pub(super) not_removed: Mutex<Notes>,
    verify: Verify,
    /// How many failed releases are kept for inspection.
    keep_failed: usize,
}

impl Site {
    /// Opens a deploy directory, and creates its missing parts: `releases/`, `shared/`, `.cutover/`. Removes unfinished
    /// work of a killed agent.
    ///
    /// # Errors
    ///
    /// [`SiteError::Locked`] if another agent uses it, [`SiteError::OtherFilesystem`] if a part is a separate mount,
    /// [`SiteError::Io`] if a part cannot be created.
    pub fn open(deploy_to: &Path) -> Result<Self, SiteError> {
        let failed = |what, path: &Path| {
            let (path, root) = (path.to_owned(), deploy_to.to_owned());
            move |source| SiteError::Io { what, path, root, source }
        };
        files::make_dirs(deploy_to).map_err(failed("creating", deploy_to))?;
        let root = fs::canonicalize(deploy_to).map_err(failed("resolving", deploy_to))?;
        let dot = root.join(".cutover");
        files::make_dirs(&dot).map_err(failed("creating", &dot))?;
        let lock = take_lock(&root, &dot.join("lock"))?;
        let site = Self {
            root,
            writing: Mutex::new(()),
            lock,
            not_removed: Mutex::default(),
            verify: Verify::default(),
            keep_failed: 0,
        };
        let device = fs::metadata(&site.root).map_err(failed("reading", deploy_to))?.dev();
        let parts = [site.releases_dir(), site.shared_dir(), site.staged_dir(), site.records_dir(), site.lists_dir()];
        for path in parts.into_iter().chain([site.failed_dir(), site.scratch_dir()]) {
            files::make_dirs(&path).map_err(failed("creating", &path))?;
            let there = fs::metadata(&path).map_err(failed("reading", &path))?;
            // `shared/` may be a mount, because shared paths are linked to and never renamed.
            if there.dev() != device && path != site.shared_dir() {
                return Err(SiteError::OtherFilesystem { path, root: site.root.clone() });
            }
        }
        // Also those that a killed agent has made without syncing their names.
        for dir in [Some(dot.as_path()), Some(site.root.as_path()), site.root.parent()].into_iter().flatten() {
            files::sync_entries(dir).map_err(failed("syncing", dir))?;
        }
        site.remove_leftovers()?;
        Ok(site)
    }

    /// Sets how releases are checked. Builds that are staged before have lists without digests.
    #[must_use]
    pub fn verifying(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// Sets how many failed releases are kept for inspection. Without it, none is.
    #[must_use]
    pub fn keeping_failed(mut self, count: usize) -> Self {
        self.keep_failed = count;
        self
    }

    /// Removes unfinished unpacks, partly removed releases, and temporary links of a killed agent. What cannot be removed is
    /// noted.
    fn remove_leftovers(&self) -> Result<(), SiteError> {
        for entry in self.entries(&self.scratch_dir())? {
            self.remove(&entry.path());
        }
        for entry in self.entries(&self.staged_dir())? {
            self.remove_unpaired(&entry.file_name());
        }
        let begins = |entry: &DirEntry, start| entry.file_name().to_str().is_some_and(|name| name.starts_with(start));
        for entry in self.entries(&self.root)? {
            if begins(&entry, TEMPORARY) && entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                self.remove_file(&entry.path());
            }
        }
        for entry in [self.entries(&self.releases_dir())?, self.entries(&self.staged_dir())?].into_iter().flatten() {
            if begins(&entry, PROBE) {
                // Only an empty directory is one of ours. What stays is noted.
                drop(self.remove_probe(&entry.path()));
            }
        }
        Ok(())
    }

    fn entries(&self, dir: &Path) -> Result<Vec<DirEntry>, SiteError> {
        fs::read_dir(dir).and_then(Iterator::collect).map_err(|source| SiteError::Io {
            what: "reading",
            path: dir.to_owned(),
            root: self.root.clone(),
            source,
        })
    }

    /// The deploy directory, with links resolved.
    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The agent's durable state.
    #[must_use]
    pub(crate) fn ledger(&self) -> Ledger {
        Ledger::new(self.root.join(".cutover"), self.scratch_dir(), "state.json")
    }

    /// The target of `current` before the first switch. It has its own file, because it cannot be rebuilt from Consul as the
    /// state can.
    #[must_use]
    pub(crate) fn origin_ledger(&self) -> Ledger {
        Ledger::new(self.root.join(".cutover"), self.scratch_dir(), "origin.json")
    }

    /// The directory of a release, existing or not.
    #[must_use]
    pub fn release_path(&self, name: &ReleaseName) -> PathBuf {
        self.releases_dir().join(name.as_str())
    }

    /// The newest 14-digit name under `releases/`, also of other tools.
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

    /// Whether the release is on disk, complete, durable, and made of this build.
    ///
    /// # Errors
    ///
    /// Its record cannot be read.
    pub fn holds(&self, release: &Release) -> io::Result<bool> {
        let recorded = self.record(&release.release)?.is_some_and(|record| record.holds(release));
        Ok(recorded && files::is_real_dir(&self.release_path(&release.release))?)
    }

    /// Free space for the agent's user, in bytes.
    ///
    /// # Errors
    ///
    /// The filesystem returns an error.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = self.space()?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    pub(super) fn space(&self) -> io::Result<StatVfs> {
        Ok(statvfs(&self.root)?)
    }

    /// Takes the lock for changes of records, `current` and staged builds. Blocks while another thread has it.
    pub(super) fn write_lock(&self) -> MutexGuard<'_, ()> {
        // A poisoned lock is harmless: it guards the disk, which every writer leaves consistent at each step.
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

    /// Unfinished and partly removed trees. Emptied at every start.
    pub(super) fn scratch_dir(&self) -> PathBuf {
        self.root.join(".cutover/tmp")
    }

    pub(super) fn records_dir(&self) -> PathBuf {
        self.root.join(".cutover/releases")
    }

    /// Lists of files, for [`super::check`].
    pub(super) fn lists_dir(&self) -> PathBuf {
        self.root.join(".cutover/files")
    }

    /// Failed releases, for inspection.
    pub(super) fn failed_dir(&self) -> PathBuf {
        self.root.join(".cutover/failed")
    }

    pub(super) const fn verify(&self) -> Verify {
        self.verify
    }

    pub(super) const fn keep_failed(&self) -> usize {
        self.keep_failed
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
        // Closing the file is not enough: a child process has a copy of it between fork and exec, which keeps the lock.
        if let Err(error) = flock(&self.lock, FlockOperation::Unlock) {
            let root = self.root.display();
            tracing::debug!(%root, %error, "cannot unlock {root}; the lock is freed when the process ends: {error}");
        }
    }
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

//! Uploads to a directory: a temporary file beside the object, sync, rename, sync of the directory.
//!
//! The writer of a temporary file holds a lock on it (`flock`), so the file of a killed writer can be told from one that is
//! being written. Locks of other machines may not be visible on a network filesystem. So the file's name contains the id of
//! this machine's boot, and files of others count as dead only after a day.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::error::StoreError;
use super::spool::{Abandoned, Spool};
use super::upload::DEAD_AFTER;

/// Bytes copied at once: few enough calls, and a stop is noticed soon.
const CHUNK_BYTES: usize = 1 << 20;

/// The start of every temporary file's name.
const PREFIX: &str = ".upload-";

/// A copy into the store; blocking.
pub(super) struct Copy {
    pub(super) root: PathBuf,
    pub(super) from: Spool,
    pub(super) to: PathBuf,
    /// Counts the bytes.
    pub(super) copied: Arc<AtomicU64>,
    pub(super) stop: CancellationToken,
}

impl Copy {
    /// Copies atomically and durably. `runtime` waits for what is not written yet.
    pub(super) fn run(mut self, runtime: &Handle) -> Result<(), StoreError> {
        let disk = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Disk { action, path, source }
        };
        let Self { root, from, to, copied, stop } = &mut self;
        let place = to.display().to_string();
        let stopped = || StoreError::Stopped { place: place.clone() };
        let dir = to.parent().unwrap_or(root);
        create_dirs(root, dir)?;
        remove_dead_uploads(dir);
        let path = from.path().to_owned();
        let mut input = File::open(&path).map_err(disk("read", &path))?;
        let mut temporary = create_temporary(dir).map_err(disk("write into", dir))?;
        let (mut buffer, mut done) = (vec![0; CHUNK_BYTES], 0);
        loop {
            let next = async {
                tokio::select! {
                    written = from.reaches(done + 1) => written.map_err(|Abandoned| stopped()),
                    () = stop.cancelled() => Err(stopped()),
                }
            };
            if stop.is_cancelled() {
                return Err(stopped());
            }
            let written = runtime.block_on(next)?;
            let read = input.read(&mut buffer).map_err(disk("read", &path))?;
            let piece = buffer.get(..read).unwrap_or_default();
            if piece.is_empty() && written.is_whole {
                break;
            }
            temporary.write_all(piece).map_err(disk("write", to))?;
            done += read as u64;
            copied.fetch_add(read as u64, Ordering::Relaxed);
        }
        temporary.as_file().sync_all().map_err(disk("sync", to))?;
        temporary.persist(&*to).map_err(|e| disk("write", to)(e.error))?;
        sync_dir(dir)
    }
}

/// A temporary file that this process has locked.
fn create_temporary(dir: &Path) -> io::Result<NamedTempFile> {
    loop {
        let mut builder = tempfile::Builder::new();
        let prefix = boot_prefix();
        let file = builder.prefix(&prefix).permissions(Permissions::from_mode(0o644)).tempfile_in(dir)?;
        // A filesystem without locks fails this, and then only the file's age tells whether it is dead.
        let locked = flock(file.as_file(), FlockOperation::NonBlockingLockExclusive);
        // Another publisher may have taken the file for dead before it was locked. Then make another one.
        if locked != Err(rustix::io::Errno::WOULDBLOCK) && is_at(file.as_file(), file.path()) {
            return Ok(file);
        }
    }
}

/// Removes the temporary files of dead publishers. Best effort: what cannot be removed stays.
pub(super) fn remove_dead_uploads(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let own = boot_prefix();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        let is_own = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => name.starts_with(&own),
            Err(rustix::io::Errno::WOULDBLOCK) => continue,
            Err(_) => false,
        };
        let is_old = || {
            let changed = file.metadata().and_then(|it| it.modified());
            changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > DEAD_AFTER))
        };
        // The name may belong to a complete object by now.
        if (is_own || is_old()) && is_at(&file, &path) && fs::remove_file(&path).is_ok() {
            tracing::debug!("{}: removed the temporary file of a publisher that died", path.display());
        }
    }
}

/// `.upload-<id of this boot>-`.
fn boot_prefix() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // Without an id, no file counts as one of this machine.
    let boot = if boot.trim().is_empty() { fastrand::u64(..).to_string() } else { boot.trim().replace('-', "") };
    format!("{PREFIX}{boot}-")
}

/// Whether this file is still at this path.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(mine), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (mine.dev(), mine.ino()) == (there.dev(), there.ino())
}

/// Creates the missing directories between the existing `root` and `dir`, durably.
fn create_dirs(root: &Path, dir: &Path) -> Result<(), StoreError> {
    if dir == root || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(root);
    create_dirs(root, parent)?;
    match fs::create_dir(dir) {
        Ok(()) => sync_dir(parent),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(StoreError::Disk { action: "create", path: dir.to_owned(), source }),
    }
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| StoreError::Disk { action: "sync", path: dir.to_owned(), source })
}
